"""Everything that `bench` measures of a bundle, as one JSON-ready object of less than 4 KiB."""

from __future__ import annotations

import json
import platform
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from splitfrozen.bundle import Bundle
from splitfrozen.graph import DEVICE_GRAPH
from splitfrozen_edge.checkup.bench.blocks import block_times
from splitfrozen_edge.checkup.bench.probe import ask_probe
from splitfrozen_edge.checkup.bench.speed import fit_shapes, measure_speed
from splitfrozen_edge.checkup.doctor.readings import read_machine
from splitfrozen_edge.http.uplink import read_uplink
from splitfrozen_edge.model.cores import usable_cores
from splitfrozen_edge.model.opening import choose_threads, open_planned, plan_graph
from splitfrozen_edge.model.processor import describe_processor
from splitfrozen_edge.model.session import RUNTIME, DeviceSession, Graph, GraphOptions
from splitfrozen_edge.model.threads import typical_ids

_PROFILED = (1, 128)  # the batch whose nodes are timed
_PROFILE_RUNS = 6  # the first is not counted


@dataclass(frozen=True)
class BenchRequest:
    """What the user asked for."""

    seconds: float  # of timing batches, in all
    threads: int | None = None  # None: as measured on this device
    memory: str = "auto"


def measure_bundle(bundle: Bundle, home: Path, request: BenchRequest) -> dict[str, Any]:
    """Measure a bundle on this device. Nothing is sent."""
    manifest = bundle.manifest
    before = read_machine()
    threads = request.threads or choose_threads(bundle, home, memory=request.memory)
    plan = plan_graph(bundle, DEVICE_GRAPH, home, request.memory)
    uplink = read_uplink(home)
    found = {
        "measured_at": int(time.time()),
        "bundle": bundle.id,
        "base_model": manifest.base_model.id,
        "cut": manifest.cut,
        "precision": manifest.precision,
        "runtime": RUNTIME,
        "machine": platform.machine(),
        "processor": before.board or describe_processor(),
        "cores": usable_cores(),
        "threads": threads,
        "profile": plan.profile,
        "profile_reason": plan.reason,
        "batches": _batches(bundle, open_planned(bundle, DEVICE_GRAPH, plan, threads), request),
        "memory": {
            memory: _in_mb(ask_probe(bundle.directory, home, memory, threads))
            for memory in ("normal", "low")
        },
        "uplink_bytes_per_second": round(uplink.bytes_per_second) if uplink else None,
        "uplink_measured_at": uplink.measured_at if uplink else None,
        "temperature_before": before.temperature,
        "temperature_after": read_machine().temperature,
    }
    return {**found, "blocks": _blocks(bundle, plan.path, plan.options(threads))}


def _batches(bundle: Bundle, graph: Graph, request: BenchRequest) -> list[dict[str, Any]]:
    session = DeviceSession(bundle, wire=bundle.manifest.wire, graph=graph)
    shapes = fit_shapes(bundle.manifest.preprocess.max_length)
    found = []
    for examples, tokens in shapes:
        ids = typical_ids(bundle.manifest.vocab_size, tokens, examples)
        mask = np.ones_like(ids)

        def run(ids: Any = ids, mask: Any = mask) -> object:
            return session.run(ids, mask)

        speed = measure_speed(examples, tokens, run, request.seconds / len(shapes))
        found.append(asdict(speed))
    return found


def _blocks(bundle: Bundle, path: Path, options: GraphOptions) -> dict[str, Any] | None:
    """Milliseconds and CPU-seconds of each block; None if the runtime gives no times."""
    manifest = bundle.manifest
    tokens = min(_PROFILED[1], manifest.preprocess.max_length)
    ids = typical_ids(manifest.vocab_size, tokens, _PROFILED[0])
    with tempfile.TemporaryDirectory(prefix="splitfrozen-bench-") as scratch:
        prefix = Path(scratch) / "nodes"
        graph = Graph(
            path,
            GraphOptions(options.threads, options.prepack, options.saved, profile=prefix),
        )
        session = DeviceSession(bundle, wire=manifest.wire, graph=graph)
        session.run(ids, np.ones_like(ids))
        cpu_started = time.process_time()
        for _ in range(_PROFILE_RUNS - 1):
            session.run(ids, np.ones_like(ids))
        cpu = (time.process_time() - cpu_started) / (_PROFILE_RUNS - 1)
        events = json.loads(graph.end_profile().read_text("utf-8"))
    times = block_times(events, manifest.cut)
    if times is None:
        return None
    whole = times.before + sum(times.blocks) + times.after
    return {
        "tokens": tokens,
        "method": "node times, a block ends with its last product"
        if times.even
        else "node times, mean of all blocks",
        "before_ms": times.before,
        "block_ms": list(times.blocks),
        "after_ms": times.after,
        "block_cpu_seconds": [round(cpu * part / whole, 5) for part in times.blocks],
    }


def _in_mb(found: dict[str, Any]) -> dict[str, Any]:
    if "rss" not in found:
        return {"error": found.get("error", "this system does not say")}
    return {
        "rss_mb": round(found["rss"] / 1e6, 1),
        "anon_mb": round(found["anonymous"] / 1e6, 1),
        "profile": found["profile"],
    }
