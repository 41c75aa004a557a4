"""Reads the device's directory: place, modes, databases, bundles. Makes and changes nothing."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from splitfrozen.bundle import Bundle, read_bundle
from splitfrozen.errors import ManifestError
from splitfrozen.manifest import MANIFEST_NAME
from splitfrozen_edge.checkup.doctor.findings import Finding, fail, ok, size, warn
from splitfrozen_edge.checkup.doctor.state_words import (
    Place,
    check_database,
    check_disk,
    check_modes,
    check_place,
)
from splitfrozen_edge.state import Enrolment, StateDirectory, StateError

_BUSY = 5.0  # seconds that another process may hold a database


def check_state(state: StateDirectory, bundle_bytes: int) -> Iterator[Finding]:
    """The directory, its file system, its permissions and its databases."""
    place = read_place(state.path)
    yield check_place(state.path, place)
    yield check_disk(place, bundle_bytes)
    if not state.path.is_dir():
        return
    try:
        yield check_modes(state.path, read_modes(state.path), mine=_is_mine(state.path))
    except OSError as error:
        advice = "run this as the user who enrolled it (the service's: sudo -u splitfrozen …)"
        yield fail("permissions", str(error), advice)
        return
    for path in sorted(state.path.glob("*.sqlite3")):
        yield check_database(path, read_problem(path))


def read_enrolment(state: StateDirectory) -> tuple[Enrolment | None, Finding]:
    """Who this device is, and what to say about it."""
    try:
        found = state.enrolment()
    except (StateError, OSError) as error:
        if isinstance(error, StateError) and not state.is_enrolled():
            advice = "splitfrozen-edge enroll --server URL --token …"
            return None, warn("enrolment", "this device is not enrolled", advice)
        return None, fail("enrolment", str(error), "splitfrozen-edge enroll --force …")
    return found, ok("enrolment", f"{found.name} ({found.device})")


def find_bundles(state: StateDirectory, wanted: str | None) -> list[Path]:
    """The directory or id that was asked for, or all that this device remembers or downloaded."""
    if wanted is not None:
        own = Path(wanted)
        return [own if own.is_dir() or "/" in wanted else state.bundles / wanted]
    found = [path for path in _remembered(state) if path.is_dir()]
    found += [path.parent for path in sorted(state.bundles.glob(f"[!.]*/{MANIFEST_NAME}"))]
    return list({path.resolve(): path for path in found}.values())


def bundle_size(directory: Path) -> int:
    """Bytes of its files; 0 if there is no directory."""
    try:
        return sum(path.stat().st_size for path in directory.iterdir() if path.is_file())
    except OSError:
        return 0


def check_bundle(directory: Path) -> tuple[Bundle | None, Finding]:
    """Every hash of a bundle."""
    try:
        bundle = read_bundle(directory)
    except ManifestError as error:
        advice = f"remove {directory}: the next push fetches it again; or copy it again"
        return None, fail("bundle", error.message, advice)
    except OSError as error:
        return None, fail("bundle", f"{directory} cannot be read: {error}", "check the card")
    manifest = bundle.manifest
    what = f"{manifest.base_model.id}, cut {manifest.cut}, {manifest.precision}"
    total = size(sum(entry.size for entry in manifest.files.values()))
    return bundle, ok("bundle", f"{bundle.id[:12]}… ({what}): {total}, every hash right")


def read_place(directory: Path) -> Place:
    """The file system below a directory, which may not exist yet."""
    existing = directory.absolute()
    while not existing.exists():
        existing = existing.parent
    existing = existing.resolve()
    writable = not os.statvfs(existing).f_flag & os.ST_RDONLY
    kind = file_system(_mounts(), existing)
    return Place(kind, writable, shutil.disk_usage(existing).free)


def file_system(mounts: str, path: Path) -> str:
    """Its type, from the text of /proc/self/mountinfo; empty where that says nothing."""
    best, kind = "", ""
    for line in mounts.splitlines():
        left, separator, right = line.partition(" - ")
        words = left.split()
        if not separator or len(words) < 5:
            continue
        point = words[4].replace("\\040", " ")
        inside = path == Path(point) or Path(point) in path.parents
        if inside and len(point) >= len(best):
            best, kind = point, right.split()[0]
    return kind


def read_modes(directory: Path) -> dict[str, int]:
    """Permission bits of the directory and of the files right in it."""
    found = {".": stat.S_IMODE(directory.stat().st_mode)}
    for path in sorted(directory.iterdir()):
        if path.is_file() and not path.is_symlink():
            found[path.name] = stat.S_IMODE(path.stat().st_mode)
    # What stands in a closed directory is closed too; only secrets must be so by themselves.
    if not found["."] & 0o077:
        return {name: mode for name, mode in found.items() if name in (".", "key", "device.json")}
    return found


def read_problem(path: Path) -> str | None:
    """What SQLite says of a database that is not whole; None if it is."""
    try:
        database = _open_read_only(path)
        try:
            said = str(database.execute("PRAGMA quick_check(1)").fetchone()[0])
        finally:
            database.close()
    except sqlite3.Error as error:
        return str(error)
    return None if said == "ok" else said


def newest_change(directory: Path) -> float | None:
    """Unix time of the youngest file of the device; None if there is none."""
    try:
        times = [path.stat().st_mtime for path in directory.iterdir()]
    except OSError:
        return None
    return max(times, default=None)


def _mounts() -> str:
    try:
        return Path("/proc/self/mountinfo").read_text("utf-8", errors="replace")
    except OSError:
        return ""


def _is_mine(directory: Path) -> bool:
    return not hasattr(os, "getuid") or directory.stat().st_uid == os.getuid()


def _remembered(state: StateDirectory) -> list[Path]:
    """Directories of the outbox's table, read without opening it for writing."""
    path = state.path / "outbox.sqlite3"
    if not path.is_file():
        return []
    try:
        database = _open_read_only(path)
        try:
            query = "SELECT directory FROM bundles ORDER BY used_at DESC"
            return [Path(row[0]) for row in database.execute(query)]
        finally:
            database.close()
    except sqlite3.Error:
        return []  # its own check says why


def _open_read_only(path: Path) -> sqlite3.Connection:
    """A database as it is. One that nobody has open gets no files beside it by being looked at."""
    in_use = path.with_name(f"{path.name}-wal").exists()
    options = "mode=ro" if in_use else "mode=ro&immutable=1"
    address = f"file:{quote(str(path.absolute()))}?{options}"
    return sqlite3.connect(address, uri=True, timeout=_BUSY)
