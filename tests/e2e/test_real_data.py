"""The main job on real weights and real data, against centralised LoRA on the same layers."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from benchmarks.baselines.centralised import train_centralised
from benchmarks.baselines.lora import Recipe
from benchmarks.labelled import Labelled
from tests.e2e.stack import Stack, write_rows

EPOCHS, RANK, ALPHA, RATE, BATCH, SEED, CUT = 3, 8, 16, 1e-3, 32, 0, 3


def read_sst2(path: Path, count: int | None = None) -> list[dict[str, Any]]:
    with path.open(newline="") as stream:
        found = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    rows = [{"text": r["sentence"], "label": r["label"]} for r in found]
    return rows[:count]


def test_two_devices_with_one_label_each_learn_what_centralised_lora_learns(
    stack: Stack, minilm: Path, minilm_bundle: Path, shared_data: Path, tmp_path: Path
) -> None:
    train = read_sst2(shared_data / "sst2" / "train.tsv", 1000)
    heldout = read_sst2(shared_data / "sst2" / "dev.tsv")
    stack.admin("models", "add", "minilm", minilm)
    stack.admin("bundles", "add", minilm_bundle)
    for name in ("sst2", "sst2-dev"):
        stack.admin(
            "datasets", "create", name, "--model", "minilm", "--cut", CUT,
            "--task", "classification", "--labels", "0,1",
        )  # fmt: skip
    for label in ("0", "1"):
        rows = [row for row in train if row["label"] == label]
        data = write_rows(tmp_path / f"label-{label}.jsonl", rows)
        report = stack.device(f"pi-{label}").push(minilm_bundle, "sst2", data)
        assert report["examples"] == len(rows)
    data = write_rows(tmp_path / "dev.jsonl", heldout)
    stack.device("evaluator").push(minilm_bundle, "sst2-dev", data)
    for name in ("sst2", "sst2-dev"):
        stack.admin("datasets", "seal", name)
    job = stack.admin(
        "jobs", "create", "--dataset", "sst2", "--validation-dataset", "sst2-dev",
        "--suffix", "sst2",
        "--lora-r", RANK, "--lora-alpha", ALPHA, "--learning-rate", RATE, "--batch-size", BATCH,
        "--epochs", EPOCHS, "--seed", SEED, "--wait", "--output", tmp_path / "adapter",
    )  # fmt: skip
    assert job["status"] == "succeeded"
    events = stack.admin("jobs", "events", job["id"], "--limit", 1000)
    scores = [e["data"]["valid_accuracy"] for e in events if "valid_accuracy" in e["data"]]
    assert len(scores) == 1 + EPOCHS
    recipe = Recipe(
        cut=CUT, r=RANK, alpha=ALPHA, learning_rate=RATE, batch_size=BATCH, epochs=EPOCHS, seed=SEED
    )
    pooled, scored = ([Labelled(r["text"], r["label"]) for r in rows] for rows in (train, heldout))
    ceiling = train_centralised(str(minilm), pooled, scored, recipe, labels=["0", "1"]).after
    print(f"before {scores[0]:.3f}, after {scores[-1]:.3f}, centralised {ceiling:.3f}")
    assert scores[-1] >= 0.75
    assert abs(scores[-1] - ceiling) <= 0.03
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
