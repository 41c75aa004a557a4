"""The edge from the built wheel, in an environment with the edge extra and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.stack import Stack, write_rows

ROOT = Path(__file__).resolve().parents[2]
FORBIDDEN = ("torch", "transformers", "fastapi", "peft", "onnx", "sqlalchemy")

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def edge_bin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", directory, ROOT],
        check=True, timeout=300,
    )  # fmt: skip
    wheel = next(directory.glob("*.whl"))
    venv.create(directory / "venv", with_pip=True)
    pip = [directory / "venv" / "bin" / "python", "-m", "pip", "install", "--quiet"]
    constraints = ["--constraint", ROOT / "constraints.txt"]
    subprocess.run([*pip, *constraints, f"{wheel}[edge]"], check=True, timeout=500)
    yield directory / "venv" / "bin"


def test_what_a_device_needs_besides_code_is_in_the_wheel(edge_bin: Path) -> None:
    """The systemd unit, with this environment's program in it; and the doctor finds no fault."""
    unit = run([edge_bin / "splitfrozen-edge", "service", "print"])
    assert f"ExecStart={edge_bin / 'splitfrozen-edge'} run " in unit
    examined = json.loads(
        run([edge_bin / "splitfrozen-edge", "doctor", "--offline", "--format", "json"])
    )
    found = {row["check"]: row["status"] for row in examined["checks"]}
    assert (found["python"], found["runtime"]) == ("ok", "ok")


def run(command: list[str | Path]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def test_the_heavy_frameworks_are_not_installed(edge_bin: Path) -> None:
    script = "import importlib.util as u, sys; print([m for m in sys.argv[1:] if u.find_spec(m)])"
    done = subprocess.run(
        [edge_bin / "python", "-c", script, *FORBIDDEN], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_device_enrols_pushes_and_reports_its_status(
    edge_bin: Path,
    stack: Stack,
    tiny_model: Callable[[str], Path],
    tiny_bundle: Path,
    tmp_path: Path,
) -> None:
    stack.admin("models", "add", "tiny", tiny_model("gpt2"))
    stack.admin("bundles", "add", tiny_bundle)
    token = stack.admin("tokens", "create", "--role", "enrol", "--uses", 1)["token"]
    data = write_rows(
        tmp_path / "rows.jsonl", [{"text": f"row {n}", "label": "ab"[n % 2]} for n in range(40)]
    )

    def edge(*arguments: object) -> str:
        name, *rest = map(str, arguments)
        command = [edge_bin / "splitfrozen-edge", name, "--state-dir", tmp_path / "pi", *rest]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=120
        ).stdout

    edge("enroll", "--server", stack.url, "--token", token, "--name", "pi")
    edge("push", "--bundle", tiny_bundle, "--dataset", "fresh", "--data", data)
    assert stack.admin("datasets", "get", "fresh")["examples"] == 40
    assert "fresh" in edge("status")
