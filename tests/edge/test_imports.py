"""What the edge loads, and when."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from splitfrozen_edge.state import StateDirectory
from tests.edge.conftest import write_sentences
from tests.edge.protocol_server import ProtocolServer

HEAVY = {"torch", "transformers", "fastapi", "sqlalchemy", "peft", "onnx", "pydantic", "starlette"}
RUN = """
import json, sys
from splitfrozen_edge.cli import main
main.main(sys.argv[1:], standalone_mode=False)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def loaded(code: str, *arguments: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import json, sys, splitfrozen_edge; print(json.dumps(sorted(sys.modules)))"
    assert not loaded(code) & (HEAVY | {"onnxruntime", "tokenizers", "httpx", "numpy", "rich"})


def test_status_loads_neither_runtime_nor_http(tmp_path: Path) -> None:
    found = loaded(RUN, "status", "--state-dir", str(tmp_path))
    assert not found & (HEAVY | {"onnxruntime", "tokenizers", "httpx", "jinja2", "numpy"})


def test_a_whole_push_loads_nothing_of_the_server_or_the_exporter(
    tmp_path: Path, server: ProtocolServer, state: StateDirectory, encoder_bundle: Path
) -> None:
    data = write_sentences(tmp_path / "data.jsonl", 10)
    found = loaded(
        RUN, "push", "--state-dir", str(state.path), "--bundle", str(encoder_bundle),
        "--dataset", "d", "--data", str(data),
    )  # fmt: skip
    assert {"onnxruntime", "tokenizers", "httpx"} <= found
    assert not found & (HEAVY | {"splitfrozen_export", "splitfrozen_server"})


def test_a_push_works_without_zstd(
    tmp_path: Path, server: ProtocolServer, state: StateDirectory, encoder_bundle: Path
) -> None:
    data = write_sentences(tmp_path / "data.jsonl", 10)
    hidden = "import sys; sys.modules |= {'compression': None, 'backports': None}\n" + RUN
    found = loaded(
        hidden, "push", "--state-dir", str(state.path), "--bundle", str(encoder_bundle),
        "--dataset", "d", "--data", str(data),
    )  # fmt: skip
    assert "onnxruntime" in found
    (seen,) = [seen for seen in server.requests if seen.method == "PUT"]
    assert "content-encoding" not in seen.headers
