"""The demo's pieces: children that never outlive it, an output directory it may replace."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from benchmarks.inputs import Inputs
from benchmarks.labelled import Labelled, read_labelled, write_labelled
from benchmarks.walkthrough import children as processes
from benchmarks.walkthrough.children import Child, Children, CommandError
from benchmarks.walkthrough.crew import Crew
from benchmarks.walkthrough.plan import Plan, Settings, make_plan, prepare_output
from splitfrozen.errors import DataError

ROWS = [Labelled(f"{label} {number}", label) for label in "abcd" for number in range(10)]
COLOURS = ["crimson", "scarlet", "ruby", "cherry", "navy", "azure", "cobalt", "teal"]


def _children(tmp_path: Path) -> Children:
    return Children(tmp_path / "logs", tmp_path)


def _plan(output: Path, rows: list[Labelled] = ROWS) -> Plan:
    return make_plan(Inputs("model", rows, rows), Settings(cut=1, devices=2), output)


def _wait_for_file(path: Path) -> str:
    while not path.exists() or not path.read_text().strip():
        time.sleep(0.01)
    return path.read_text().strip()


def _start_with_grandchild(children: Children, tmp_path: Path) -> tuple[Child, int]:
    child = children.start("parent", ["sh", "-c", "sleep 600 & echo $! > grandchild; wait"])
    return child, int(_wait_for_file(tmp_path / "grandchild"))


def _is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_commands_and_their_own_children_end_with_the_block(tmp_path: Path) -> None:
    with _children(tmp_path) as children:
        child, grandchild = _start_with_grandchild(children, tmp_path)
    assert child.process.poll() is not None
    psutil.wait_procs([p for p in psutil.process_iter() if p.pid == grandchild], timeout=5)
    assert not _is_running(grandchild)


def test_a_command_that_ignores_sigterm_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "GRACE", 0.2)
    with _children(tmp_path) as children:
        script = "trap '' TERM; echo ready > ready; while :; do sleep 0.05; done"
        child = children.start("stubborn", ["sh", "-c", script])
        _wait_for_file(tmp_path / "ready")
    assert child.process.returncode == -signal.SIGKILL


def test_a_failed_command_is_shown_with_the_end_of_its_log(tmp_path: Path) -> None:
    with _children(tmp_path) as children, pytest.raises(CommandError, match=r"with 7:\s+no disk"):
        children.run("failing", ["sh", "-c", "echo no disk >&2; exit 7"])


def test_nothing_starts_once_the_demo_is_ending(tmp_path: Path) -> None:
    with _children(tmp_path) as children:
        children.end()
        with pytest.raises(CommandError, match="ending"):
            children.start("late", ["true"])


def test_a_failing_call_ends_the_commands_beside_it(tmp_path: Path) -> None:
    with (
        _children(tmp_path) as children,
        pytest.raises(CommandError, match="with 3"),
        Crew(children, at_once=2) as crew,
    ):
        sleeping = crew.submit(children.run, "sleeping", ["sleep", "600"])
        crew.submit(children.run, "failing", ["sh", "-c", "exit 3"]).result()
    assert isinstance(sleeping.exception(), CommandError)


def test_the_output_of_an_earlier_demo_is_replaced(tmp_path: Path) -> None:
    plan = _plan(tmp_path / "out")
    prepare_output(plan)
    (plan.output / "old").write_text("x")
    prepare_output(plan)
    assert not (plan.output / "old").exists()
    assert sorted(read_labelled(plan.training_file), key=str) == sorted(ROWS, key=str)


def test_a_directory_that_no_demo_wrote_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(FileExistsError, match="--output"):
        prepare_output(_plan(tmp_path))
    assert (tmp_path / "thesis.txt").exists()


def test_a_label_that_a_flag_cannot_carry_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="comma"):
        _plan(tmp_path, [*ROWS, Labelled("x", "a,b")])


def test_the_first_half_of_every_device_knows_every_label(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    assert plan.fewest_per_label(1.0) == 10
    assert plan.fewest_per_label(0.5) > 0
    first = read_labelled(plan_file(plan))
    assert first == plan.parts[0][: len(first)]


def plan_file(plan: Plan) -> Path:
    prepare_output(plan)
    return plan.write_device_file(0, 0.5)


def _demo(tmp_path: Path, model: Path, *words: str) -> list[str]:
    rows = [
        Labelled(f"{colour} {number}", "red" if place < 4 else "blue")
        for number in range(30)
        for place, colour in enumerate(COLOURS)
    ]
    write_labelled(tmp_path / "data.jsonl", rows)
    command = [sys.executable, "-m", "benchmarks.demo", "--model", str(model), "--devices", "2"]
    command += ["--data", str(tmp_path / "data.jsonl"), "--output", str(tmp_path / "out")]
    return [*command, *words]


def test_an_interrupted_demo_leaves_no_process_behind(
    tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    command = _demo(tmp_path, tiny_model("bert"), "--cut", "2")
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as demo:
        while demo.poll() is None and not list(tmp_path.glob("out/logs/*-export.log")):
            time.sleep(0.01)
        demo.send_signal(signal.SIGINT)
        _, errors = demo.communicate()
    assert demo.returncode == 130
    assert b"Interrupted" in errors.splitlines()[-1]
    left = [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(p.info["cmdline"])]
    assert left == []


@pytest.mark.long
def test_the_demo_trains_any_model_on_any_file(
    tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    command = _demo(tmp_path, tiny_model("gpt2"), "--epochs", "10", "--json")
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.stdout, ended.stderr
    report = json.loads(ended.stdout.splitlines()[-1])
    assert (ended.returncode == 0) == report["helped"], ended.stderr
    assert report["steps"] >= 10 * report["examples"] / 32
    assert min(report["bytes_up"]) > 0
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").is_file()
