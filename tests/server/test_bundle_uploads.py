"""Publishing over HTTP: file by file, resumable, and nothing is visible before it is whole."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import resource
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from splitfrozen.errors import CODES, RefusedError
from splitfrozen.manifest import FileEntry, parse_manifest
from splitfrozen_server import publishing
from splitfrozen_server.bundle_uploads import finish_upload
from splitfrozen_server.config import ServerConfig
from splitfrozen_server.database.tables import DEFAULT_TENANT
from splitfrozen_server.disk_room import DiskRoom
from splitfrozen_server.incoming import STALE, Incoming
from splitfrozen_server.recovery import recover
from splitfrozen_server.services import open_services
from tests.server.conftest import FILES
from tests.server.stack import ServerProcess, enrol, stored

WriteBundle = Callable[..., str]
Serve = Callable[..., ServerProcess]


@pytest.fixture(scope="module")
def server(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server whose list of bundles no other test looks at."""
    copy = Path(shutil.copytree(prepared, tmp_path_factory.mktemp("uploads") / "state"))
    running = ServerProcess(copy)
    yield running
    assert running.stop() == 0


@pytest.fixture(autouse=True)
def no_upload_stays_open(request: pytest.FixtureRequest) -> Iterator[None]:
    """Only some may be open at once."""
    yield
    if "server" in request.fixturenames:
        running: ServerProcess = request.getfixturevalue("server")
        with running.client() as admin:
            for place in (running.data_dir / "incoming").glob("default.*"):
                admin.delete(f"/v1/bundles/{place.suffix[1:]}/upload")


@pytest.fixture
def fresh(tmp_path: Path, write_bundle: WriteBundle) -> Path:
    """A bundle of the registered model that no server has."""
    write_bundle(tmp_path / "fresh", opset=20, tools={"test": tmp_path.name})
    return tmp_path / "fresh"


def id_of(directory: Path) -> str:
    return hashlib.sha256((directory / "splitfrozen.json").read_bytes()).hexdigest()


def put(admin: httpx.Client, directory: Path, name: str, **options: Any) -> httpx.Response:
    content = options.pop("content", None) or (directory / name).read_bytes()
    url = f"/v1/bundles/{options.pop('bundle', id_of(directory))}/files/{name}"
    return admin.put(url, content=content, **options)


def finish(admin: httpx.Client, directory: Path) -> httpx.Response:
    return admin.post(f"/v1/bundles/{id_of(directory)}/publish")


def upload(admin: httpx.Client, directory: Path) -> httpx.Response:
    """The whole way; the answer of its end."""
    missing = put(admin, directory, "splitfrozen.json").json()["missing"]
    for name in missing:
        assert put(admin, directory, name).status_code == 201
    return finish(admin, directory)


def refused(answer: httpx.Response, code: str) -> str:
    body = answer.json()
    assert (answer.status_code, body["error"]["code"]) == (CODES[code].status, code), body
    message: str = body["error"]["message"]
    return message


def everything(data_dir: Path) -> tuple[Any, list[Path]]:
    places = (data_dir / "bundles", data_dir / "incoming")
    return stored(data_dir), sorted(path for place in places for path in place.rglob("*"))


def test_an_uploaded_bundle_is_published_byte_for_byte(server: ServerProcess, fresh: Path) -> None:
    with server.client() as admin:
        begun = put(admin, fresh, "splitfrozen.json")
        assert (begun.status_code, begun.json()["missing"]) == (201, sorted(FILES))
        answer = upload(admin, fresh)
        assert (answer.status_code, answer.json()["id"]) == (201, id_of(fresh))
        assert answer.json()["base_model"] == "tiny"
        for path in fresh.iterdir():
            got = admin.get(f"/v1/bundles/{id_of(fresh)}/files/{path.name}")
            assert got.content == path.read_bytes(), path.name
    place = server.data_dir / "bundles" / id_of(fresh)
    assert sorted(path.name for path in place.iterdir()) == sorted([*FILES, "splitfrozen.json"])
    assert not (server.data_dir / "incoming" / f"default.{id_of(fresh)}").exists()


def test_every_step_may_be_repeated_after_the_end(server: ServerProcess, fresh: Path) -> None:
    with server.client() as admin:
        assert upload(admin, fresh).status_code == 201
        before = everything(server.data_dir)
        again = put(admin, fresh, "splitfrozen.json")
        assert (again.status_code, again.json()["published"]) == (200, True)
        assert again.json()["missing"] == []
        assert put(admin, fresh, "device.onnx").status_code == 200
        assert finish(admin, fresh).status_code == 200
    assert everything(server.data_dir) == before


def test_nothing_is_visible_before_the_end(server: ServerProcess, fresh: Path) -> None:
    wanted = id_of(fresh)
    with server.client() as admin:
        put(admin, fresh, "splitfrozen.json")
        put(admin, fresh, "device.onnx")
        assert wanted not in {row["id"] for row in admin.get("/v1/bundles").json()["data"]}
        refused(admin.get(f"/v1/bundles/{wanted}"), "not_found")
        refused(admin.get(f"/v1/bundles/{wanted}/files/device.onnx"), "not_found")
        message = refused(finish(admin, fresh), "missing_file")
        assert "device.onnx.data" in message and "tokenizer.json" in message
        assert admin.delete(f"/v1/bundles/{wanted}/upload").json()["deleted"] is True
        refused(finish(admin, fresh), "not_found")
        refused(admin.delete(f"/v1/bundles/{wanted}/upload"), "not_found")


def test_only_an_admin_uploads(server: ServerProcess, fresh: Path) -> None:
    before = everything(server.data_dir)
    with server.client(enrol(server)["token"]) as device:
        refused(put(device, fresh, "splitfrozen.json"), "forbidden")
        refused(finish(device, fresh), "forbidden")
    with server.client("") as nobody:
        refused(put(nobody, fresh, "splitfrozen.json"), "unauthorized")
    assert everything(server.data_dir)[1] == before[1]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"prefix_digest": "f" * 64}, "base_model_mismatch"),
        ({"family": "llama"}, "base_model_mismatch"),
        ({"files": {"device.onnx": FileEntry("0" * 64, 1 << 50)}}, "too_large"),
        ({"cut": 9}, "bad_manifest"),
    ],
)
def test_what_would_be_refused_at_the_end_is_refused_at_the_manifest(
    server: ServerProcess,
    tmp_path: Path,
    write_bundle: WriteBundle,
    changes: dict[str, Any],
    code: str,
) -> None:
    write_bundle(tmp_path / "b", **changes)
    before = everything(server.data_dir)
    with server.client() as admin:
        refused(put(admin, tmp_path / "b", "splitfrozen.json"), code)
    assert everything(server.data_dir) == before


def test_an_upload_that_would_not_fit_is_refused_at_the_manifest(serve: Serve, fresh: Path) -> None:
    running = serve("--keep-free", str(1 << 40))  # MiB: more than any disk has
    with running.client() as admin:
        message = refused(put(admin, fresh, "splitfrozen.json"), "insufficient_storage")
    assert str(sum(map(len, FILES.values()))) in message
    assert not any((running.data_dir / "incoming").rglob("*"))


def test_manifest_that_does_not_hash_to_the_id_is_refused(
    server: ServerProcess, fresh: Path
) -> None:
    with server.client() as admin:
        refused(put(admin, fresh, "splitfrozen.json", bundle="0" * 64), "digest_mismatch")


@pytest.mark.parametrize("name", ["foreign.bin", "splitfrozen.sig", "..%2F..%2Fadmin.token"])
def test_a_file_that_the_manifest_lacks_is_refused(
    server: ServerProcess, fresh: Path, name: str
) -> None:
    with server.client() as admin:
        put(admin, fresh, "splitfrozen.json")
        refused(put(admin, fresh, name, content=b"x"), "not_found")


def test_a_file_before_its_manifest_is_refused(server: ServerProcess, fresh: Path) -> None:
    with server.client() as admin:
        assert "manifest first" in refused(put(admin, fresh, "device.onnx"), "not_found")


def pieces(content: bytes) -> Iterator[bytes]:
    yield content  # without a Content-Length, in chunks


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"grapf", "hash_mismatch"),
        (b"grap", "hash_mismatch"),
        (b"graphs", "hash_mismatch"),
        (b"", "hash_mismatch"),
        (pieces(b"grap"), "hash_mismatch"),
        (pieces(b"graphs"), "too_large"),
    ],
)
def test_a_file_of_other_bytes_is_refused_and_leaves_nothing(
    server: ServerProcess, fresh: Path, content: Any, code: str
) -> None:
    url = f"/v1/bundles/{id_of(fresh)}/files/device.onnx"
    with server.client() as admin:
        put(admin, fresh, "splitfrozen.json")
        before = everything(server.data_dir)
        refused(admin.put(url, content=content), code)
    assert everything(server.data_dir) == before


def test_a_compressed_file_is_refused(server: ServerProcess, fresh: Path) -> None:
    with server.client() as admin:
        put(admin, fresh, "splitfrozen.json")
        answer = put(admin, fresh, "device.onnx", headers={"Content-Encoding": "gzip"})
        refused(answer, "bad_encoding")


def half_a_file(server: ServerProcess, directory: Path, name: str) -> None:
    """Send half of a file and leave, as a killed client does."""
    content = (directory / name).read_bytes()
    address = httpx.URL(server.url)
    with socket.create_connection((address.host, address.port)) as line:
        head = (
            f"PUT /v1/bundles/{id_of(directory)}/files/{name} HTTP/1.1\r\nHost: x\r\n"
            f"Authorization: Bearer {server.admin_token}\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        line.sendall(head.encode() + content[: len(content) // 2])
        wait_until(lambda: any((server.data_dir / "incoming").glob("*.part")))


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_broken_upload_leaves_no_part_and_keeps_what_was_finished(
    server: ServerProcess, fresh: Path
) -> None:
    with server.client() as admin:
        put(admin, fresh, "splitfrozen.json")
        put(admin, fresh, "tokenizer.json")
        half_a_file(server, fresh, "device.onnx.data")
        wait_until(lambda: not any((server.data_dir / "incoming").glob("*.part")))
        missing = put(admin, fresh, "splitfrozen.json").json()["missing"]
        assert missing == ["device.onnx", "device.onnx.data"]
        assert upload(admin, fresh).status_code == 201


def test_finished_files_survive_a_kill_of_the_server_and_halves_do_not(
    serve: Serve, data_dir: Path, fresh: Path
) -> None:
    running = serve()
    with running.client() as admin:
        put(admin, fresh, "splitfrozen.json")
        put(admin, fresh, "device.onnx.data")
    (data_dir / "incoming" / "0123.part").write_bytes(b"half")
    running.kill()
    again = serve()
    assert not (data_dir / "incoming" / "0123.part").exists()
    with again.client() as admin:
        assert put(admin, fresh, "splitfrozen.json").json()["missing"] == [
            "device.onnx",
            "tokenizer.json",
        ]
        assert upload(admin, fresh).status_code == 201


def test_an_upload_that_nobody_touched_for_a_day_is_dropped_at_the_next_start(
    serve: Serve, data_dir: Path, fresh: Path
) -> None:
    running = serve()
    with running.client() as admin:
        put(admin, fresh, "splitfrozen.json")
    running.stop()
    (place,) = (data_dir / "incoming").iterdir()
    old = time.time() - STALE - 60
    os.utime(place, (old, old))
    serve()
    assert not place.exists()


def test_a_finished_file_that_the_disk_spoiled_is_not_published(
    server: ServerProcess, fresh: Path
) -> None:
    with server.client() as admin:
        for name in ["splitfrozen.json", *FILES]:
            put(admin, fresh, name)
        spoiled = server.data_dir / "incoming" / f"default.{id_of(fresh)}" / "device.onnx"
        spoiled.write_bytes(b"grapf")
        message = refused(finish(admin, fresh), "hash_mismatch")
        assert "device.onnx has" in message and str(server.data_dir) not in message
        refused(admin.get(f"/v1/bundles/{id_of(fresh)}"), "not_found")
        missing = put(admin, fresh, "splitfrozen.json").json()["missing"]
        assert missing == ["device.onnx"]  # and no other file is sent again
        assert upload(admin, fresh).status_code == 201


async def publish_staged(config: ServerConfig, bundle: str) -> str:
    """Publish as the server does, in this process."""
    services = open_services(config)
    try:
        return (await finish_upload(services, DEFAULT_TENANT, bundle))[0].id
    finally:
        await services.close()


@pytest.mark.parametrize("step", ["_flush", "find_base", "_put_in_place", "_insert"])
def test_a_publish_that_fails_or_is_killed_anywhere_has_no_file_sent_again(
    data_dir: Path, fresh: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The exception stands in for a kill: it passes nothing that a kill would not; then a start."""
    config = ServerConfig(data_dir=data_dir)
    raw = (fresh / "splitfrozen.json").read_bytes()
    manifest = parse_manifest(raw)
    incoming = Incoming(config.incoming_dir)
    staged = incoming.begin(DEFAULT_TENANT, id_of(fresh), raw, manifest)
    for name in FILES:
        shutil.copyfile(fresh / name, staged.directory / name)

    def killed(*_: object) -> None:
        raise KeyError(step)

    with monkeypatch.context() as patch, pytest.raises(KeyError, match=step):
        patch.setattr(publishing, step, killed)
        if step != "_insert":  # else the rest of a copy would stay behind
            patch.setattr(publishing.shutil, "rmtree", lambda *_, **__: None)
        asyncio.run(publish_staged(config, id_of(fresh)))
    for _ in range(2):
        services = open_services(config)
        recover(services.database, services.blobs, config)
        asyncio.run(services.close())
    found = incoming.find(DEFAULT_TENANT, id_of(fresh))
    assert found is not None and found.missing() == []
    assert asyncio.run(publish_staged(config, id_of(fresh))) == id_of(fresh)
    assert not any(config.incoming_dir.iterdir())
    assert not any(config.bundle_dir.glob("*.part"))


def test_a_start_ends_an_upload_whose_bundle_is_published(data_dir: Path, bundle: str) -> None:
    config = ServerConfig(data_dir=data_dir)
    raw = (config.bundle_dir / bundle / "splitfrozen.json").read_bytes()
    Incoming(config.incoming_dir).begin(DEFAULT_TENANT, bundle, raw, parse_manifest(raw))
    services = open_services(config)
    recover(services.database, services.blobs, config)
    asyncio.run(services.close())
    assert not any(config.incoming_dir.iterdir())


def test_a_file_that_is_there_is_compared_and_not_written_again(tmp_path: Path) -> None:
    incoming = Incoming(tmp_path)
    entry = FileEntry(hashlib.sha256(b"graph").hexdigest(), 5)
    with incoming.compare(entry) as body:
        body.write(b"graph")
        body.keep(tmp_path / "device.onnx")
    assert not any(tmp_path.iterdir())
    with incoming.compare(entry) as body, pytest.raises(RefusedError, match="SHA-256"):
        body.write(b"grapf")
        body.keep(tmp_path / "device.onnx")


def test_bodies_at_once_are_not_promised_the_same_room(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    room = DiskRoom(tmp_path, keep_free=0)
    with room.promise(free * 2 // 3) as wrote:
        with pytest.raises(RefusedError) as full, room.promise(free * 2 // 3):
            pass
        assert full.value.code == "insufficient_storage"
        wrote(free * 2 // 3)  # now the disk itself counts them
        with room.promise(free // 3):
            pass
    with room.promise(free // 3):
        pass


def test_only_some_uploads_are_open_at_once(
    server: ServerProcess, tmp_path: Path, write_bundle: WriteBundle
) -> None:
    with server.client() as admin:
        for number in range(9):
            write_bundle(tmp_path / str(number), tools={"n": f"{tmp_path} {number}"})
            answer = put(admin, tmp_path / str(number), "splitfrozen.json")
            assert number == 8 or answer.status_code == 201
        refused(answer, "rate_limited")


def test_a_full_disk_is_a_refusal_and_leaves_nothing(tmp_path: Path) -> None:
    """The limit on file sizes stands in for the end of the disk: the same error path."""
    script = (
        "import signal, sys\n"
        "from pathlib import Path\n"
        "from splitfrozen.errors import RefusedError\n"
        "from splitfrozen.manifest import FileEntry\n"
        "from splitfrozen_server.incoming import Incoming\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "incoming = Incoming(Path(sys.argv[1]))\n"
        "try:\n"
        "    with incoming.receive(FileEntry('0' * 64, 1 << 20)) as body:\n"
        "        body.write(bytes(1 << 20))\n"
        "except RefusedError as error:\n"
        "    print(error.code, list(incoming.root.iterdir()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "incoming")],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
    )
    assert done.stdout.split(None, 1) == ["insufficient_storage", "[]\n"], done.stderr


def test_a_large_file_never_lies_in_the_server_s_memory(
    serve: Serve, data_dir: Path, tmp_path: Path, write_bundle: WriteBundle
) -> None:
    size = 192 << 20
    piece = os.urandom(1 << 20)
    state = hashlib.sha256()
    for _ in range(size >> 20):
        state.update(piece)
    entry = FileEntry(state.hexdigest(), size)
    write_bundle(tmp_path / "large", files={"device.onnx.data": entry})
    running = serve()
    with running.client() as admin:
        put(admin, tmp_path / "large", "splitfrozen.json")
        before = peak(running)
        url = f"/v1/bundles/{id_of(tmp_path / 'large')}/files/device.onnx.data"
        answer = admin.put(url, content=(piece for _ in range(size >> 20)))
        assert answer.status_code == 201, answer.text
        assert peak(running) - before < 32 << 20


def peak(server: ServerProcess) -> int:
    """Largest resident size of the server so far, bytes."""
    text = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) << 10


def test_the_server_s_key_signs_every_bundle_and_stays_the_same(
    serve: Serve, data_dir: Path, bundle: str
) -> None:
    keys, signatures = [], []
    for _ in range(2):
        running = serve()
        with running.client() as admin:
            keys.append(admin.get("/version").json()["bundle_key"])
            signatures.append(admin.get(f"/v1/bundles/{bundle}/files/splitfrozen.sig").json())
            manifest = admin.get(f"/v1/bundles/{bundle}/files/splitfrozen.json").content
        running.stop()
    assert keys[0] == keys[1] == signatures[0]["key"] and signatures[0] == signatures[1]
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(keys[0]))
    key.verify(bytes.fromhex(signatures[0]["signature"]), manifest)
    with pytest.raises(InvalidSignature):
        key.verify(bytes.fromhex(signatures[0]["signature"]), manifest + b" ")
    assert (data_dir / "bundle.key").stat().st_mode & 0o777 == 0o600


def test_a_damaged_key_file_stops_the_start_instead_of_becoming_another_key(
    data_dir: Path,
) -> None:
    (data_dir / "bundle.key").write_text("lost\n")
    with pytest.raises(RuntimeError, match="put the file back"):
        ServerProcess(data_dir)


def test_json_of_an_upload_is_in_the_api_document(server: ServerProcess) -> None:
    document = httpx.get(f"{server.url}/openapi.json").json()
    assert "put" in document["paths"]["/v1/bundles/{bundle_id}/files/{name}"]
    assert json.dumps(document).count("BundleUpload") > 1


def test_uploads_of_the_same_file_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    incoming = Incoming(tmp_path)
    entry = FileEntry(hashlib.sha256(b"graph").hexdigest(), 5)
    with incoming.receive(entry) as first, incoming.receive(entry) as second:
        first.write(b"gra")
        second.write(b"graph")
        second.keep(tmp_path / "device.onnx")
        first.write(b"ph")
        first.keep(tmp_path / "device.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["device.onnx"]
    assert (tmp_path / "device.onnx").read_bytes() == b"graph"


@pytest.mark.long
def test_kills_at_any_moment_of_an_upload_show_a_whole_bundle_or_none(
    serve: Serve, data_dir: Path, tmp_path: Path, write_bundle: WriteBundle
) -> None:
    """A client that uploads bundle after bundle; SIGKILL at a random moment; restart; look."""
    moments = random.Random(0)
    directories: list[Path] = []
    for _ in range(6):
        running = serve()
        stop = threading.Timer(moments.uniform(0.02, 0.4), running.kill)
        with running.client() as admin:
            stop.start()
            try:
                while True:
                    directory = tmp_path / str(len(directories))
                    write_bundle(directory, opset=20, tools={"number": str(len(directories))})
                    directories.append(directory)
                    assert upload(admin, directory).status_code == 201
            except httpx.TransportError:
                stop.join()
        again = serve()
        with again.client() as admin:
            listed = {row["id"] for row in admin.get("/v1/bundles").json()["data"]}
            for directory in directories:
                if id_of(directory) in listed:
                    for path in directory.iterdir():
                        url = f"/v1/bundles/{id_of(directory)}/files/{path.name}"
                        assert admin.get(url).content == path.read_bytes()
            assert len(listed) >= len(directories)  # the prepared one, and all but the last
            assert upload(admin, directories[-1]).status_code in (200, 201)  # it continues
        assert not list((data_dir / "incoming").iterdir())
        again.stop()
