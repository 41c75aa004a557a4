"""Memory of a process that does nothing but run a bundle: `bench` starts one per profile.

    python -m splitfrozen_edge.checkup.bench.probe BUNDLE STATE MEMORY THREADS

Runs one example of 128 tokens and prints one JSON object, in bytes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

TOKENS = 128
_PATIENCE = 300.0  # seconds; a large bundle on a slow card


def ask_probe(bundle: Path, home: Path, memory: str, threads: int) -> dict[str, Any]:
    """`rss`, `anonymous` in bytes and `profile`; {"error": …} if the process fails."""
    arguments = [str(bundle), str(home), memory, str(threads)]
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__, *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=_PATIENCE,
        )
        found = json.loads(done.stdout.splitlines()[-1])
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"it ended with {error.returncode}"]
        return {"error": lines[-1][:200]}
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
        return {"error": str(error)[:200]}
    return found if isinstance(found, dict) else {"error": "no answer"}


def main(bundle: str, home: str, memory: str, threads: str) -> None:
    """Open, run once, look at this process."""
    import numpy as np

    from splitfrozen.bundle import read_bundle
    from splitfrozen.graph import DEVICE_GRAPH
    from splitfrozen_edge.model.memory import process_memory
    from splitfrozen_edge.model.opening import open_planned, plan_graph
    from splitfrozen_edge.model.session import DeviceSession
    from splitfrozen_edge.model.threads import typical_ids

    found = read_bundle(Path(bundle))
    plan = plan_graph(found, DEVICE_GRAPH, Path(home), memory)
    graph = open_planned(found, DEVICE_GRAPH, plan, int(threads))
    session = DeviceSession(found, wire=found.manifest.wire, graph=graph)
    manifest = found.manifest
    ids = typical_ids(manifest.vocab_size, min(TOKENS, manifest.preprocess.max_length))
    session.run(ids, np.ones_like(ids))
    print(json.dumps({**process_memory(), "profile": plan.profile}))


if __name__ == "__main__":
    main(*sys.argv[1:])
