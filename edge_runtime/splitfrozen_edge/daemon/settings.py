"""What the daemon is to do, read again when its files change: joined.json and policy.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from splitfrozen_edge.daemon import joined as joined_file
from splitfrozen_edge.daemon.joined import Joined, load_joined
from splitfrozen_edge.policy import stored as policy_file
from splitfrozen_edge.policy.rules import Policy
from splitfrozen_edge.policy.stored import load_policy


class Settings(Protocol):
    """Asked by the daemon at its start, and when the signature has changed."""

    def signature(self) -> object: ...

    def load(self) -> tuple[Sequence[Joined], Policy]: ...


@dataclass(frozen=True)
class StoredSettings:
    """Of `run`: what `join`, `leave` and `run`'s own flags wrote."""

    directory: Path

    def signature(self) -> object:
        """Changes when a file is written; costs two stats."""
        names = (joined_file.NAME, policy_file.NAME)
        return tuple(_stamp(self.directory / name) for name in names)

    def load(self) -> tuple[Sequence[Joined], Policy]:
        """StateError names a file that is wrong."""
        return load_joined(self.directory), load_policy(self.directory)


@dataclass(frozen=True)
class FixedSettings:
    """Of `watch`: one path, and the flags of its command line."""

    joined: Joined
    policy: Policy

    def signature(self) -> object:
        """Never changes."""
        return None

    def load(self) -> tuple[Sequence[Joined], Policy]:
        """As given."""
        return [self.joined], self.policy


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        info = path.stat()
    except OSError:
        return None
    return info.st_ino, info.st_size, info.st_mtime_ns
