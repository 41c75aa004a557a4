"""The doctor as a user starts it, and a runtime that dies in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from splitfrozen_edge.checkup.doctor.runtime import try_runtime
from splitfrozen_edge.checkup.doctor.runtime_words import Trial, judge_runtime
from splitfrozen_edge.state import Enrolment, StateDirectory
from tests.edge.doctor_server import TOKEN, Behaviour, serving

PROGRAM = [sys.executable, "-m", "splitfrozen_edge", "doctor"]


def run(state: Path, *arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """The doctor as a user starts it."""
    return subprocess.run(
        [*PROGRAM, "--state-dir", state, *arguments],
        capture_output=True, text=True, env={**os.environ, **environ}, timeout=120,
    )  # fmt: skip


def checks(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, str]]:
    return {row["check"]: row for row in json.loads(done.stdout)["checks"]}


# A whole run


def test_a_device_that_is_not_enrolled_and_has_no_network(tmp_path: Path) -> None:
    done = run(tmp_path / "none", "--format", "json")
    found = checks(done)
    assert done.returncode == 0, done.stdout
    assert found["enrolment"]["status"] == "warn"
    assert "enroll --server" in found["enrolment"]["advice"]
    assert found["runtime"]["status"] == "ok"
    assert "connection" not in found
    assert not (tmp_path / "none").exists(), "the doctor changes nothing"


def test_an_enrolled_device_with_its_bundle_and_its_server(
    tmp_path: Path, encoder_bundle: Path
) -> None:
    state = StateDirectory(tmp_path / "state")
    state.outbox().close()
    state.key()
    behaviour = Behaviour()
    with serving(behaviour) as port:
        state.store_enrolment(Enrolment(f"http://127.0.0.1:{port}", "dev_1", "pi", TOKEN))
        done = run(state.path, "--bundle", encoder_bundle)
    assert done.returncode == 0, done.stdout
    assert behaviour.tokens_seen == [TOKEN]
    assert TOKEN not in done.stdout + done.stderr
    assert "every hash right" in done.stdout
    assert "runs the bundle's model" in done.stdout
    assert "the server knows this device" in done.stdout


def test_a_server_that_is_away_fails_the_examination_and_offline_does_not(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / "state")
    with serving(Behaviour()) as port:
        pass
    state.store_enrolment(Enrolment(f"http://127.0.0.1:{port}", "dev_1", "pi", TOKEN))
    done = run(state.path)
    assert done.returncode == 1
    assert "refuses" in done.stdout
    assert TOKEN not in done.stdout + done.stderr
    assert run(state.path, "--offline").returncode == 0


# The runtime in a process of its own


@pytest.fixture
def shim(tmp_path: Path) -> Path:
    """A folder before all others, for an onnxruntime that misbehaves."""
    folder = tmp_path / "shim"
    (folder / "onnxruntime").mkdir(parents=True)
    return folder


def imports(shim: Path, code: str) -> dict[str, str]:
    (shim / "onnxruntime" / "__init__.py").write_text(code)
    return {"PYTHONPATH": str(shim)}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("SIGILL", "ONNX Runtime uses an instruction that this processor does not have"),
        ("SIGSEGV", "ONNX Runtime crashes this Python"),
        ("SIGKILL", "the system killed the process"),
    ],
)
def test_a_runtime_that_kills_its_process_is_told_in_words(
    tmp_path: Path, shim: Path, name: str, words: str
) -> None:
    deadly = imports(shim, f"import os, signal; os.kill(os.getpid(), signal.{name})")
    done = run(tmp_path / "state", "--format", "json", **deadly)
    runtime = checks(done)["runtime"]
    assert done.returncode == 1
    assert runtime["status"] == "fail"
    assert words in runtime["found"]
    assert name in runtime["found"]
    assert runtime["advice"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ('ImportError("libm.so.6: version `GLIBC_2.38\' not found")', "needs GLIBC_2.38"),
        ("ImportError('x.so: wrong ELF class: ELFCLASS64')", "another architecture"),
        ("ModuleNotFoundError(\"No module named 'onnxruntime'\")", "onnxruntime is not installed"),
        (
            "ImportError('libgomp.so.1: cannot open shared object file: No such file')",
            "needs libgomp.so.1",
        ),
        ("RuntimeError('something new')", "something new"),
    ],
)
def test_a_runtime_that_cannot_be_imported(
    shim: Path, monkeypatch: pytest.MonkeyPatch, error: str, words: str
) -> None:
    environ = imports(shim, f"raise {error}")
    monkeypatch.setenv("PYTHONPATH", environ["PYTHONPATH"])
    found = judge_runtime(try_runtime(None), "aarch64")
    assert found.status == "fail"
    assert words in found.found
    assert found.advice


def test_a_tokenizer_that_cannot_be_imported(shim: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(shim / "onnxruntime")
    (shim / "tokenizers.py").write_text("raise ImportError('wrong ELF class: ELFCLASS32')")
    monkeypatch.setenv("PYTHONPATH", str(shim))
    found = judge_runtime(try_runtime(None), "aarch64")
    assert found.status == "fail"
    assert "tokenizers" in found.found
    assert "another architecture" in found.found


def test_a_runtime_that_hangs(shim: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environ = imports(shim, "import threading; threading.Event().wait()")
    monkeypatch.setenv("PYTHONPATH", environ["PYTHONPATH"])
    found = judge_runtime(try_runtime(None, seconds=1.5), "aarch64")
    assert found.status == "fail"
    assert "took too long" in found.found


def test_a_runtime_that_computes_wrongly(shim: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
import numpy
__version__ = "0"
class SessionOptions: pass
class InferenceSession:
    def __init__(self, *a, **k): pass
    def run(self, *a): return [numpy.array([[4, 7]])]
"""
    environ = imports(shim, code)
    monkeypatch.setenv("PYTHONPATH", environ["PYTHONPATH"])
    found = judge_runtime(try_runtime(None), "x86_64")
    assert found.status == "fail"
    assert "wrong arithmetic" in found.found


def test_on_a_pi_an_illegal_instruction_names_versions_that_work() -> None:
    trial = Trial("numpy", {"numpy": "2.4.6", "onnxruntime": "1.21.0"}, -4)
    found = judge_runtime(trial, "aarch64")
    assert "1.21.0 is installed" in found.advice
    assert "onnxruntime==1.31.1" in found.advice


def test_a_python_that_cannot_start_itself_is_a_warning_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = tmp_path / "python"
    foreign.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(100))  # no program of this machine
    foreign.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(foreign))
    found = judge_runtime(try_runtime(None), "aarch64")
    assert found.status == "warn"
    assert "emulator" in found.found
    assert "--launcher" in found.advice


def test_a_launcher_starts_python(tmp_path: Path) -> None:
    launcher = tmp_path / "launch"
    launcher.write_text('#!/bin/sh\necho launched >> "$0.log"\nexec "$@"\n')
    launcher.chmod(0o755)
    done = run(tmp_path / "state", "--launcher", str(launcher), "--format", "json")
    assert checks(done)["runtime"]["status"] == "ok"
    assert Path(f"{launcher}.log").read_text() == "launched\n"
