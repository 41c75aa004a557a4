"""Erasing a device's data: every copy goes, nobody else's does, a crash stops nothing."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.bodies import Maker
from tests.server.conftest import Corner
from tests.server.dying_server import POINTS
from tests.server.stack import (
    ServerProcess,
    blob_digests,
    create_dataset,
    enrol,
    put,
    rows,
    run_command,
)

Serve = Callable[..., ServerProcess]
ROOT = Path(__file__).resolve().parents[2]


def push(server: ServerProcess, token: str, make: Maker, *seeds: int) -> set[str]:
    """Put shards; returns their digests."""
    with server.client(token) as client:
        for seed in seeds:
            assert put(client, make.dataset, make.body(seed)).status_code == 201
    return {hashlib.sha256(make.body(seed)).hexdigest() for seed in seeds}


def erase(server: ServerProcess, token: str, **query: str) -> dict[str, Any]:
    with server.client(token) as client:
        answer = client.delete("/v1/devices/self/data", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def get_dataset(server: ServerProcess, dataset: str) -> dict[str, Any]:
    with server.client() as admin:
        found: dict[str, Any] = admin.get(f"/v1/activation_datasets/{dataset}").json()
    return found


def write(data_dir: Path, statement: str, *values: object) -> None:
    """Change a row of a server that is stopped or idle."""
    connection = sqlite3.connect(data_dir / "splitfrozen.db", timeout=30)
    with connection:
        connection.execute(statement, values)
    connection.close()


def every_copy(data_dir: Path, digests: set[str]) -> list[Path]:
    """Files anywhere under the data directory that carry one of these names."""
    return [path for path in data_dir.rglob("*") if path.name[:64] in digests]


def test_erasure_takes_the_devices_rows_blobs_and_counts_and_nothing_else(
    server: ServerProcess, corner: Corner
) -> None:
    mine, theirs = enrol(server, "mine"), enrol(server, "theirs")
    gone = push(server, mine["token"], corner.make, 1, 2)
    kept = push(server, theirs["token"], corner.make, 3)
    before = get_dataset(server, corner.dataset)
    erased = erase(server, mine["token"])
    assert (erased["shards"], erased["examples"]) == (2, 8)
    assert erased["bytes"] == sum(len(corner.make.body(seed)) for seed in (1, 2))
    assert erased["adapters"] == erased["jobs_stopped"] == []
    after = get_dataset(server, corner.dataset)
    assert (after["shards"], after["examples"], after["devices"]) == (1, 4, 1)
    assert after["bytes"] == before["bytes"] - erased["bytes"] == len(corner.make.body(3))
    assert not every_copy(server.data_dir, gone) and kept <= blob_digests(server.data_dir)
    tables = rows(server.data_dir, ["shards", "examples", "erased_blobs"])
    assert not any(digest in str(tables) for digest in gone)
    assert sum(row[0] == corner.dataset for row in tables["examples"]) == 4


def test_sequence_numbers_are_not_given_again(server: ServerProcess, corner: Corner) -> None:
    mine = enrol(server)
    push(server, mine["token"], corner.make, 1, 2)
    erase(server, mine["token"])
    with server.client(mine["token"]) as client:
        assert put(client, corner.dataset, corner.make.body(1)).json()["sequence"] == 3
    assert get_dataset(server, corner.dataset)["shards"] == 1


def test_erasing_twice_changes_nothing_more(server: ServerProcess, corner: Corner) -> None:
    mine = enrol(server)
    push(server, mine["token"], corner.make, 5)
    assert erase(server, mine["token"])["shards"] == 1
    again = erase(server, mine["token"])
    assert (again["shards"], again["examples"], again["bytes"]) == (0, 0, 0)


def test_erasure_of_one_dataset_leaves_the_others(server: ServerProcess, corner: Corner) -> None:
    mine = enrol(server)
    other = create_dataset(server, f"other-{mine['id']}")
    make = Maker(corner.make.bundle, other["id"])
    push(server, mine["token"], corner.make, 1)
    kept = push(server, mine["token"], make, 2)
    assert erase(server, mine["token"], dataset=other["name"])["shards"] == 1
    assert not kept & blob_digests(server.data_dir)
    assert get_dataset(server, corner.dataset)["shards"] == 1
    with server.client(mine["token"]) as client:
        missing = client.delete("/v1/devices/self/data", params={"dataset": "nowhere"})
    assert missing.status_code == 404


def test_blob_that_another_dataset_names_too_stays(server: ServerProcess, corner: Corner) -> None:
    mine, theirs = enrol(server), enrol(server)
    other = create_dataset(server, f"shared-{mine['id']}")["id"]
    (digest,) = push(server, mine["token"], corner.make, 11)
    push(server, theirs["token"], Maker(corner.make.bundle, other), 12)
    write(server.data_dir, "UPDATE shards SET digest = ? WHERE dataset_id = ?", digest, other)
    assert erase(server, mine["token"])["shards"] == 1
    assert digest in blob_digests(server.data_dir)
    assert erase(server, theirs["token"])["shards"] == 1
    assert digest not in blob_digests(server.data_dir)


def test_blob_that_an_earlier_start_put_aside_goes_too(
    server: ServerProcess, corner: Corner
) -> None:
    mine = enrol(server)
    (digest,) = push(server, mine["token"], corner.make, 13)
    aside = server.data_dir / "orphans" / "blobs" / digest
    aside.parent.mkdir(parents=True, exist_ok=True)
    aside.write_bytes(corner.make.body(13))
    erase(server, mine["token"])
    assert not every_copy(server.data_dir, {digest})


def test_workers_copy_of_the_dataset_goes_too(server: ServerProcess, corner: Corner) -> None:
    mine = enrol(server)
    push(server, mine["token"], corner.make, 14)
    copy = server.data_dir / "worker" / "datasets" / corner.dataset
    copy.mkdir(parents=True)
    (copy / "activations.bin").write_bytes(corner.make.body(14))
    erase(server, mine["token"])
    assert not copy.exists()


def test_device_cannot_erase_another(server: ServerProcess, corner: Corner) -> None:
    mine, theirs = enrol(server), enrol(server)
    push(server, theirs["token"], corner.make, 15)
    with server.client(mine["token"]) as client:
        assert client.delete(f"/v1/devices/{theirs['id']}/data").status_code == 403
    assert erase(server, mine["token"])["shards"] == 0
    assert get_dataset(server, corner.dataset)["shards"] == 1


def test_admin_erases_a_device_even_a_revoked_one(server: ServerProcess, corner: Corner) -> None:
    mine = enrol(server)
    push(server, mine["token"], corner.make, 16)
    where = ("--server", server.url, "--data-dir", str(server.data_dir))
    assert run_command("devices", "revoke", mine["id"], *where).returncode == 0
    done = run_command("devices", "erase", mine["id"], "--yes", *where)
    assert done.returncode == 0, done.stderr
    assert "shards" in done.stdout and get_dataset(server, corner.dataset)["shards"] == 0
    unset = run_command("devices", "erase", mine["id"], "--dataset", "", "--yes", *where)
    assert unset.returncode == 3, "an empty name does not mean all datasets"
    unknown = run_command("devices", "erase", "dev_nobody", "--yes", *where)
    assert unknown.returncode == 3 and "no device" in unknown.stderr


def test_two_erasures_at_once_erase_each_shard_once(server: ServerProcess, corner: Corner) -> None:
    mine = enrol(server)
    push(server, mine["token"], corner.make, *range(20, 32))
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: erase(server, mine["token"]), range(4)))
    assert sorted(answer["shards"] for answer in answers) == [0, 0, 0, 12]
    assert get_dataset(server, corner.dataset)["examples"] == 0


def test_erasure_during_uploads_leaves_whole_shards_only(
    server: ServerProcess, corner: Corner
) -> None:
    mine = enrol(server)

    def upload(seed: int) -> None:
        with server.client(mine["token"]) as client:
            assert put(client, corner.dataset, corner.make.body(seed)).status_code in (200, 201)

    with ThreadPoolExecutor(6) as pool:
        uploads = [pool.submit(upload, seed) for seed in [*range(40, 60), *range(40, 60)]]
        erasures = [pool.submit(erase, server, mine["token"]) for _ in range(5)]
        for future in uploads + erasures:
            future.result()
    sent = {hashlib.sha256(corner.make.body(seed)).hexdigest() for seed in range(40, 60)}
    listed = {row[4] for row in rows(server.data_dir, ["shards"])["shards"]} & sent
    stored = blob_digests(server.data_dir) & sent
    assert listed == stored, "a row without its blob, or a blob without its row"
    counts = get_dataset(server, corner.dataset)
    assert counts["examples"] == 4 * counts["shards"]


def erase_and_die(data_dir: Path, point: str, token: str) -> None:
    """Start a server that dies at `point` of the erasure, and ask for it."""
    command = [sys.executable, "-m", "tests.server.dying_server", point, "serve", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--data-dir", str(data_dir), "--no-worker"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    url = next(line.split()[3] for line in process.stdout if line.startswith("SplitFrozen "))
    headers = {"Authorization": f"Bearer {token}"}
    with pytest.raises(httpx.TransportError):
        httpx.delete(f"{url}/v1/devices/self/data", headers=headers, timeout=60)
    assert process.wait(30) == -9
    process.stdout.close()


@pytest.fixture(scope="module")
def pushed(
    prepared: Path, bundle: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str, set[str], set[str]]:
    """A stopped server with data of two devices: (directory, token of one, its digests, others)."""
    data_dir = Path(shutil.copytree(prepared, tmp_path_factory.mktemp("pushed") / "state"))
    server = ServerProcess(data_dir)
    make = Maker(bundle, create_dataset(server, "crash")["id"])
    mine, theirs = enrol(server, "mine"), enrol(server, "theirs")
    gone = push(server, mine["token"], make, 1, 2, 3)
    kept = push(server, theirs["token"], make, 4, 5)
    assert server.stop() == 0
    copy = data_dir / "worker" / "datasets" / make.dataset
    copy.mkdir(parents=True)
    (copy / "activations.bin").write_bytes(b"".join(make.body(seed) for seed in (1, 2, 3)))
    return data_dir, mine["token"], gone, kept


@pytest.mark.parametrize("point", POINTS)
def test_kill_during_an_erasure_is_made_good_by_the_next_start(
    pushed: tuple[Path, str, set[str], set[str]], tmp_path: Path, point: str
) -> None:
    original, token, gone, kept = pushed
    data_dir = Path(shutil.copytree(original, tmp_path / "state"))
    erase_and_die(data_dir, point, token)
    left = every_copy(data_dir, gone)
    assert len(left) == {"rows": 3, "blob": 2}.get(point, 0), "the kill came where it should"
    server = ServerProcess(data_dir)
    try:
        assert not every_copy(data_dir, gone), "nothing of it in blobs or in orphans"
        assert blob_digests(data_dir) == kept
        assert not (data_dir / "orphans").exists()
        assert not list((data_dir / "worker" / "datasets").iterdir())
        again = erase(server, token)
        assert again["shards"] == 0 and get_dataset(server, "crash")["shards"] == 2
    finally:
        assert server.stop() == 0
    assert rows(data_dir, ["erased_blobs"])["erased_blobs"] == []
    assert all(row[-1] is not None for row in rows(data_dir, ["erasures"])["erasures"])


def test_request_repeated_on_the_same_server_finishes_what_failed(
    serve: Serve, bundle: str, data_dir: Path
) -> None:
    server = serve()
    make = Maker(bundle, create_dataset(server, "stuck")["id"])
    mine, theirs = enrol(server), enrol(server)
    (digest,) = push(server, mine["token"], make, 1)
    others = push(server, theirs["token"], make, 2)
    blob = data_dir / "blobs" / digest[:2] / digest
    blob.unlink()
    (blob / "in-the-way").mkdir(parents=True)  # what cannot be unlinked: a failing disk, in effect
    with server.client(mine["token"]) as client:
        assert client.delete("/v1/devices/self/data").status_code == 500
    assert get_dataset(server, "stuck")["shards"] == 1, "invisible from the first moment"
    assert erase(server, theirs["token"])["shards"] == 1, "what fails for one stops no other"
    assert not every_copy(data_dir, others)
    shutil.rmtree(blob)
    blob.write_bytes(make.body(1))
    assert erase(server, mine["token"])["shards"] == 1, "counted by the call that finished it"
    assert not every_copy(data_dir, {digest})


def test_deleted_dataset_leaves_no_blob_behind_either(serve: Serve, bundle: str) -> None:
    server = serve()
    make = Maker(bundle, create_dataset(server, "doomed")["id"])
    digests = push(server, enrol(server)["token"], make, 1, 2)
    with server.client() as admin:
        admin.delete("/v1/activation_datasets/doomed").raise_for_status()
    assert not every_copy(server.data_dir, digests)
    assert rows(server.data_dir, ["erased_blobs"])["erased_blobs"] == []
