"""Language modelling on completions: a real decoder, real questions and answers."""

from __future__ import annotations

from pathlib import Path

from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.e2e.stack import Stack, export


def test_a_decoder_learns_answers_from_a_dataset_that_the_push_itself_created(
    stack: Stack, shared_models: Path, shared_data: Path, tmp_path: Path
) -> None:
    model = shared_models / "stories260K"
    bundle = export(model, 2, tmp_path / "bundle")
    stack.admin("models", "add", "stories", model)
    stack.admin("bundles", "add", bundle)
    lines = (shared_data / "gsm8k" / "train.jsonl").read_text().splitlines()[:120]
    (tmp_path / "maths.jsonl").write_text("\n".join(lines) + "\n")
    report = stack.device("pi").push(bundle, "maths", tmp_path / "maths.jsonl")
    assert report["examples"] == len(lines)
    dataset = stack.admin("datasets", "get", "maths")
    assert (dataset["task"], dataset["examples"]) == ("causal_lm", len(lines))
    stack.admin("datasets", "seal", "maths")
    job = stack.admin(
        "jobs", "create", "--dataset", "maths", "--epochs", 2, "--eval-fraction", 0.2,
        "--wait", "--output", tmp_path / "adapter",
    )  # fmt: skip
    assert job["status"] == "succeeded"
    events = stack.admin("jobs", "events", job["id"], "--limit", 1000)
    found = [e["data"]["valid_perplexity"] for e in events if "valid_perplexity" in e["data"]]
    assert found[-1] < 0.7 * found[0]
    base = AutoModelForCausalLM.from_pretrained(model)
    adapted = PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert adapted.peft_config["default"].layers_to_transform == [2, 3, 4]
