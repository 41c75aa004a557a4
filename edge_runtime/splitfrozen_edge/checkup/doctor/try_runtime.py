"""Runs ONNX Runtime in a process that may die of it: `python -m … [BUNDLE]`.

Says each finished step as one line of JSON, so that whoever started it knows where it ended.
"""

from __future__ import annotations

import base64
import importlib
import json
import sys
from pathlib import Path

# A graph of one MatMul of float [1, 2] with [[1, 2], [3, 4]]; 108 bytes of protobuf.
_TINY = (
    "CAoSADpgChEKAXgKAXcSAXkiBk1hdE11bBIEdGlueSobCAIIAhABQgF3ShAAAIA/AAAAQAAAQEAAAIBAWhMKAXgS"
    "DgoMCAESCAoCCAEKAggCYhMKAXkSDgoMCAESCAoCCAEKAggCQgQKABAU"
)

_LIBRARIES = ("data.tokenizer", "http.client", "identity.signature")  # what else is compiled


def _say(step: str, **versions: str) -> None:
    print(json.dumps({"step": step, "versions": versions}), flush=True)


def main(arguments: list[str]) -> None:
    """Import numpy and the runtime, run a tiny model, import the rest, run a bundle."""
    _say("start")
    import numpy as np

    _say("numpy", numpy=np.__version__)
    import onnxruntime

    _say("import", onnxruntime=onnxruntime.__version__)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        base64.b64decode(_TINY), options, providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {"x": np.array([[1, 1]], np.float32)})
    if found.tolist() != [[4, 6]]:
        raise SystemExit(f"a tiny model gives {found.tolist()}, not [[4, 6]]: wrong arithmetic")
    _say("run")
    for name in _LIBRARIES:
        importlib.import_module(f"splitfrozen_edge.{name}")
    _say("libraries")
    if arguments:
        _run_bundle(Path(arguments[0]))
        _say("bundle")


def _run_bundle(directory: Path) -> None:
    import numpy as np

    from splitfrozen.bundle import read_bundle
    from splitfrozen_edge.model.session import DeviceSession

    session = DeviceSession(read_bundle(directory), threads=1)
    ids = np.zeros((1, 4), np.int64)
    session.run(ids, np.ones_like(ids))


if __name__ == "__main__":
    main(sys.argv[1:])
