"""What a bad disk does to the outbox: torn logs, lost pages, no room, no permission to write."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from splitfrozen_edge.exits import describe
from splitfrozen_edge.outbox.store import NewShard, Outbox
from splitfrozen_edge.pushing.file import PushRequest, push_file
from splitfrozen_edge.state import StateDirectory
from tests.edge.conftest import NewClient, write_sentences
from tests.edge.protocol_server import Fault, ProtocolServer
from tests.edge.shards import small_body

EXAMPLES = 3000


def left_open(path: Path) -> None:
    """Copy an outbox as a power cut would leave it: with its log."""
    for suffix in ("", "-wal"):
        source = Path(f"{path}{suffix}")
        if source.exists():
            shutil.copyfile(source, f"{path}.cut{suffix}")


def test_a_log_that_is_torn_anywhere_leaves_the_state_of_some_commit(tmp_path: Path) -> None:
    """Power loss: the log ends at any byte; its sums tell whole transactions from torn ones."""
    path = tmp_path / "outbox"
    outbox = Outbox(path)
    outbox._database.execute("PRAGMA wal_autocheckpoint = 0")
    outbox.put("ds", NewShard("a" * 64, b"1" * 3000, [b"a" * 16], 1))
    outbox.put("ds", NewShard("b" * 64, b"2" * 3000, [b"b" * 16], 1))
    outbox.ack("a" * 64)
    outbox.park("b" * 64, "x", "y")
    left_open(path)
    outbox.close()
    log = Path(f"{path}.cut-wal").read_bytes()
    states = set()
    for size in range(0, len(log) + 1, 2053):
        torn = tmp_path / f"torn-{size}"
        shutil.copyfile(f"{path}.cut", torn)
        Path(f"{torn}-wal").write_bytes(log[:size])
        found = Outbox(torn)
        assert found.notice is None
        states.add(tuple((entry.digest[0], entry.state) for entry in found.entries()))
        assert len(found.known_examples("ds")) in (0, 1, 2)
        found.close()
    assert (("b", "queued"),) in states
    assert (("a", "queued"), ("b", "queued")) in states
    assert () in states


@pytest.fixture
def large(tmp_path: Path, server: ProtocolServer) -> Iterator[tuple[Path, list[bytes]]]:
    """An outbox with 3000 sent examples, 20 waiting shards and a clean end; and all ids."""
    path = tmp_path / "outbox.sqlite3"
    dataset = server.add_dataset("d", "classification", ["a"])
    outbox = Outbox(path)
    outbox.remember_dataset(dataset, "d", "b1")
    outbox.remember_bundle("b1", Path("/bundle"))
    numbers = random.Random(5)
    sent = [numbers.randbytes(16) for _ in range(EXAMPLES)]
    for start in range(0, EXAMPLES, 100):
        name = f"{start:064x}"
        outbox.put(dataset, NewShard(name, b"body", sent[start : start + 100], 1))
        outbox.ack(name)
    waiting = []
    for number in range(20):
        body, name = small_body(server, dataset, 1000 + 2 * number)
        ids = [(1000 + 2 * number + i).to_bytes(16, "big") for i in (0, 1)]
        outbox.put(dataset, NewShard(name, body, ids, 5))
        waiting += ids
    outbox.park(name, "bad_shape", "no")
    outbox.close()
    yield path, sent + waiting


def spoil(path: Path, page: int) -> None:
    """Overwrite one page of 4096 bytes, as a dying card does, and leave the mark of a bad end."""
    with path.open("r+b") as stream:
        stream.seek(page * 4096)
        stream.write(random.Random(page).randbytes(4096))
    Path(f"{path}-suspect").touch()


@pytest.mark.parametrize("part", range(8))
def test_a_lost_page_is_found_and_what_can_be_read_is_kept(
    large: tuple[Path, list[bytes]], part: int
) -> None:
    path, ids = large
    pages = path.stat().st_size // 4096
    spoil(path, 1 + part * (pages - 2) // 7)
    outbox = Outbox(path)
    notice = outbox.notice
    kept = outbox.known_examples("ds_0")
    if notice is None:  # the page held nothing
        assert kept == set(ids)
    else:
        assert "was damaged" in notice
        assert "nothing is stored twice" in notice
        assert path.with_name("outbox.sqlite3.damaged-1").exists()
    assert kept <= set(ids)
    assert len(kept) > EXAMPLES * 0.9
    assert len(outbox.entries("ds_0")) >= 14  # a page holds six of these tiny ones
    outbox.put("ds_0", NewShard("f" * 64, b"new", [b"n" * 16], 1))
    outbox.close()
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
    database.close()
    again = Outbox(path)
    assert again.notice is None
    again.close()


def test_a_file_that_is_no_database_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite3"
    path.write_bytes(b"not a database, " * 600)
    outbox = Outbox(path)
    assert outbox.notice is not None
    assert outbox.entries() == []
    outbox.close()
    assert path.with_name("outbox.sqlite3.damaged-1").read_bytes().startswith(b"not a database")


def test_of_many_damaged_files_the_last_two_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite3"
    for number in range(5):
        path.write_bytes(b"%d" % number * 8192)
        Outbox(path).close()
    kept = sorted(found.name for found in tmp_path.glob("*damaged*"))
    assert kept == ["outbox.sqlite3.damaged-4", "outbox.sqlite3.damaged-5"]
    assert (tmp_path / kept[1]).read_bytes() == b"4" * 8192


def test_a_clean_end_costs_no_look(large: tuple[Path, list[bytes]]) -> None:
    path, _ = large
    with path.open("r+b") as stream:  # damage that nobody had a reason to look for
        stream.seek(path.stat().st_size - 4096)
        stream.write(bytes(4096))
    outbox = Outbox(path)
    assert outbox.notice is None
    outbox.close()


def test_damage_that_is_met_while_working_is_repaired_at_the_next_start(
    large: tuple[Path, list[bytes]],
) -> None:
    path, _ = large
    database = sqlite3.connect(path)
    query = "SELECT rootpage FROM sqlite_schema WHERE name = 'examples'"
    page = database.execute(query).fetchone()[0] - 1
    database.close()
    spoil(path, page)
    Path(f"{path}-suspect").unlink()
    outbox = Outbox(path)
    with pytest.raises(sqlite3.DatabaseError, match="malformed") as caught:
        outbox.known_examples("ds_0")
    found = describe(caught.value)
    assert found is not None
    assert "run the command again" in found[1]
    outbox.close()
    repaired = Outbox(path)
    assert repaired.notice is not None
    assert len(repaired.entries("ds_0")) == 20  # their ids are in their bodies
    assert len(repaired.known_examples("ds_0")) >= 40
    repaired.close()


def test_a_repair_that_was_interrupted_is_finished(large: tuple[Path, list[bytes]]) -> None:
    path, ids = large
    shutil.copyfile(path, path.with_name("outbox.sqlite3.salvaged"))
    path.write_bytes(b"damaged")
    outbox = Outbox(path)
    assert outbox.notice is not None
    assert outbox.known_examples("ds_0") == set(ids)
    outbox.close()


def test_an_open_outbox_is_not_repaired_under_its_user(large: tuple[Path, list[bytes]]) -> None:
    path, _ = large
    with Path(f"{path}-suspect").open("w"):
        first = Outbox(path)
        Path(f"{path}-suspect").touch()
        second = Outbox(path)
        assert Path(f"{path}-suspect").exists()  # left for the next who is alone
        first.close()
        second.close()


def test_rows_whose_ids_were_lost_are_sent_again_and_stored_once(
    tmp_path: Path, state: StateDirectory, new_client: NewClient, server: ProtocolServer,
    encoder_bundle: Path,
) -> None:  # fmt: skip
    data = write_sentences(tmp_path / "data.jsonl", 300)
    request = PushRequest(data, "d", str(encoder_bundle))
    push_file(request, state, new_client())
    (state.path / "outbox.sqlite3").write_bytes(b"\xff" * 8192)
    warnings: list[str] = []
    report = push_file(request, state, new_client(), warn=warnings.append)
    assert "was damaged" in warnings[0]
    assert report.uploaded_examples + report.duplicates == 300
    found = server.example_ids(report.dataset_id)
    assert len(found) == len(set(found)) == 300


def test_a_sent_shard_whose_ids_alone_were_lost_is_sent_again_and_stored_once(
    tmp_path: Path, state: StateDirectory, new_client: NewClient, server: ProtocolServer,
    encoder_bundle: Path,
) -> None:  # fmt: skip
    """All rows are made into the same shard again, whose digest the outbox has."""
    request = PushRequest(write_sentences(tmp_path / "data.jsonl", 20), "d", str(encoder_bundle))
    push_file(request, state, new_client())
    database = sqlite3.connect(state.path / "outbox.sqlite3")
    database.execute("DELETE FROM examples")
    database.commit()
    database.close()
    report = push_file(request, state, new_client())
    assert (report.uploaded_shards, report.uploaded_examples) == (1, 20)
    found = server.example_ids(report.dataset_id)
    assert len(found) == len(set(found)) == 20
    assert push_file(request, state, new_client()).skipped == 20


def test_a_body_that_rotted_on_the_disk_is_not_sent(
    tmp_path: Path, state: StateDirectory, new_client: NewClient, server: ProtocolServer,
    encoder_bundle: Path,
) -> None:  # fmt: skip
    data = write_sentences(tmp_path / "data.jsonl", 300)
    request = PushRequest(data, "d", str(encoder_bundle))
    server.script("PUT", Fault("refuse", 401, "unauthorized"))
    with pytest.raises(Exception, match="scripted"):
        push_file(request, state, new_client())
    database = sqlite3.connect(state.path / "outbox.sqlite3")
    database.execute("UPDATE shards SET body = zeroblob(size) WHERE sequence = 1")
    database.commit()
    database.close()
    report = push_file(request, state, new_client())
    assert report.damaged == 128
    push_file(request, state, new_client())
    found = server.example_ids(report.dataset_id)
    assert len(found) == len(set(found)) == 300


READ_ONLY = """
import ctypes, json, sys
from pathlib import Path
libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, MS_BIND, MS_REMOUNT, MS_RDONLY = 0x20000, 4096, 32, 1
MS_REC, MS_PRIVATE = 16384, 1 << 18
path = sys.argv[1].encode()
def mount(flags):
    if libc.mount(path, path, None, flags, None):
        sys.exit(77)
if libc.unshare(CLONE_NEWNS):
    sys.exit(77)
if libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
    sys.exit(77)
mount(MS_BIND)
mount(MS_BIND | MS_REMOUNT | MS_RDONLY)
from splitfrozen_edge.cli import main
main(sys.argv[2:])
"""


def test_a_read_only_disk_is_said_in_words(
    tmp_path: Path, state: StateDirectory, encoder_bundle: Path
) -> None:
    data = write_sentences(tmp_path / "data.jsonl", 5)
    state.outbox().close()
    state.key()
    command = ["push", "--state-dir", str(state.path), "--dataset", "d", "--data", str(data)]
    done = subprocess.run(
        [sys.executable, "-c", READ_ONLY, str(state.path), *command, "--bundle", encoder_bundle],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip("this machine lets nobody mount")
    assert done.returncode == 1, done.stderr
    assert "ead-only" in done.stderr
    assert "Traceback" not in done.stderr


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from splitfrozen_edge.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
main(sys.argv[2:])
"""


@pytest.mark.parametrize("room", [40_000, 90_000])
def test_a_disk_that_fills_up_at_any_write_loses_nothing(
    tmp_path: Path, state: StateDirectory, server: ProtocolServer, encoder_bundle: Path, room: int
) -> None:
    """No file may grow beyond `room` bytes: the log is the first that meets it."""
    data = write_sentences(tmp_path / "data.jsonl", 2000)
    server.script("PUT", *[Fault("refuse", 503)] * 3)
    options = f"--state-dir {state.path} --dataset d --data {data} --bundle {encoder_bundle}"
    command = ["push", *options.split(), "--format", "json", "--threads", "1"]
    full = subprocess.run(
        [sys.executable, "-c", LIMITED, str(room), *command],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert full.returncode == 1, full.stderr
    assert "disk" in full.stderr
    assert "Traceback" not in full.stderr
    server.faults.clear()
    done = subprocess.run(
        [sys.executable, "-m", "splitfrozen_edge", *command],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = server.example_ids(json.loads(done.stdout)["dataset_id"])
    assert len(found) == len(set(found)) == 2000
