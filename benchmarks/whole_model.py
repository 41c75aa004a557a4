"""Our export of a whole model against that of optimum-onnx, which runs in its own environment.

    python -m benchmarks.whole_model                          the gpt2 shape; errors on stories260K
    python -m benchmarks.whole_model --model-shape tiny       any other shape

Node counts and bytes of what each wrote, peak memory (`ru_maxrss`) and CPU seconds of a process
that exports and checks what it wrote, as both do. Optimum's is made with the task
text-generation-with-past; its environment is that of `make optimum-env` (made when missing:
minutes). Then the logits of each of our precisions on stories260K against torch. The last line is
one JSON object.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import onnx

from benchmarks.real_inputs import data_root
from benchmarks.shapes import SHAPES, write_shape
from splitfrozen_export.home import export_whole
from splitfrozen_export.precision.quantize import PRECISIONS
from splitfrozen_export.request import Request

_OURS = "from splitfrozen_export.cli import main; main()"
_THEIRS = """
import sys
from optimum.exporters.onnx import main_export
main_export(sys.argv[1], sys.argv[2], task="text-generation-with-past")
"""


@click.command()
@click.option("--model-shape", type=click.Choice(list(SHAPES)), default="gpt2", show_default=True)
@click.option("--precision", "coded", default="int8", show_default=True, help="Ours beside fp32.")
@click.option("--optimum/--no-optimum", default=True, help="Run Optimum too.")
@click.option("--errors/--no-errors", default=True, help="Measure logits on stories260K.")
def whole_model(model_shape: str, coded: str, optimum: bool, errors: bool) -> None:
    """Measure exports of a whole model."""
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="splitfrozen-whole-") as scratch:
        model = write_shape(model_shape, Path(scratch) / "model")
        for precision in ("fp32", coded):
            output = Path(scratch) / precision
            arguments = ["--whole", "--precision", precision, "--output", str(output)]
            command = [sys.executable, "-c", _OURS, "--model", str(model), *arguments]
            rows[f"ours {precision}"] = export(command, output)
            _tell(f"ours {precision}", rows[f"ours {precision}"])
        if optimum:
            rows["optimum fp32"] = _optimum(model, Path(scratch) / "optimum")
            _tell("optimum fp32", rows["optimum fp32"])
    logits = _logits() if errors else {}
    click.echo(json.dumps({"model": model_shape, "exports": rows, "stories260K": logits}))


def export(command: Sequence[str], output: Path) -> dict[str, Any]:
    """Run an exporter to its end and look at what it wrote.

    Raises RuntimeError with what it said when it fails.
    """
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, env=environ, stdout=said, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"the export failed:\n{said.read()[-4000:]}")
    graph = onnx.load(output / "model.onnx", load_external_data=False).graph
    written = [*output.glob("model.onnx*"), *output.glob("*.data")]
    return {
        "nodes": len(graph.node),
        "graph_mb": round(sum(path.stat().st_size for path in set(written)) / 1e6, 1),
        "peak_mb": round(usage.ru_maxrss * 1024 / 1e6),  # Linux counts in KiB
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
    }


def _optimum(model: Path, output: Path) -> dict[str, Any]:
    from tests.optimum.environment import optimum_python

    return export([str(optimum_python()), "-I", "-c", _THEIRS, str(model), str(output)], output)


def _logits() -> dict[str, Any]:
    root = data_root()
    if root is None:
        click.echo("no stories260K: set SPLITFROZEN_TEST_DATA", err=True)
        return {}
    return logit_errors(root / "models" / "stories260K", PRECISIONS)


def logit_errors(model: Path, precisions: Sequence[str]) -> dict[str, Any]:
    """Of each precision, the exporter's own measurement against torch."""
    found = {}
    for precision in precisions:
        with tempfile.TemporaryDirectory(prefix="splitfrozen-whole-") as scratch:
            output = Path(scratch) / "home"
            request = Request(str(model), 0, output, precision, max_error=1.0, whole=True)
            report = export_whole(request, lambda step: None).summary_json()["report"]
        found[precision] = {
            name: report[name] for name in ("relative_error", "same_choice", "compared")
        }
        _tell(f"stories260K {precision}", found[precision])
    return found


def _tell(name: str, row: dict[str, Any]) -> None:
    values = (f"{value:.4g}" if isinstance(value, float) else value for value in row.values())
    pairs = zip(row, values, strict=True)
    click.echo(f"{name:20} " + ", ".join(f"{key} {value}" for key, value in pairs))


if __name__ == "__main__":
    whole_model()
