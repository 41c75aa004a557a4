"""Erasing this device's data: on the server first, then here, so that nothing is sent once more.

A mark in the state directory says that this is under way: until it is gone no push begins, also
after a crash, since what waits here would bring back what the server has just erased. The key and
the enrolment go last, because without them the server cannot be asked again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitfrozen.errors import RefusedError
from splitfrozen_edge.daemon.nowfile import drop_dataset
from splitfrozen_edge.state import Enrolment, StateDirectory, sync_directory

if TYPE_CHECKING:
    from splitfrozen_edge.http.client import Client

ROUTE = "/v1/devices/self/data"
LEDGER = "watch.sqlite3"
# What pushes, watching and predicting leave behind; with a star also journals, copies, parts.
_DATA = (
    "joined.json",  # first: a daemon that follows a dataset would push it all again
    "outbox.sqlite3*",
    f"{LEDGER}*",
    "bundles",
    "prepacked",
    "now.json*",
    "uplink.json*",
)
# What makes this device the one that it is; in this order, so that a kill leaves it able to ask.
_IDENTITY = ("policy.json*", "threads.json*", "privacy-note-shown", "key*", "device.json*")
_AFTERWARDS = ("ca-*.pem*", "token.lock")


@dataclass
class Forgotten:
    """What is gone. Sizes are bytes."""

    server: dict[str, Any] | None = None  # the server's answer; None: it was not asked
    datasets: list[str] = field(default_factory=list)  # ids, where only some were forgotten
    deleted: list[str] = field(default_factory=list)  # names in the state directory
    deleted_bytes: int = 0
    left: list[str] = field(default_factory=list)  # datasets that had joined, as they were named
    device: str | None = None  # id, where the enrolment is gone, too; its token stays valid

    def lines(self) -> list[str]:
        """For a person."""
        found = [] if self.server is None else _server_lines(self.server)
        what = ", ".join(self.deleted) or "nothing was left"
        found.append(f"deleted here: {what} ({self.deleted_bytes / 1e6:.1f} MB)")
        if self.server is None:
            found.append("the server was not asked: what it has of this device stays there")
        for name in self.left:
            found.append(f"{name} is not joined any more: nothing is fed to it from here")
        if self.device is not None:
            found.append(
                "the token stays valid on the server until its administrator revokes it: "
                f"splitfrozen-server devices revoke {self.device}"
            )
        found.append(
            "deleted is not overwritten: flash memory keeps old cells for a while, backups longer"
        )
        return found


def forget(
    state: StateDirectory,
    connect: Callable[[Enrolment], Client] | None,
    *,
    dataset: str | None = None,
    everything: bool = False,
) -> Forgotten:
    """Erase what this device pushed, then what it keeps; of one `dataset` (id or name) or all.

    `connect` opens a client of an enrolment; None: the server is not asked. `everything`: the key
    and the enrolment, too. If the server cannot be reached nothing is deleted here. The same call
    again finishes what was cut off. Raises StateError, RefusedError.
    """
    with state.locked("forget", allow_forgetting=True):
        resumed = state.begin_forgetting()
        found = Forgotten()
        try:
            known = {} if dataset is None else _known(state, dataset)
            found.datasets = list(known)
            if connect is not None:
                found.server = _erase_there(state, connect, dataset, found.datasets)
        except BaseException:
            if not resumed:  # nothing was touched here
                state.end_forgetting()
            raise
        if dataset is None:
            _delete(state.path, _DATA, found)
        else:
            keys = {dataset, *known, *known.values()}
            found.left = _leave(state.path, keys)
            drop_dataset(state.path, keys)
            _forget_datasets(state, found, keys)
            _delete(state.path, ("*.sqlite3.damaged-*",), found)  # they hold all datasets
        if everything:
            if state.is_enrolled():
                found.device = state.enrolment().device
            _delete(state.path, _IDENTITY, found)
            _delete(state.path, _AFTERWARDS, found)
        state.end_forgetting()
    return found


def _known(state: StateDirectory, dataset: str) -> dict[str, str]:
    """Names by id of a dataset that this device knows; a name may stand for several over time."""
    if not (state.path / "outbox.sqlite3").exists():
        return {}
    outbox = state.outbox()
    try:
        known = [item for item in outbox.datasets() if dataset in (item.id, item.name)]
        return {item.id: item.name for item in known}
    finally:
        outbox.close()


def _erase_there(
    state: StateDirectory,
    connect: Callable[[Enrolment], Client],
    dataset: str | None,
    ids: list[str],
) -> dict[str, Any]:
    """Ask the server; answers of several datasets are added up."""
    client = connect(state.enrolment())
    try:
        if dataset is None:
            return client.call("DELETE", ROUTE)
        total: dict[str, Any] = {"shards": 0, "examples": 0, "bytes": 0}
        adapters: set[str] = set()
        stopped: set[str] = set()
        for key in ids or [dataset]:
            answer = _erase_one(client, key, is_known=bool(ids))
            for name in total:
                total[name] += int(answer.get(name, 0))
            adapters.update(answer.get("adapters", []))
            stopped.update(answer.get("jobs_stopped", []))
        return {**total, "adapters": sorted(adapters), "jobs_stopped": sorted(stopped)}
    finally:
        client.close()


def _erase_one(client: Client, key: str, *, is_known: bool) -> dict[str, Any]:
    try:
        return client.call("DELETE", ROUTE, params={"dataset": key})
    except RefusedError as error:
        if error.code == "not_found" and is_known:
            return {}  # the whole dataset was deleted there
        raise


def _leave(directory: Path, keys: set[str]) -> list[str]:
    """A daemon that follows the dataset would push it all again; what had joined."""
    from splitfrozen_edge.daemon.joined import leave, load_joined

    joined = [item.dataset for item in load_joined(directory) if item.dataset in keys]
    for name in joined:
        leave(directory, name)
    return joined


def _forget_datasets(state: StateDirectory, found: Forgotten, keys: set[str]) -> None:
    """Rows of outbox and ledger; bundles stay, other datasets may need them."""
    before = _size(state.path, _DATA)
    if found.datasets:
        outbox = state.outbox()
        try:
            for dataset in found.datasets:
                outbox.forget(dataset)
        finally:
            outbox.close()
    _forget_watched(state.path / LEDGER, keys)
    found.deleted += [f"what waited and what was sent of {name}" for name in found.datasets]
    found.deleted_bytes += max(0, before - _size(state.path, _DATA))


def _forget_watched(path: Path, keys: set[str]) -> None:
    if not path.exists():
        return
    from splitfrozen_edge.watching.ledger import Ledger

    ledger = Ledger(path)
    try:
        for dataset in sorted(keys):
            # A dataset of which no row was ever collected is known by its name only.
            known = ledger.recall(dataset) or {}
            ledger.forget(str(known.get("id", dataset)))
            ledger.forget(dataset)
    finally:
        ledger.close()


def _delete(directory: Path, patterns: tuple[str, ...], found: Forgotten) -> None:
    """Remove files and directories that match, in the order of the patterns, durably."""
    for pattern in patterns:
        # Journals before their database: alone they would be taken for another one's.
        for path in sorted(directory.glob(pattern), reverse=True):
            found.deleted_bytes += _size_of(path)
            found.deleted.append(path.name)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        sync_directory(directory)


def _size(directory: Path, patterns: tuple[str, ...]) -> int:
    return sum(_size_of(path) for pattern in patterns for path in directory.glob(pattern))


def _size_of(path: Path) -> int:
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    return sum(inner.lstat().st_size for inner in path.rglob("*") if not inner.is_dir())


def _server_lines(answer: dict[str, Any]) -> list[str]:
    found = [
        f"erased on the server: {answer['examples']} examples in {answer['shards']} shards "
        f"({answer['bytes'] / 1e6:.1f} MB)"
    ]
    if adapters := answer.get("adapters"):
        found.append(
            "adapters that were trained on data of this device stay: " + ", ".join(adapters)
        )
    if stopped := answer.get("jobs_stopped"):
        found.append("jobs that were using it were stopped: " + ", ".join(stopped))
    return found
