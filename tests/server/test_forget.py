"""`splitfrozen-edge forget` against a real server: there first, then here, over crashes too."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from splitfrozen_edge.cli import main
from splitfrozen_edge.connect import open_client
from splitfrozen_edge.daemon.joined import Joined, join, load_joined
from splitfrozen_edge.daemon.nowfile import NowFile
from splitfrozen_edge.outbox.store import NewShard
from splitfrozen_edge.state import Enrolment, StateDirectory, StateError
from splitfrozen_edge.status import read_status
from splitfrozen_edge.watching.ledger import Ledger
from tests.server.bodies import Maker
from tests.server.conftest import Corner
from tests.server.stack import ServerProcess, blob_digests, create_dataset, enrol

ROOT = Path(__file__).resolve().parents[2]
NOBODY = "http://127.0.0.1:9"


@dataclass
class Device:
    """A device with two sent shards and one that waits, in each of its datasets."""

    state: StateDirectory
    server: ServerProcess
    makers: list[Maker]

    def fill(self) -> None:
        """Push and queue; each maker's seeds 1 and 2 are sent, 3 waits."""
        outbox = self.state.outbox()
        client = open_client(self.state.enrolment(), 0, threading.Event())
        for number, make in enumerate(self.makers):
            outbox.remember_dataset(make.dataset, f"name-{make.dataset}", make.bundle)
            for seed in (1, 2, 3):
                shard = make.shard(100 * number + seed)
                body = make.body(100 * number + seed)
                digest = hashlib.sha256(body).hexdigest()
                assert shard.example_ids is not None
                ids = [row.tobytes() for row in shard.example_ids]
                outbox.put(make.dataset, NewShard(digest, body, ids, shard.tokens))
                if seed < 3:
                    client.put_shard(make.dataset, digest, body)
                    outbox.ack(digest)
        outbox.close()
        client.close()
        for name in ("bundles/b/device.onnx", "prepacked/x"):
            path = self.state.path / name
            path.parent.mkdir(parents=True)
            path.write_bytes(b"weights")
        ledger = Ledger(self.state.path / "watch.sqlite3")
        for make in self.makers:
            ledger.watch(make.dataset, Path("/data"))
            join(self.state.path, Joined(make.dataset, Path("/data")))
        ledger.close()
        self.state.key()

    def sent(self, make: Maker) -> int:
        """Shards of a dataset on the server."""
        with self.server.client() as admin:
            return int(admin.get(f"/v1/activation_datasets/{make.dataset}").json()["shards"])

    def left(self) -> set[str]:
        return {path.name for path in self.state.path.iterdir()}


@pytest.fixture
def device(server: ServerProcess, corner: Corner, tmp_path: Path) -> Device:
    enrolled = enrol(server)
    state = StateDirectory(tmp_path / "state")
    state.store_enrolment(Enrolment(server.url, enrolled["id"], "pi", enrolled["token"]))
    other = create_dataset(server, f"second-{enrolled['id']}")["id"]
    found = Device(state, server, [corner.make, Maker(corner.make.bundle, other)])
    found.fill()
    return found


def forget(device: Device, *words: str) -> Result:
    arguments = ["forget", "--state-dir", str(device.state.path), "--retry-for", "0", *words]
    return CliRunner().invoke(main, arguments)


def test_forget_erases_there_and_here_and_keeps_who_the_device_is(device: Device) -> None:
    before = blob_digests(device.server.data_dir)
    done = forget(device, "--yes")
    assert done.exit_code == 0, done.output
    assert [device.sent(make) for make in device.makers] == [0, 0]
    assert len(before - blob_digests(device.server.data_dir)) == 4
    assert device.left() == {"device.json", "key", "lock"}
    assert "erased on the server: 16 examples in 4 shards" in done.output
    assert "not overwritten" in done.output and "outbox.sqlite3" in done.output
    assert forget(device, "--yes").exit_code == 0, "again: nothing is left to do"


def test_forget_of_one_dataset_leaves_the_other(device: Device) -> None:
    first, second = device.makers
    (device.state.path / "outbox.sqlite3.damaged-1").write_bytes(b"rows of all datasets")
    followed = [{"id": make.dataset, "dataset": f"name-{make.dataset}"} for make in device.makers]
    NowFile(device.state.path).show({"datasets": followed, "ended_at": 1.0})
    done = forget(device, "--yes", "--dataset", f"name-{first.dataset}", "--format", "json")
    assert "outbox.sqlite3.damaged-1" not in device.left()
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["left"] == [first.dataset]
    shown = read_status(device.state)
    assert [item["dataset"] for item in shown["watched"]] == [second.dataset]
    assert [item["id"] for item in shown["following"]] == [second.dataset]
    assert found["server"]["shards"] == 2 and found["datasets"] == [first.dataset]
    assert (device.sent(first), device.sent(second)) == (0, 2)
    outbox = device.state.outbox()
    assert [item.id for item in outbox.datasets()] == [second.dataset]
    assert outbox.next(first.dataset) is None and outbox.next(second.dataset) is not None
    assert not outbox.known_examples(first.dataset)
    outbox.close()
    assert [item.dataset for item in load_joined(device.state.path)] == [second.dataset]
    assert "bundles" in device.left()
    stored = b"".join(path.read_bytes() for path in device.state.path.glob("outbox*"))
    assert second.body(103)[-64:] in stored
    assert first.body(3)[-64:] not in stored, "not even in free pages"


def test_forget_of_a_dataset_that_the_server_deleted_forgets_it_here(device: Device) -> None:
    first, second = device.makers
    with device.server.client() as admin:
        admin.delete(f"/v1/activation_datasets/{first.dataset}").raise_for_status()
    assert forget(device, "--yes", "--dataset", first.dataset).exit_code == 0
    outbox = device.state.outbox()
    assert [item.id for item in outbox.datasets()] == [second.dataset]
    outbox.close()
    unknown = forget(device, "--yes", "--dataset", "nobody-knows")
    assert unknown.exit_code == 3 and "no dataset" in unknown.stderr


def test_everything_takes_the_key_and_the_enrolment_too(device: Device) -> None:
    who = device.state.enrolment().device
    done = forget(device, "--yes", "--everything")
    assert done.exit_code == 0
    assert f"splitfrozen-server devices revoke {who}" in done.output
    assert device.left() == {"lock"} and not device.state.is_enrolled()


def test_server_out_of_reach_leaves_everything(device: Device) -> None:
    who = device.state.enrolment()
    before = device.left()
    device.state.store_enrolment(Enrolment(NOBODY, who.device, who.name, who.token))
    refused = forget(device, "--yes")
    assert refused.exit_code == 3 and "cannot reach" in refused.stderr
    assert device.left() == before | {"lock"}
    with device.state.locked():
        pass  # pushes go on
    done = forget(device, "--yes", "--local-only")
    assert done.exit_code == 0 and "the server was not asked" in done.output
    assert device.left() == {"device.json", "key", "lock"}
    assert device.sent(device.makers[0]) == 2


def test_revoked_device_is_told_and_keeps_its_data(device: Device) -> None:
    with device.server.client() as admin:
        admin.delete(f"/v1/devices/{device.state.enrolment().device}").raise_for_status()
    refused = forget(device, "--yes")
    assert refused.exit_code == 3 and "[unauthorized]" in refused.stderr
    assert "outbox.sqlite3" in device.left()


def test_nothing_happens_before_somebody_says_yes(device: Device) -> None:
    asked = forget(device)
    assert asked.exit_code == 1 and "nothing was erased" in asked.stderr
    assert device.sent(device.makers[0]) == 2 and "outbox.sqlite3" in device.left()
    assert forget(device, "--everything", "--dataset", "d").exit_code == 2


def test_running_push_is_not_disturbed(device: Device) -> None:
    with device.state.locked():
        refused = forget(device, "--yes")
    assert refused.exit_code == 1 and "wait for it" in refused.stderr
    with device.state.locked("run"):
        refused = forget(device, "--yes")
    assert refused.exit_code == 1 and "sudo systemctl stop splitfrozen-edge" in refused.stderr
    assert device.sent(device.makers[0]) == 2


KILLS = [
    ("before", "erased-there", ()),
    ("after", "erased-there", ()),
    ("before", "deleted", ()),
    ("after", "deleted", ("--everything",)),
    ("before", "datasets", ("--dataset",)),
    ("after", "datasets", ("--dataset",)),
]


@pytest.mark.parametrize(("when", "point", "words"), KILLS)
def test_killed_forget_sends_nothing_more_and_is_finished_by_the_next(
    device: Device, when: str, point: str, words: tuple[str, ...]
) -> None:
    first = device.makers[0]
    words = (*words, first.dataset) if "--dataset" in words else words
    command = [sys.executable, "-m", "tests.edge.dying_command", when, point, "forget", "--yes"]
    where = ["--state-dir", str(device.state.path)]
    killed = subprocess.run([*command, *where, *words], cwd=ROOT, timeout=60)
    assert killed.returncode == -9
    with pytest.raises(StateError, match="forget` was cut off"), device.state.locked():
        pass
    done = forget(device, "--yes", *words)
    assert done.exit_code == 0, done.output
    assert device.sent(first) == 0
    if "--dataset" not in words:
        kept = set() if "--everything" in words else {"device.json", "key"}
        assert device.left() == kept | {"lock"}
    with device.state.locked():
        pass


def test_cut_off_forget_stays_in_force_while_the_server_is_away(device: Device) -> None:
    device.state.begin_forgetting()
    who = device.state.enrolment()
    device.state.store_enrolment(Enrolment(NOBODY, who.device, who.name, who.token))
    assert forget(device, "--yes").exit_code == 3
    with pytest.raises(StateError, match="cut off"), device.state.locked():
        pass
    assert forget(device, "--yes", "--local-only").exit_code == 0


def test_pinned_key_is_checked_when_a_bundle_is_downloaded(
    server: ServerProcess, bundle: str, tmp_path: Path, device: Device
) -> None:
    from splitfrozen.errors import ManifestError
    from splitfrozen_edge.model.bundles import download

    client = open_client(device.state.enrolment(), 0, threading.Event())
    key = str(client.call("GET", "/version")["bundle_key"])
    download(client, bundle, tmp_path / "good", key=key)
    assert (tmp_path / "good" / "splitfrozen.sig").exists()
    with pytest.raises(ManifestError, match="enroll --force") as refused:
        download(client, bundle, tmp_path / "bad", key="0" * 64)
    client.close()
    assert refused.value.code == "bad_signature"
    assert {path.name for path in tmp_path.iterdir()} == {"good", "state"}
