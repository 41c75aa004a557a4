"""Ask a subprocess about a base model, so that torch stays out of the API process."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitfrozen.errors import CODES, ModelError


@dataclass(frozen=True)
class InspectedModel:
    """Facts of a model directory or Hub snapshot."""

    path: str  # directory
    revision: str | None  # commit of a Hub snapshot
    family: str
    num_layers: int
    hidden_size: int
    vocab_size: int
    prefix_digest: str | None = None  # of the cut that was asked for


class PrefixDigests:
    """Prefix digests that were computed before, good while the weight files do not change."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, tuple[object, ...]], str] = {}
        # Each computation is a process that imports torch: of many requests that come at once,
        # one makes it and the others wait for the result.
        self._computing = asyncio.Lock()

    async def of(self, path: str, cut: int, *, trust_remote_code: bool) -> str:
        """The prefix digest of the model directory `path` at `cut`."""
        key = (path, cut, _fingerprint(Path(path)))
        if key in self._known:
            return self._known[key]
        async with self._computing:
            if key not in self._known:
                facts = await inspect_model(
                    path, revision=None, cut=cut, trust_remote_code=trust_remote_code
                )
                assert facts.prefix_digest is not None  # a cut was given
                self._known[key] = facts.prefix_digest
        return self._known[key]

    def add(self, path: str, cut: int, digest: str) -> None:
        """Remember a digest that an inspection of `path` brought."""
        self._known[path, cut, _fingerprint(Path(path))] = digest


async def inspect_model(
    source: str, *, revision: str | None, cut: int | None, trust_remote_code: bool
) -> InspectedModel:
    """Resolve `source` and read its facts; ModelError with the reason if it cannot be used."""
    arguments = ["-P", "-m", "splitfrozen_server.inspect_model"]
    arguments += ["--revision", revision] if revision else []
    arguments += ["--cut", str(cut)] if cut else []
    arguments += ["--trust-remote-code"] if trust_remote_code else []
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        "--",
        source,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, log = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        raise
    answer = _last_line(output, log)
    if error := answer.get("error"):
        code = error["code"] if error["code"] in CODES else "model_not_supported"
        raise ModelError(code, error["message"], param="source")
    return InspectedModel(**answer["model"])


def _last_line(output: bytes, log: bytes) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(output.splitlines()[-1])
    except (IndexError, ValueError):
        lines = log.decode(errors="replace").strip().splitlines() or ["no output"]
        raise ModelError(
            "model_not_supported", f"the model cannot be inspected: {lines[-1]}", param="source"
        ) from None
    return found


def _fingerprint(directory: Path) -> tuple[object, ...]:
    """Name, size and time of every file that decides the digest."""
    files = sorted([*directory.glob("*.safetensors*"), directory / "config.json"])
    found = [(path.name, path.stat()) for path in files if path.exists()]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in found)
