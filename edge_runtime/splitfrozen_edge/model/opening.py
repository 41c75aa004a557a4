"""Opens the graphs of a bundle as fits this device: threads, memory profile, prepacked weights.

What was measured or made for that lies in the state directory; without it, or when it fails, the
bundle runs as it is.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from splitfrozen.bundle import Bundle
from splitfrozen.errors import ManifestError
from splitfrozen.graph import ATTENTION_MASK, DEVICE_GRAPH, DEVICE_WEIGHTS, HIDDEN, INPUT_IDS
from splitfrozen_edge.allocator import give_back
from splitfrozen_edge.model.cores import default_threads, usable_cores
from splitfrozen_edge.model.memory import available_memory, want_low, why_packed
from splitfrozen_edge.model.prepacked import Layout, PrepackedCache, PrepackedError
from splitfrozen_edge.model.prepacking import save_apart
from splitfrozen_edge.model.processor import processor_key
from splitfrozen_edge.model.session import RUNTIME, DeviceSession, Graph, GraphOptions
from splitfrozen_edge.model.threads import (
    Run,
    ThreadChoices,
    candidates,
    fewest,
    measure,
    typical_ids,
)

_TOKENS = 128  # of the batch that is measured


@dataclass(frozen=True)
class Plan:
    """Which file of a graph is opened, and how."""

    path: Path
    profile: str  # packed, mapped or unpacked: see `memory`
    reason: str  # for people

    def options(self, threads: int) -> GraphOptions:
        """With so many threads."""
        return GraphOptions(
            threads, prepack=self.profile != "unpacked", saved=self.profile == "mapped"
        )


def open_session(
    bundle: Bundle,
    home: Path,
    *,
    threads: int | None = None,
    memory: str = "auto",
    wire: str = "int8",
    stop: threading.Event | None = None,
) -> DeviceSession:
    """The device segment of a verified bundle. `home`: the state directory.

    `threads` None: as measured on this device, now if it never was; `memory`: auto, normal or low.
    Setting `stop` ends a measurement early. ManifestError if the graph is none.
    """
    graph = open_graph(bundle, DEVICE_GRAPH, home, threads=threads, memory=memory, stop=stop)
    return DeviceSession(bundle, wire=wire, graph=graph)


def open_graph(
    bundle: Bundle,
    name: str,
    home: Path,
    *,
    threads: int | None = None,
    memory: str = "auto",
    stop: threading.Event | None = None,
) -> Graph:
    """Any graph of a verified bundle, as `open_session` opens device.onnx."""
    plan = plan_graph(bundle, name, home, memory)
    count = threads or choose_threads(bundle, home, memory=memory, stop=stop)
    return open_planned(bundle, name, plan, count)


def open_planned(bundle: Bundle, name: str, plan: Plan, threads: int) -> Graph:
    """Open what was planned; a prepacked file that cannot be loaded is passed over."""
    try:
        return Graph(plan.path, plan.options(threads))
    except ManifestError:
        if plan.profile != "mapped":
            raise
        return Graph(bundle.path(name), GraphOptions(threads))


def plan_graph(bundle: Bundle, name: str, home: Path, memory: str) -> Plan:
    """The memory profile of a graph; makes the prepacked file if that is what fits."""
    source = bundle.path(name)
    weights = _weights(bundle)
    wanted = want_low(memory, weights, available_memory())
    if not wanted.low:
        return Plan(source, "packed", wanted.reason)
    layout = Layout(bundle.id, name, processor_key(), RUNTIME)
    try:
        cache = PrepackedCache(home / "prepacked", save_apart)
        return Plan(cache.find(layout, source, weights), "mapped", wanted.reason)
    except PrepackedError as error:
        obstacle = why_packed(bundle.manifest, source.read_bytes())
        if obstacle is None:
            return Plan(source, "unpacked", f"{wanted.reason}; {error}")
        return Plan(source, "packed", f"low memory is not possible: {error}, and {obstacle}")


def choose_threads(
    bundle: Bundle,
    home: Path,
    *,
    memory: str = "auto",
    stop: threading.Event | None = None,
) -> int:
    """The number that was measured for this bundle here; measures if that was never done."""
    counts = candidates(usable_cores())
    if len(counts) == 1:
        return counts[0]
    choices = ThreadChoices(home / "threads.json")
    key = _key(bundle, counts)
    known = choices.get(key)
    if known is not None:
        return known
    plan = plan_graph(bundle, DEVICE_GRAPH, home, memory)
    seconds = measure(_batch(bundle, plan), counts, stop=stop)
    if not seconds or (stop is not None and stop.is_set()):
        return default_threads()
    threads = fewest(seconds)
    choices.put(key, threads, seconds)
    give_back()  # the sessions that were measured
    return threads


def _batch(bundle: Bundle, plan: Plan) -> Callable[[int], Run]:
    rules = bundle.manifest.preprocess
    ids = typical_ids(bundle.manifest.vocab_size, min(_TOKENS, rules.max_length))
    feeds = {INPUT_IDS: ids, ATTENTION_MASK: np.ones_like(ids)}

    def prepare(threads: int) -> Run:
        graph = open_planned(bundle, DEVICE_GRAPH, plan, threads)
        return lambda: graph.run([HIDDEN], feeds)

    return prepare


def _key(bundle: Bundle, counts: tuple[int, ...]) -> str:
    text = json.dumps([bundle.id, processor_key(), RUNTIME, counts])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _weights(bundle: Bundle) -> int:
    """Bytes of the external weights; a graph that carries its own counts itself."""
    files = bundle.manifest.files
    return files[DEVICE_WEIGHTS if DEVICE_WEIGHTS in files else DEVICE_GRAPH].size
