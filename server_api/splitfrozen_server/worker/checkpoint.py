"""Checkpoints on disk: safetensors and JSON, published atomically, named by what they hold.

    <directory>/step-00000050-<sha256, 16 digits>/
        adapter_config.json adapter_model.safetensors     a PEFT directory of its own
        optimizer.safetensors                             AdamW's moments
        state.json                                        step, admission log position, evaluations

A checkpoint is written beside its place, flushed to the disk file by file, then renamed. Whatever
does not hash to its name is ignored, so a kill at any instant leaves the one before it in force.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
KEEP = 2
_OPTIMIZER = "optimizer.safetensors"
_STATE = "state.json"
_NAME = re.compile(r"step-(\d{8,})-([0-9a-f]{16})")
_PART = ".part"


@dataclass(frozen=True)
class Checkpoint:
    """All that a job needs to go on from `step` as if nothing had happened."""

    step: int
    adapter: dict[str, Tensor]  # PEFT's names
    adapter_config: bytes
    optimizer: dict[str, Tensor]
    state: dict[str, Any]  # JSON


def save(directory: Path, checkpoint: Checkpoint) -> str:
    """Publish a checkpoint, drop all but the newest two, and return its name."""
    files = {
        ADAPTER_CONFIG: checkpoint.adapter_config,
        ADAPTER_WEIGHTS: save_tensors(checkpoint.adapter),
        _OPTIMIZER: save_tensors(checkpoint.optimizer),
        _STATE: json.dumps(checkpoint.state, sort_keys=True).encode(),
    }
    name = f"step-{checkpoint.step:08d}-{_digest(files)}"
    directory.mkdir(parents=True, exist_ok=True)
    if _load(directory / name) is None:  # absent, or rotten
        shutil.rmtree(directory / name, ignore_errors=True)
        _publish(directory, name, files)
    _prune(directory)
    return name


def newest(directory: Path) -> Checkpoint | None:
    """The newest checkpoint whose content hashes to its name, or None."""
    for path in reversed(_published(directory)):
        if (found := _load(path)) is not None:
            return found
    return None


def drop_all(directory: Path) -> None:
    """Delete every checkpoint."""
    for path in _published(directory):
        shutil.rmtree(path, ignore_errors=True)


def _publish(directory: Path, name: str, files: dict[str, bytes]) -> None:
    part = directory / f"{_PART}-{name}"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    for file, content in files.items():
        with (part / file).open("wb") as sink:
            sink.write(content)
            sink.flush()
            os.fsync(sink.fileno())
    _fsync_directory(part)
    part.rename(directory / name)
    _fsync_directory(directory)


def _load(path: Path) -> Checkpoint | None:
    try:
        names = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, _OPTIMIZER, _STATE)
        files = {name: (path / name).read_bytes() for name in names}
    except OSError:
        return None
    step, digest = _parse(path)
    if _digest(files) != digest:
        return None
    return Checkpoint(
        step=step,
        adapter=load_tensors(files[ADAPTER_WEIGHTS]),
        adapter_config=files[ADAPTER_CONFIG],
        optimizer=load_tensors(files[_OPTIMIZER]),
        state=json.loads(files[_STATE]),
    )


def _published(directory: Path) -> list[Path]:
    """Checkpoint directories, oldest first."""
    if not directory.is_dir():
        return []
    return sorted((path for path in directory.iterdir() if _NAME.fullmatch(path.name)), key=_parse)


def _prune(directory: Path) -> None:
    stale: Iterator[Path] = (path for path in directory.iterdir() if path.name.startswith(_PART))
    for path in [*stale, *_published(directory)[:-KEEP]]:
        shutil.rmtree(path, ignore_errors=True)


def _parse(path: Path) -> tuple[int, str]:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1]), match[2]


def _digest(files: dict[str, bytes]) -> str:
    """One hash over the names and hashes of all files, 16 hex digits."""
    total = hashlib.sha256()
    for name in sorted(files):
        total.update(name.encode() + b"\0" + hashlib.sha256(files[name]).digest())
    return total.hexdigest()[:16]


def _fsync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
