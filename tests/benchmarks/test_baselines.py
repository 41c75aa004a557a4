"""The baselines do what their names say, step for step."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from benchmarks.baselines.centralised import train_centralised
from benchmarks.baselines.fedlora import average, train_federated
from benchmarks.baselines.lora import Recipe
from benchmarks.labelled import Labelled, deal, write_labelled
from splitfrozen_server.worker.schedule import sealed_batches

RECIPE = Recipe(cut=2, r=2, alpha=4, batch_size=4, epochs=1, seed=3)
BERT_LINEARS = [
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
]
TinyModel = Callable[[str], Path]


def _rows(per_label: int) -> list[Labelled]:
    words = ["red", "green", "blue", "round", "tall"]
    return [
        Labelled(" ".join(words[(label + i) % 5] for i in range(number % 4 + 1)), f"label{label}")
        for label in range(3)
        for number in range(per_label)
    ]


def test_centralised_is_stock_peft_on_the_whole_model(tiny_model: TinyModel) -> None:
    path, rows = tiny_model("bert"), _rows(5)
    outcome = train_centralised(str(path), rows, rows, RECIPE)
    assert outcome.weights_sha256 == hashlib.sha256(_stock_peft(path, rows)).hexdigest()
    assert outcome.steps == 4


def _stock_peft(path: Path, rows: list[Labelled]) -> bytes:
    """The same training as anyone would write it; returns the trained weights."""
    torch.manual_seed(RECIPE.seed)
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=3)
    torch.manual_seed(RECIPE.seed)
    config = LoraConfig(
        task_type="SEQ_CLS",
        r=RECIPE.r,
        lora_alpha=RECIPE.alpha,
        target_modules=BERT_LINEARS,
        layers_to_transform=[2, 3],
        modules_to_save=["pooler"],
    )
    model = get_peft_model(model, config).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=RECIPE.learning_rate, weight_decay=0.01)
    lengths = [len(tokenizer(row.text)["input_ids"]) for row in rows]
    plan = sealed_batches(lengths, seed=RECIPE.seed, epochs=1, batch_size=RECIPE.batch_size)
    for step, batch in enumerate(plan):
        optimizer.param_groups[0]["lr"] = RECIPE.learning_rate * (1 - step / len(plan))
        inputs = tokenizer([rows[i].text for i in batch], padding=True, return_tensors="pt")
        labels = torch.tensor([int(rows[i].label[-1]) for i in batch])
        found = model(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], labels=labels
        )
        optimizer.zero_grad()
        found.loss.backward()
        optimizer.step()
    return save({name: p.detach() for name, p in trained.items()})


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_one_device_and_one_round_is_centralised(tiny_model: TinyModel, family: str) -> None:
    path, rows = str(tiny_model(family)), _rows(5)
    federated = train_federated(path, [rows], rows, RECIPE)
    centralised = train_centralised(path, rows, rows, RECIPE)
    assert federated.weights_sha256 == centralised.weights_sha256
    assert (federated.before, federated.after) == (centralised.before, centralised.after)


def test_the_average_is_weighted_by_examples() -> None:
    few, many = {"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([5.0, 4.0])}
    assert average([(few, 1), (many, 3)])["w"].tolist() == [4.0, 3.0]


def test_every_device_uploads_its_weights_once_a_round(tiny_model: TinyModel) -> None:
    rows = _rows(4)
    two_rounds = Recipe(cut=2, r=2, batch_size=4, epochs=2)
    outcome = train_federated(str(tiny_model("bert")), deal(rows, 3), rows, two_rounds)
    body = _body_size(tiny_model("bert"), rows, two_rounds)
    assert outcome.bytes_up == outcome.bytes_down == [2 * body] * 3
    assert len(outcome.history) == 2
    assert min(outcome.cpu_seconds) > 0


def _body_size(path: Path, rows: list[Labelled], recipe: Recipe) -> int:
    from benchmarks.baselines.lora import load_trainee

    return len(load_trainee(str(path), ["a", "b", "c"], recipe).body())


def test_a_device_without_rows_takes_no_part(tiny_model: TinyModel) -> None:
    rows, path = _rows(4), str(tiny_model("bert"))
    with_idle = train_federated(path, [rows, []], rows, RECIPE)
    assert with_idle.weights_sha256 == train_federated(path, [rows], rows, RECIPE).weights_sha256
    assert len(with_idle.cpu_seconds) == 1


def test_the_command_ends_with_one_json_object(tiny_model: TinyModel, tmp_path: Path) -> None:
    write_labelled(tmp_path / "data.jsonl", _rows(20))
    command = [sys.executable, "-m", "benchmarks.baselines.fedlora", "--json", "--cut", "2"]
    command += ["--epochs", "1", "--devices", "3", "--model", str(tiny_model("bert"))]
    command += ["--data", str(tmp_path / "data.jsonl")]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    outcome = json.loads(ended.stdout.splitlines()[-1])
    assert outcome["method"] == "fedlora"
    assert len(outcome["bytes_up"]) == 3
    assert ended.stderr == ""


def test_a_data_file_without_labels_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text('{"text": "x"}\n')
    command = [sys.executable, "-m", "benchmarks.baselines.centralised"]
    command += ["--model", "unused", "--data", str(tmp_path / "data.jsonl")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "needs text and label" in ended.stderr
