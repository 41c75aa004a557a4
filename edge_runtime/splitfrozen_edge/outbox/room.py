"""How much the outbox may hold. The disk belongs to others as well."""

from __future__ import annotations

import shutil
from pathlib import Path

OUTBOX_BYTES = 512 * 1024 * 1024  # of bodies; computing pauses above
_SHARE = 0.5  # of the room that the disk would have if the outbox were empty


def allowance(limit: int, queued: int, path: Path, empty: int) -> int:
    """Bytes of bodies that the outbox at `path` may hold: `limit`, or its share of the disk.

    `queued`: bytes of bodies in it; `empty`: bytes of its file that hold nothing.
    """
    free = shutil.disk_usage(path.parent).free
    return min(limit, share(free, queued, empty))


def share(free: int, queued: int, empty: int) -> int:
    """The disk's part of `allowance`: it does not shrink while the outbox fills. Pure."""
    return int((free + queued + empty) * _SHARE)
