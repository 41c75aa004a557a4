"""Bundles: downloads that break and continue, and what is never loaded."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from splitfrozen import read_bundle
from splitfrozen.errors import ManifestError, RefusedError
from splitfrozen_edge.http.client import Client
from splitfrozen_edge.model.bundles import BundleStore, download
from splitfrozen_edge.state import StateDirectory, StateError
from tests.edge.protocol_server import Fault, ProtocolServer
from tests.edge.tiny_bundle import embedding, write_bundle


@pytest.fixture
def store(state: StateDirectory, client: Client) -> Iterator[BundleStore]:
    outbox = state.outbox()
    yield BundleStore(state, outbox, client)
    outbox.close()


def test_a_download_is_the_published_bundle(
    tmp_path: Path, client: Client, encoder_bundle: Path
) -> None:
    wanted = read_bundle(encoder_bundle).id
    download(client, wanted, tmp_path / "got")
    assert read_bundle(tmp_path / "got").id == wanted
    assert sorted(path.name for path in tmp_path.iterdir()) == ["got"]


def test_a_broken_download_continues_where_it_stopped(
    tmp_path: Path, client: Client, server: ProtocolServer, encoder_bundle: Path
) -> None:
    wanted = read_bundle(encoder_bundle).id
    server.script(
        "GET", Fault("after"), Fault("before"), Fault("refuse", 503), *[Fault("after")] * 9
    )
    download(client, wanted, tmp_path / "got")
    assert read_bundle(tmp_path / "got").id == wanted
    assert any("range" in seen.headers for seen in server.requests)


def test_a_damaged_part_is_fetched_again(
    tmp_path: Path, client: Client, encoder_bundle: Path
) -> None:
    wanted = read_bundle(encoder_bundle).id
    part = tmp_path / f".{wanted}.part"
    part.mkdir()
    (part / "device.onnx.data").write_bytes(b"\xff" * 100)
    (part / "device.onnx").write_bytes(b"x" * 10_000_000)
    download(client, wanted, tmp_path / "got")
    assert read_bundle(tmp_path / "got").id == wanted


def test_a_download_that_starts_again_and_again_ends(
    tmp_path: Path, client: Client, server: ProtocolServer, encoder_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A server that knows no ranges sends the same half each time."""
    whole = ProtocolServer._file
    monkeypatch.setattr(
        ProtocolServer, "_file", lambda self, b, name, wanted: whole(self, b, name, None)
    )
    server.script("GET", *[Fault("after")] * 1000)
    with pytest.raises(RefusedError, match="cannot reach"):
        download(client, read_bundle(encoder_bundle).id, tmp_path / "got")


def test_a_server_that_lies_is_found_out(
    tmp_path: Path, client: Client, server: ProtocolServer, encoder_bundle: Path
) -> None:
    wanted = read_bundle(encoder_bundle).id
    lying = tmp_path / "lying"
    shutil.copytree(encoder_bundle, lying)
    data = bytearray((lying / "device.onnx").read_bytes())
    data[-1] ^= 1
    (lying / "device.onnx").write_bytes(data)
    server.bundles[wanted] = lying
    with pytest.raises(ManifestError) as caught:
        download(client, wanted, tmp_path / "got")
    assert caught.value.code == "hash_mismatch"
    (lying / "device.onnx").write_bytes(bytes(data) + b"more")
    with pytest.raises(ManifestError, match="longer than"):
        download(client, wanted, tmp_path / "got")
    (lying / "splitfrozen.json").write_text("{}")
    with pytest.raises(ManifestError, match="manifest is not that of"):
        download(client, wanted, tmp_path / "got")
    assert not (tmp_path / "got").exists()


def test_a_published_id_is_downloaded_once(
    store: BundleStore, server: ProtocolServer, encoder_bundle: Path
) -> None:
    wanted = read_bundle(encoder_bundle).id
    assert store.open(wanted).id == wanted
    server.requests.clear()
    assert store.open(wanted).id == wanted
    assert server.requests == []


def test_replaced_downloads_do_not_fill_the_disk(
    tmp_path: Path, state: StateDirectory, client: Client, server: ProtocolServer
) -> None:
    outbox = state.outbox()
    store = BundleStore(state, outbox, client)
    made = []
    for number in range(6):
        bundle = write_bundle(tmp_path / str(number), table=embedding(seed=number))
        made.append(server.publish(bundle))
        store.open(made[-1])
        if number == 0:
            outbox.remember_dataset("ds", "reviews", made[0])
    assert {path.name for path in state.bundles.glob("[!.]*")} == {made[0], *made[-3:]}
    assert store.open(made[1]).id == made[1]  # fetched again
    outbox.close()


def test_the_servers_bundles_are_found_by_base_and_cut(
    store: BundleStore, decoder_bundle: Path, encoder_bundle: Path
) -> None:
    newest = read_bundle(decoder_bundle).id
    assert store.find("tiny", 2).id == newest
    here = store.open(str(encoder_bundle)).id
    assert store.find("tiny", 2).id == here
    with pytest.raises(StateError, match="no bundle of tiny with cut 3"):
        store.find("tiny", 3)


def test_a_bundle_that_was_damaged_on_disk_is_not_loaded(
    store: BundleStore, tmp_path: Path
) -> None:
    directory = write_bundle(tmp_path / "bundle")
    store.open(str(directory))
    with (directory / "device.onnx.data").open("r+b") as stream:
        stream.seek(50)
        stream.write(b"\x00\x01\x02\x03")
    with pytest.raises(ManifestError, match="SHA-256"):
        store.last_used()


def test_a_damaged_download_is_fetched_again(
    store: BundleStore, state: StateDirectory, encoder_bundle: Path
) -> None:
    wanted = read_bundle(encoder_bundle).id
    store.open(wanted)
    (state.bundles / wanted / "tokenizer.json").write_text("{}")
    assert store.open(wanted).id == wanted
    assert read_bundle(state.bundles / wanted).id == wanted


@pytest.mark.parametrize("wanted", ["nowhere", "0" * 63, "../x"])
def test_what_is_neither_directory_nor_id_is_refused(store: BundleStore, wanted: str) -> None:
    with pytest.raises(StateError, match="neither a directory nor a bundle id"):
        store.open(wanted)


def test_an_unpublished_id_is_refused_by_the_server(store: BundleStore) -> None:
    with pytest.raises(RefusedError, match="no bundle"):
        store.open("0" * 64)
