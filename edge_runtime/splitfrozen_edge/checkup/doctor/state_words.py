"""What the device's own directory says. Pure but for the readings that are passed in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from splitfrozen_edge.checkup.doctor.findings import Finding, fail, ok, size, warn

_LITTLE = 200e6  # bytes: an outbox and a bundle need room
_TOO_LITTLE = 20e6
_WITHOUT_MODES = ("vfat", "exfat", "msdos", "ntfs", "ntfs3", "fuseblk")
_REMOTE = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs")
_LOST = ("tmpfs", "ramfs")


@dataclass(frozen=True)
class Place:
    """Where a directory lies."""

    kind: str  # file system: ext4, vfat …
    writable: bool
    free: int  # bytes for this user


def check_place(directory: Path, place: Place) -> Finding:
    """File systems on which nothing private or nothing lasting can be kept."""
    where = f"{directory} on {place.kind or 'an unknown file system'}"
    move = "choose another --state-dir, on the card's ext4 or on a disk"
    if not place.writable:
        advice = f"{move}; a card that turned read-only is about to fail: copy it to a new one"
        return fail("file-system", f"{where} is read-only", advice)
    if place.kind in _WITHOUT_MODES:
        return fail("file-system", f"{where}: it has no modes, so anyone can read the token", move)
    if place.kind in _REMOTE:
        return fail("file-system", f"{where}: the outbox does not survive on a network share", move)
    if place.kind in _LOST:
        return warn("file-system", f"{where}: enrolment and outbox are lost at a restart", move)
    if place.kind == "overlay":
        found = f"{where}: in a container, or under a Pi's overlay, it is lost with it"
        return warn("file-system", found, move)
    return ok("file-system", where)


def check_disk(place: Place, bundle_bytes: int) -> Finding:
    """`bundle_bytes`: what a newer version of the bundle would take beside this one."""
    found = f"{size(place.free)} free"
    advice = "free some: sudo apt clean, old bundles, journalctl --vacuum-size=50M"
    if place.free < _TOO_LITTLE:
        return fail("disk", found, advice)
    if place.free < _LITTLE + bundle_bytes:
        return warn("disk", f"{found}: little for a new bundle and a full outbox", advice)
    return ok("disk", found)


def check_modes(directory: Path, modes: dict[str, int], *, mine: bool) -> Finding:
    """`modes`: permission bits by name, "." for the directory; `mine`: this user owns all."""
    if not mine:
        found = f"{directory} belongs to another user"
        advice = "run this as the user who enrolled it (the service's: sudo -u splitfrozen …)"
        return fail("permissions", found, advice)
    open_to_others = sorted(name for name, mode in modes.items() if mode & 0o077)
    if open_to_others:
        listed = ", ".join(f"{name} {modes[name]:04o}" for name in open_to_others[:5])
        advice = f"chmod -R go= {directory}; if others use this machine, enroll anew"
        return fail("permissions", f"others may look into {directory}: {listed}", advice)
    return ok("permissions", f"{directory} is private to its user")


def check_database(path: Path, problem: str | None) -> Finding:
    """`problem`: what SQLite said instead of ok."""
    name = path.name.partition(".")[0]
    if problem is None:
        return ok(name, f"{path.name} is whole")
    advice = (
        f"check the card, then move {path} away; rows that waited in it are computed again by the "
        "next push, and the server refuses what it already has"
    )
    return fail(name, f"{path.name} is damaged: {problem}", advice)
