"""What a user can ask the exporter for, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from splitfrozen.manifest import Manifest


@dataclass(frozen=True)
class Request:
    """What to export and how."""

    model: str  # Hub id or directory
    cut: int  # blocks on the device
    output: Path  # directory of the bundle
    precision: str = "int8"
    wire: str = "int8"
    revision: str | None = None
    trust_remote_code: bool = False
    max_length: int | None = None  # tokens; None: 512 or what the model has
    max_error: float | None = None  # relative; None: the precision's own limit
    opset: int | None = None  # None: the newest that works
    prove: str = "auto"  # twin: a random twin only; full: the weights too; auto: if they fit
    eval_text: Path | None = None  # one text a line; None: built-in sentences
    force: bool = False  # replace a bundle


@dataclass(frozen=True)
class Result:
    """A written bundle."""

    directory: Path
    id: str  # SHA-256 of its manifest, hex
    manifest: Manifest
