"""`bench` measures in clean processes; `diff` finds what differs and how far outputs are apart."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from splitfrozen.bundle import CHECKSUM_NAME, checksum_bytes
from splitfrozen.errors import SplitFrozenError
from splitfrozen.manifest import FileEntry, manifest_bytes, parse_manifest
from splitfrozen_export.tools import bench
from splitfrozen_export.tools.cli import bundle_command
from tests.edge.tiny_bundle import embedding, write_bundle
from tests.export.tools.conftest import Done

Run = Callable[..., Done]


def test_a_bundle_is_timed_for_each_number_of_threads(run: Run, small: Path) -> None:
    options = ["--threads", 1, "--threads", 2, "--rounds", 2, "--format", "json"]
    found = json.loads(run("bench", small, *options).output)
    assert [item["threads"] for item in found["runs"]] == [1, 2]
    for item in found["runs"]:
        assert set(item["shapes"]) == {"1x32", "8x32"}  # the bundle's max_length
        assert item["load_ms"] > 0
        assert 10e6 < item["memory_before"] <= item["memory_loaded"] < 500e6
        for shape, row in item["shapes"].items():
            batch, seq = map(int, shape.split("x"))
            assert row["tokens_per_s"] == pytest.approx(1000 * batch * seq / row["ms"])
            assert row["cpu_s_per_1000_tokens"] > 0


def test_a_person_gets_a_table(run: Run, small: Path) -> None:
    output = run("bench", small, "--threads", 1, "--rounds", 1).output
    assert "tokens/s" in output and "8x32" in output


def test_a_damaged_bundle_is_not_timed(run: Run, copy: Path) -> None:
    (copy / "device.onnx.data").write_bytes(b"")
    done = run("bench", copy, "--threads", 1)
    assert done.code == 1
    assert "cannot be timed" in done.errors and "bytes, not" in done.errors


def test_a_run_that_takes_too_long_is_a_failed_check(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "_MINUTES", 1e-5)
    with pytest.raises(SplitFrozenError, match="fewer --rounds") as failed:
        bench.bench_bundle(small, [1], 1)
    assert failed.value.code == "check_failed"


def test_nodes_that_are_wired_otherwise_differ(run: Run, small: Path, copy: Path) -> None:
    model = onnx.load(copy / "device.onnx", load_external_data=False)
    model.graph.node[0].name = "x" * len(model.graph.node[0].name)
    onnx.save(model, copy / "device.onnx")
    raw = (copy / "splitfrozen.json").read_bytes()
    content = (copy / "device.onnx").read_bytes()
    old = parse_manifest(raw)
    entry = FileEntry(hashlib.sha256(content).hexdigest(), len(content))
    new = manifest_bytes(replace(old, files={**old.files, "device.onnx": entry}))
    (copy / "splitfrozen.json").write_bytes(new)
    (copy / CHECKSUM_NAME).write_bytes(checksum_bytes(new))
    found = json.loads(run("diff", small, copy, "--no-run", "--format", "json").output)
    assert found["ops"] == found["tensors"] == {}
    assert list(found["nodes"]) == ["device.onnx"]
    before, after = found["files"]["device.onnx"]
    same_size = old.files["device.onnx"].size == entry.size
    assert before != after and (not same_size or after == entry.sha256[:8])


def test_timing_imports_no_torch(small: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "splitfrozen_export.tools.timing"]
    done = subprocess.run([*command, str(small), "1", "1"], capture_output=True, text=True)
    assert json.loads(done.stdout)["threads"] == 1
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "onnxruntime" in loaded and not loaded & {"torch", "transformers", "onnx"}


def test_a_bundle_does_not_differ_from_its_copy(run: Run, small: Path, copy: Path) -> None:
    done = run("diff", small, copy, "--format", "json")
    assert done.code == 0
    assert json.loads(done.output)["same"] is True


def test_changed_weights_are_found_and_their_effect_measured(
    run: Run, small: Path, tmp_path: Path
) -> None:
    table = embedding()
    table[:, 0] *= 1.5
    other = write_bundle(tmp_path / "other", family="bert", table=table)
    done = run("diff", small, other, "--format", "json")
    found = json.loads(done.output)
    assert (done.code, found["same"], found["fields"], found["ops"]) == (1, False, {}, {})
    assert list(found["tensors"]) == ["device.onnx table"]
    assert list(found["files"]) == ["device.onnx.data"]
    assert 0.01 < found["outputs"]["relative_error"] < 0.5


def test_other_rules_operators_and_tensors_are_found(run: Run, small: Path, tmp_path: Path) -> None:
    other = write_bundle(tmp_path / "other", with_codec=False, max_length=16)
    found = json.loads(run("diff", small, other, "--no-run", "--format", "json").output)
    assert found["fields"] == {"preprocess.max_length": [32, 16]}
    assert found["ops"]["device.onnx Abs"] == [1, None]
    assert "device.onnx limit" in found["tensors"]
    assert found["outputs"] is None
    lines = run("diff", small, other).output.splitlines()
    assert lines[2].startswith("Outputs: the same, to the last bit")
    assert "  preprocess.max_length: 32 -> 16" in lines


def test_a_person_is_first_told_how_far_the_outputs_are_apart(
    run: Run, small: Path, tmp_path: Path
) -> None:
    other = write_bundle(tmp_path / "other", family="bert", table=embedding(seed=1))
    lines = run("diff", small, other).output.splitlines()
    assert lines[2].startswith("Outputs: the second's are ")
    assert " % off those of the first, the worst token " in lines[2]
    assert all(len(line) < 200 for line in lines)


def test_bundles_that_cannot_be_run_side_by_side_are_not(
    run: Run, small: Path, exported: Callable[[str], Path]
) -> None:
    found = json.loads(run("diff", small, exported("opt"), "--format", "json").output)
    assert found["outputs"] == {"not_compared": "hidden_size differs"}


@pytest.mark.parametrize("command", ["inspect", "verify", "bench", "publish", "diff"])
def test_every_command_has_help_with_an_example(run: Run, command: str) -> None:
    done = run(command, "-h")
    assert done.code == 0
    assert f"splitfrozen-bundle {command}" in done.output and "--format" in done.output


def test_the_group_lists_its_commands_and_exit_codes(run: Run) -> None:
    output = run("-h").output
    assert set(bundle_command.commands) == {"inspect", "verify", "bench", "publish", "diff"}
    assert "Exit codes: 0 ok" in output
