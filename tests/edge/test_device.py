"""The Python API: a device as an app uses it, against a server that speaks the protocol."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from splitfrozen_edge import (
    Bundle,
    DataError,
    Device,
    ManifestError,
    RefusedError,
    StateError,
)
from splitfrozen_edge.data.tokenizer import Tokenizer
from splitfrozen_edge.state import StateDirectory
from tests.edge.protocol_server import ENROL_TOKEN, Fault, ProtocolServer
from tests.edge.tiny_bundle import WIDTH, embedding, write_bundle

ROWS = [{"text": f"the bird {n}", "label": "yes" if n % 2 else "no"} for n in range(40)]


@pytest.fixture
def device(state: StateDirectory) -> Iterator[Device]:
    with Device.open(state.path, threads=1, retry_for=20) as found:
        yield found


def ids(bundle: Path, text: str) -> list[int]:
    return Tokenizer.from_file(bundle / "tokenizer.json").encode(text).ids


def test_a_machine_is_enrolled_once(tmp_path: Path, server: ProtocolServer) -> None:
    with Device.enroll(server.url, ENROL_TOKEN, state_dir=tmp_path, name="app") as device:
        assert device.status()["device"]["name"] == "app"
    with pytest.raises(StateError, match="already enrolled as app"):
        Device.enroll(server.url, ENROL_TOKEN, state_dir=tmp_path)


def test_embedding_gives_every_text_its_tokens_rows_in_order(
    tmp_path: Path, encoder_bundle: Path
) -> None:
    texts = ["the bird", "a", "the red bird sat in the barn " * 3, "snail"]
    with Device.open(tmp_path / "never-enrolled", threads=1) as device:
        found = device.embed(iter(texts), bundle=encoder_bundle)
        again = device.embed(texts)  # the bundle that was used last
    for text, rows, same in zip(texts, found, again, strict=True):
        assert rows.dtype == np.float32
        whole = ids(encoder_bundle, text)
        expected = whole if len(whole) <= 32 else [*whole[:31], whole[-1]]  # [SEP] stays
        np.testing.assert_array_equal(rows, embedding()[expected])
        np.testing.assert_array_equal(rows, same)
    assert found[2].shape == (32, WIDTH)  # the bundle's max_length


def test_texts_that_give_nothing_are_named(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "gpt2", family="gpt2")
    with Device.open(tmp_path / "state") as device:
        with pytest.raises(DataError, match="2 rows cannot be used") as caught:
            device.embed(["a", "", "b", "\ud800"], bundle=bundle)
        assert device.embed([], bundle=bundle) == []
    assert "text:2: gives no tokens" in str(caught.value)
    assert "text:4: has half of a surrogate pair" in str(caught.value)


def test_one_string_is_no_list_of_texts(device: Device) -> None:
    for call in (
        lambda: device.embed("a text"),
        lambda: device.predict("a text", model="ft:x"),
        lambda: device.push(cast(Any, "a text"), dataset="d"),
        lambda: device.generate("a text", model="m", stop="end"),
    ):
        with pytest.raises(DataError, match=r"give a list of (texts|rows), not one string"):
            call()
    with pytest.raises(DataError, match="max_tokens must be at least 1"):
        device.generate("a text", model="m", max_tokens=0)


def test_a_device_without_bundle_or_enrolment_says_what_is_missing(tmp_path: Path) -> None:
    with Device.open(tmp_path) as device:
        with pytest.raises(StateError, match="say bundle="):
            device.embed(["a"])
        with pytest.raises(StateError, match="was never enrolled: call"):
            device.predict(["a"], model="ft:x")
        with pytest.raises(StateError, match="was never enrolled: call"):
            device.bundle("0" * 64)


def test_an_iterator_is_pushed_exactly_once(
    device: Device, server: ProtocolServer, encoder_bundle: Path
) -> None:
    first = device.push(iter(ROWS[:30]), dataset="d", bundle=encoder_bundle)
    second = device.push(ROWS, dataset="d")
    assert (first.examples, first.uploaded_examples) == (30, 30)
    assert (second.rows, second.skipped, second.examples) == (40, 30, 10)
    assert len(server.example_ids(first.dataset_id)) == 40
    assert device.status()["datasets"][0]["done_examples"] == 40


def test_pushes_of_several_threads_take_turns(
    device: Device, server: ProtocolServer, encoder_bundle: Path
) -> None:
    bundle = device.bundle(encoder_bundle)

    def push(name: str) -> int:
        return device.push(ROWS[:10], dataset=name, bundle=bundle).uploaded_examples

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(push, "abcd")) == [10] * 4


def test_many_threads_share_one_model(device: Device, encoder_bundle: Path) -> None:
    def work(n: int) -> bool:
        text = f"{'the bird ' * (n % 5 + 1)}"
        (rows,) = device.embed([text], bundle=encoder_bundle)
        (label,) = device.predict([text], model="ft:x", bundle=encoder_bundle)
        return bool((rows == embedding()[ids(encoder_bundle, text)]).all()) and bool(label.label)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(60)))


def test_predictions_belong_to_their_texts(device: Device, encoder_bundle: Path) -> None:
    device.embed(["a"], bundle=encoder_bundle)
    texts = [letter for letter in "abcdefghij"]
    found = device.predict(iter(texts), model="ft:x")
    expected = ["yes" if embedding()[ids(encoder_bundle, t)[1], 0] > 0 else "no" for t in texts]
    assert [item.label for item in found] == expected
    assert found[0].scores == {"no": 0.25, "yes": 0.75}


def test_a_model_that_continues_another_cut_now_is_looked_up_again(
    device: Device, server: ProtocolServer, encoder_bundle: Path
) -> None:
    device.embed(["a"], bundle=encoder_bundle)
    device.predict(["a"], model="ft:x")
    server.script("POST", Fault("refuse", status=409, code="dataset_mismatch"))
    before = len([seen for seen in server.requests if "/v1/models/" in seen.path])
    assert len(device.predict(["a"], model="ft:x")) == 1
    assert len([seen for seen in server.requests if "/v1/models/" in seen.path]) == before + 1


def test_what_a_dead_server_does_not_take_waits_in_the_outbox(
    state: StateDirectory, server: ProtocolServer, encoder_bundle: Path
) -> None:
    with Device.open(state.path, retry_for=0) as device:
        server.script("PUT", Fault("before"), Fault("before"), Fault("before"))
        with pytest.raises(RefusedError):
            device.push(ROWS, dataset="d", bundle=encoder_bundle)
        shards, examples, size = device.outbox.waiting()
        assert (shards, examples) == (1, 40)
        assert size > 0
        assert [item.queued_examples for item in device.outbox.datasets()] == [40]


def test_what_waits_can_be_dropped_and_is_computed_again(
    state: StateDirectory, server: ProtocolServer, encoder_bundle: Path
) -> None:
    with Device.open(state.path, retry_for=0) as device:
        server.script("PUT", Fault("before"), Fault("before"), Fault("before"))
        with pytest.raises(RefusedError):
            device.push(ROWS, dataset="d", bundle=encoder_bundle)
        assert device.outbox.drop("d") == 40
        assert device.outbox.waiting() == (0, 0, 0)
        with pytest.raises(StateError, match="has not pushed to a dataset other"):
            device.outbox.drop("other")
        server.faults.clear()
        assert device.push(ROWS, dataset="d").examples == 40


def test_warnings_go_to_the_logger(
    device: Device, encoder_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"text": "bird " * 99, "label": "yes"}]
    with caplog.at_level(logging.WARNING, "splitfrozen_edge"):
        device.push(rows, dataset="d", bundle=encoder_bundle)
    assert "truncated" in caplog.text


def test_closing_ends_the_waiting_of_other_threads(
    state: StateDirectory, server: ProtocolServer, encoder_bundle: Path
) -> None:
    device = Device.open(state.path, retry_for=1e6)
    errors: list[BaseException] = []
    refused = Fault("refuse", status=503, code="unavailable", retry_after="1000")
    server.script("POST", *[refused] * 3)

    def ask() -> None:
        try:
            device.predict(["a"], model="ft:x", bundle=encoder_bundle)
        except StateError as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while not any(seen.method == "POST" for seen in server.requests):
        pass
    device.close()
    thread.join(60)
    assert [str(error) for error in errors] == ["this device is closed"]
    with pytest.raises(StateError, match="closed"):
        device.predict(["a"], model="ft:x", bundle=encoder_bundle)
    with pytest.raises(StateError, match="closed"):
        device.embed(["a"], bundle=encoder_bundle)


def test_a_bundle_says_what_it_is_and_notices_a_changed_byte(
    tmp_path: Path, encoder_bundle: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(encoder_bundle, copy)
    bundle = Bundle.open(str(copy))
    assert (bundle.base_model, bundle.cut, bundle.hidden_size) == ("tiny", 2, WIDTH)
    assert (bundle.precision, bundle.max_length, len(bundle.id)) == ("fp32", 32, 64)
    bundle.verify()
    path = copy / "tokenizer.json"
    path.write_bytes(path.read_bytes().replace(b"a", b"b", 1))
    with pytest.raises(ManifestError, match=r"tokenizer\.json"):
        bundle.verify()
    with pytest.raises(ManifestError, match="is no bundle"):
        Bundle.open(tmp_path)


def test_a_bundle_of_another_place_is_downloaded_by_its_id(
    device: Device, encoder_bundle: Path
) -> None:
    wanted = Bundle.open(encoder_bundle).id
    found = device.bundle(wanted)
    assert found.id == wanted
    assert found.directory != encoder_bundle
    assert device.bundle(wanted) is found


def test_bad_rows_are_reported_and_skipped_or_end_the_push(
    device: Device, server: ProtocolServer, encoder_bundle: Path
) -> None:
    rows = [{"text": "a bird", "label": "yes"}, {"text": "", "label": "yes"}, {"text": 7}]
    told: list[DataError] = []
    report = device.push(rows, dataset="d", bundle=encoder_bundle, on_bad_row=told.append)
    assert (report.uploaded_examples, len(told)) == (1, 2)
    assert "text: is empty" in str(told[0])
    with pytest.raises(DataError, match="text: is empty"):
        device.push(rows, dataset="e", bundle=encoder_bundle)
    (other,) = (known for known, item in server.datasets.items() if item["name"] == "e")
    assert len(server.example_ids(other)) == 1
