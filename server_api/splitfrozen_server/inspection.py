"""Ask a subprocess about a base model, so that torch stays out of the API process."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
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


async def inspect_model(
    source: str, *, revision: str | None, cut: int | None, trust_remote_code: bool
) -> InspectedModel:
    """Resolve `source` and read its facts; ModelError with the reason if it cannot be used."""
    arguments = ["-m", "splitfrozen_server.inspect_model"]
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
