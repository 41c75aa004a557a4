"""Small files that are replaced as a whole."""

from __future__ import annotations

import os
from pathlib import Path

from splitfrozen_edge.state import sync_directory


def replace_file(path: Path, text: str, *, durable: bool) -> None:
    """Write a small file so that a reader sees the old or the new one, never a part.

    `durable` outlasts a power cut and costs two synchronisations.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
        if durable:
            stream.flush()
            os.fsync(stream.fileno())
    part.replace(path)
    if durable:
        sync_directory(path.parent)
