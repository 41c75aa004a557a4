"""GPTQ as the benchmark has it, and the command on the real small Llama."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.fidelity.gptq import code_columns
from benchmarks.real_inputs import REPOSITORY
from splitfrozen_export.precision.block_codes import quantize_blocks, restore_blocks


def test_without_correlations_gptq_is_round_to_nearest() -> None:
    weight = np.random.default_rng(0).normal(size=(70, 24)).astype(np.float32)
    found = code_columns(weight, np.eye(70))
    nearest = quantize_blocks(weight.T, 4)
    assert np.array_equal(found.packed, nearest.packed)
    assert np.array_equal(found.zero_points, nearest.zero_points)
    assert np.allclose(found.scales, nearest.scales, rtol=1e-6, atol=0)


def test_on_correlated_inputs_gptq_loses_less_of_the_result() -> None:
    rng = np.random.default_rng(0)
    inputs = (rng.normal(size=(400, 12)) @ rng.normal(size=(12, 96))).astype(np.float32)
    weight = rng.normal(size=(96, 40)).astype(np.float32)

    def loss(codes: object) -> float:
        restored = restore_blocks(codes, 96).T  # type: ignore[arg-type]
        return float(np.linalg.norm(inputs @ (restored - weight)))

    known = code_columns(weight, (inputs.T @ inputs).astype(np.float64))
    assert loss(known) < 0.7 * loss(quantize_blocks(weight.T, 4))


@pytest.mark.long
def test_the_command_measures_every_method_and_ends_in_one_json_object(
    shared_models: Path,
) -> None:
    model = shared_models / "stories260K"
    command = [sys.executable, "-m", "benchmarks.four_bits", "--model", str(model), "--cut", "1"]
    done = subprocess.run(
        [*command, "--quick"], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True
    )
    *lines, last = done.stdout.splitlines()
    (rows,) = json.loads(last)["models"].values()
    assert len(rows) == 8
    assert all(0.01 < row["error"] < 0.5 for row in rows.values())
    assert [name for name, row in rows.items() if not row["fast"]] == ["ort hqq"]
    assert rows["ours"]["error"] == pytest.approx(rows["ort asymmetric"]["error"], rel=0.02)
    assert sum(line.startswith("gptq") for line in lines) == 2
