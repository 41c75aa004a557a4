"""Kill the server anywhere: what was acknowledged is there, what was not leaves no trace."""

from __future__ import annotations

import hashlib
import random
import shutil
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from splitfrozen_server.blobs import BlobStore
from splitfrozen_server.config import ServerConfig
from splitfrozen_server.database.engine import Database
from splitfrozen_server.database.tables import BaseModelRow, DatasetRow
from splitfrozen_server.datasets import insert_dataset, seal_idle
from splitfrozen_server.jobs.results import file_store
from splitfrozen_server.recovery import recover
from tests.server.bodies import Maker
from tests.server.stack import ServerProcess, blob_digests, create_dataset, enrol, put, rows, stored

Serve = Callable[..., ServerProcess]


class Uploader(threading.Thread):
    """Puts shard after shard until the server is gone; remembers what was acknowledged."""

    def __init__(self, server: ServerProcess, token: str, make: Maker, first: int) -> None:
        super().__init__(daemon=True)
        self._client = server.client(token)
        self._make = make
        self._first = first
        self.acknowledged: set[str] = set()

    def run(self) -> None:
        try:
            for seed in range(self._first, self._first + 100_000):
                answer = put(self._client, self._make.dataset, self._make.body(seed))
                assert answer.status_code == 201, answer.text
                self.acknowledged.add(answer.json()["digest"])
        except httpx.TransportError:
            return
        finally:
            self._client.close()


def shard_rows(data_dir: Path) -> set[str]:
    return {row[4] for row in rows(data_dir, ["shards"])["shards"]}


def test_kills_during_uploads_lose_nothing_acknowledged(
    serve: Serve, data_dir: Path, bundle: str
) -> None:
    kill_during_uploads(serve, data_dir, bundle, kills=3, seed=0)


@pytest.mark.long
def test_hundred_kills_during_uploads_lose_nothing_acknowledged(
    serve: Serve, data_dir: Path, bundle: str
) -> None:
    kill_during_uploads(serve, data_dir, bundle, kills=100, seed=1)


def kill_during_uploads(
    serve: Serve, data_dir: Path, bundle: str, *, kills: int, seed: int
) -> None:
    """Four uploaders, SIGKILL at a random moment, restart, compare; again and again."""
    server = serve()
    dataset, token = create_dataset(server, "killed")["id"], enrol(server)["token"]
    acknowledged: set[str] = set()
    moments = random.Random(seed)
    for kill in range(kills):
        threads = [
            Uploader(server, token, Maker(bundle, dataset), (4 * kill + n) * 100_000)
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        while not all(thread.acknowledged for thread in threads):
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.3))
        server.kill()
        for thread in threads:
            thread.join()
            acknowledged |= thread.acknowledged
        server = serve()
        assert not any("LOST" in line for line in server.lines)
        assert acknowledged <= shard_rows(data_dir) == blob_digests(data_dir)
    with server.client() as admin:
        found = admin.get(f"/v1/activation_datasets/{dataset}").json()
    assert found["shards"] == len(shard_rows(data_dir)) and found["examples"] == 4 * found["shards"]
    assert not list((data_dir / "blobs").rglob("*.part"))


def test_restart_keeps_everything(serve: Serve, data_dir: Path, bundle: str) -> None:
    first = serve()
    dataset, token = create_dataset(first, "kept")["id"], enrol(first)["token"]
    body = Maker(bundle, dataset).body(1)
    with first.client(token) as client:
        receipt = put(client, dataset, body).json()
    before = stored(data_dir)
    assert first.stop() == 0
    second = serve()
    assert stored(data_dir) == before
    with second.client(token) as client:
        again = put(client, dataset, body)
        assert (again.status_code, again.json()) == (200, receipt)
        assert client.get(f"/v1/bundles/{bundle}/files/device.onnx").content == b"graph"


def test_upload_in_progress_at_sigterm_is_finished_or_refused(
    serve: Serve, data_dir: Path, bundle: str
) -> None:
    server = serve()
    dataset, token = create_dataset(server, "stopped")["id"], enrol(server)["token"]
    thread = Uploader(server, token, Maker(bundle, dataset), 0)
    thread.start()
    while not thread.acknowledged:
        time.sleep(0.01)
    assert server.stop() == 0
    thread.join()
    assert thread.acknowledged <= shard_rows(data_dir) == blob_digests(data_dir)


def test_recovery_sweeps_leftovers_and_reports_what_is_missing(
    serve: Serve, data_dir: Path, bundle: str
) -> None:
    server = serve()
    dataset, token = create_dataset(server, "swept")["id"], enrol(server)["token"]
    with server.client(token) as client:
        digests = [
            put(client, dataset, Maker(bundle, dataset).body(seed)).json()["digest"]
            for seed in range(3)
        ]
    server.stop()
    blobs = BlobStore(data_dir / "blobs")
    orphan = blobs.put(b"orphan", hashlib.sha256(b"orphan").hexdigest())
    blobs.path(orphan).with_name(orphan + ".1.part").write_bytes(b"half")
    blobs.delete(digests[0])
    (data_dir / "bundles" / ("0" * 64 + ".part")).mkdir()
    config = ServerConfig(data_dir=data_dir)
    part = file_store(config).path(orphan).with_name(orphan + ".1.part")
    part.write_bytes(b"half")
    database = Database(config.database_url)
    found = recover(database, blobs, config)
    again = recover(database, blobs, config)
    database.close()
    assert (found.parts, found.orphans, found.missing) == (3, 1, (digests[0],))
    assert (again.parts, again.orphans, again.returned) == (0, 0, 0)
    assert blob_digests(data_dir) == set(digests[1:]) and not part.exists()
    assert (data_dir / "orphans" / "blobs" / orphan).read_bytes() == b"orphan"
    assert [path.name for path in (data_dir / "bundles").iterdir()] == [bundle]
    assert any("LOST" in line and digests[0] in line for line in serve().lines)


def test_start_with_an_older_database_loses_nothing(
    serve: Serve, data_dir: Path, bundle: str, tmp_path: Path
) -> None:
    """Twice the same mistake, a fresh database, then the right one: everything is back."""
    server = serve()
    dataset, token = create_dataset(server, "restored")["id"], enrol(server)["token"]
    with server.client(token) as client:
        digest = put(client, dataset, Maker(bundle, dataset).body(1)).json()["digest"]
    server.stop()
    right = tmp_path / "right"
    right.mkdir()
    for path in data_dir.glob("splitfrozen.db*"):
        shutil.move(path, right)
    mistaken = serve()
    assert any("WARNING put 2 shards and bundles" in line for line in mistaken.lines)
    mistaken.stop()
    assert blob_digests(data_dir) == set()
    for path in data_dir.glob("splitfrozen.db*"):
        path.unlink()
    for path in right.iterdir():
        shutil.move(path, data_dir)
    again = serve()
    assert blob_digests(data_dir) == {digest}
    with again.client(token) as client:
        assert client.get(f"/v1/bundles/{bundle}/files/device.onnx").content == b"graph"
    assert not any((data_dir / "orphans").rglob("?" * 64))


def test_idle_time_does_not_run_while_the_server_is_down(data_dir: Path) -> None:
    database = Database(f"sqlite:///{data_dir / 'splitfrozen.db'}")

    def add(session: Session) -> None:
        model = session.scalars(select(BaseModelRow)).one()
        row = DatasetRow(tenant_id=model.tenant_id, name="quiet", base_model_id=model.id, cut=2)
        row.task, row.open_labels, row.idle_seal = "causal_lm", False, 60.0
        row.last_shard_at = time.time() - 3600
        insert_dataset(session, row, [])

    database.write_sync(add)
    assert database.write_sync(partial(seal_idle, uptime=59.0)) == []
    assert database.write_sync(partial(seal_idle, uptime=60.0)) == ["quiet"]
    database.close()


def test_server_whose_last_admin_token_was_revoked_makes_another(serve: Serve) -> None:
    first = serve()
    old = first.admin_token
    with first.client() as admin:
        for token in admin.get("/v1/tokens").json()["data"]:
            admin.delete(f"/v1/tokens/{token['id']}")
    first.stop()
    second = serve()
    assert second.admin_token != old and f"Admin token: {second.admin_token}" in second.lines
    with second.client() as admin:
        assert admin.get("/v1/tokens").status_code == 200
