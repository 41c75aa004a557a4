"""Writes the prepacked form of a graph and proves that it computes the same bits.

    python -m splitfrozen_edge.model.prepacking GRAPH DIRECTORY

is how a client does it: two sessions of its own would stay in the memory that it wants to save.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from splitfrozen.graph import ATTENTION_MASK, INPUT_IDS
from splitfrozen_edge.model.session import Graph, GraphOptions, save_prepacked

_BATCHES = ((1, 1), (2, 9))  # one token, and several at once: they take different kernels


_PATIENCE = 600.0  # seconds; a large graph on a slow card


class PrepackingError(Exception):
    """The prepacked form cannot be made, or computes something else."""


def save_apart(source: Path, directory: Path) -> None:
    """`save_checked` in a process of its own. Raises PrepackingError with its last words."""
    command = [sys.executable, "-m", __name__, str(source), str(directory)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_PATIENCE
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PrepackingError(str(error)) from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"the process ended with {done.returncode}"]
        raise PrepackingError(lines[-1])


def save_checked(source: Path, directory: Path) -> None:
    """Write the prepacked form of `source` into `directory`.

    Raises PrepackingError if its outputs differ by a bit from those of `source`, ManifestError or
    ModelError if one of the two cannot be loaded or run.
    """
    save_prepacked(source, directory, threads=1)
    before = Graph(source, GraphOptions(1))
    after = Graph(directory / source.name, GraphOptions(1, saved=True))
    for batch, tokens in _BATCHES:
        feeds = make_feeds(before, batch, tokens)
        wanted = before.run(before.outputs, feeds)
        found = after.run(before.outputs, feeds)
        for name, array in wanted.items():
            if array.tobytes() != found[name].tobytes():
                raise PrepackingError(f"{name} differs for {batch} x {tokens} tokens")


def make_feeds(graph: Graph, batch: int, tokens: int) -> dict[str, Any]:
    """Small token ids for any graph of a bundle; keys and values of no earlier token."""
    ids = np.arange(batch * tokens, dtype=np.int64).reshape(batch, tokens)
    feeds: dict[str, Any] = {INPUT_IDS: ids, ATTENTION_MASK: np.ones_like(ids)}
    for name, shape in graph.inputs.items():
        if name not in feeds:
            sizes = [size if isinstance(size, int) else 0 for size in shape]
            feeds[name] = np.zeros([batch, *sizes[1:]], np.float32)
    return feeds


if __name__ == "__main__":
    save_checked(*map(Path, sys.argv[1:]))
