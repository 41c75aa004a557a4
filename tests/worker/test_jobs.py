"""Jobs from creation to adapter, over a real server and a real worker."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.worker.server import Server
from tests.worker.shards import ShardMaker, completion_examples, push_examples, separable_examples

DATASETS = "/v1/activation_datasets"


def test_a_sealed_dataset_becomes_an_adapter(server: Server, trained: dict[str, Any]) -> None:
    assert trained["fine_tuned_model"] == f"ft:tiny:my-words:{trained['id'][6:14]}"
    losses = server.losses(trained["id"])
    assert trained["steps_completed"] == trained["total_steps"] == len(losses)
    metrics = trained["splitfrozen"]["result"]["metrics"]
    assert metrics["valid_accuracy"] >= 0.9 > metrics["valid_accuracy_before"]
    evaluations = [m for m in server.messages(trained["id"]) if m.startswith("Evaluation")]
    assert len(evaluations) == 7  # before training and after every epoch

    files = server.download_adapter(trained)
    assert sorted(files) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "splitfrozen.json",
    ]
    assert json.loads(files["adapter_config.json"])["layers_to_transform"] == [2, 3]
    assert json.loads(files["splitfrozen.json"])["labels"] == ["down", "up"]
    assert b"pipeline_tag" in files["README.md"]


def test_the_metrics_file_has_a_line_for_every_step(
    server: Server, trained: dict[str, Any]
) -> None:
    files = [server.get(f"/v1/files/{file_id}") for file_id in trained["result_files"]]
    (metrics,) = [file for file in files if file["purpose"] == "metrics"]
    text = server.http.get(f"/v1/files/{metrics['id']}/content").text
    lines = list(csv.DictReader(text.splitlines()))
    losses = [float(line["train_loss"]) for line in lines if line["train_loss"]]
    assert losses == server.losses(trained["id"])


def test_an_adapter_answers_activations(
    server: Server, bert: ShardMaker, trained: dict[str, Any]
) -> None:
    asked = separable_examples(10, seed=5)
    for model in (trained["fine_tuned_model"], "ft:my-words"):
        answer = server.ask(bert.shard(asked, task="inference"), model)
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == trained["fine_tuned_model"]
    data = answer.json()["data"]
    for entry in data:
        assert entry["label"] == ["down", "up"][entry["index"]]
        assert sum(entry["scores"].values()) == pytest.approx(1.0, abs=1e-6)
    right = [entry["index"] == asked[row].label for row, entry in enumerate(data)]
    assert sum(right) >= 8


def test_models_are_listed_for_devices(server: Server, trained: dict[str, Any]) -> None:
    headers = {"Authorization": f"Bearer {server.device_token('pi-1')}"}
    listed = server.http.get("/v1/models", headers=headers).json()["data"]
    assert {"tiny", trained["fine_tuned_model"]} <= {model["id"] for model in listed}
    found = server.http.get("/v1/models/ft:my-words", headers=headers).json()
    assert found["id"] == trained["fine_tuned_model"]
    assert found["splitfrozen"]["labels"] == ["down", "up"]
    assert found["splitfrozen"]["bundles"] == ["b" * 64]
    assert server.http.get("/v1/models/ft:nothing", headers=headers).status_code == 404


def test_what_cannot_classify_says_so(
    server: Server, bert: ShardMaker, llama: ShardMaker, trained: dict[str, Any]
) -> None:
    def refusal(maker: ShardMaker, model: str) -> tuple[int, str]:
        answer = server.ask(maker.shard(separable_examples(2), task="inference"), model)
        return answer.status_code, answer.json()["error"]["code"]

    assert refusal(bert, "tiny") == (409, "model_not_ready")
    assert refusal(bert, "ft:none") == (404, "not_found")
    assert refusal(llama, "ft:my-words") == (409, "dataset_mismatch")


def test_scores_that_are_not_numbers_are_refused(
    server: Server, bert: ShardMaker, trained: dict[str, Any]
) -> None:
    shard = bert.shard(separable_examples(2), task="inference")
    huge = replace(shard, hidden=np.full_like(shard.hidden, 3e38))
    answer = server.ask(huge, trained["fine_tuned_model"])
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "not_finite")


def test_completions_are_learned(server: Server, llama: ShardMaker) -> None:
    dataset = server.create_dataset(task="causal_lm", base_model="tiny-llama")["id"]
    for start in range(0, 128, 32):
        part = completion_examples(32, seed=start)
        server.push(llama.shard(part, dataset=dataset, task="causal_lm", name=str(start)))
    server.seal(dataset)
    job = server.create_job(
        dataset,
        model="tiny-llama",
        suffix="counting",
        hyperparameters={"n_epochs": 6},
        splitfrozen={"learning_rate": 1e-2, "eval_fraction": 0.1},
    )
    job = server.wait_for_end(job["id"])
    assert job["status"] == "succeeded", job["error"]
    metrics = job["splitfrozen"]["result"]["metrics"]
    assert metrics["valid_perplexity"] < metrics["valid_perplexity_before"] / 2


def test_a_job_evaluates_on_another_dataset(server: Server, bert: ShardMaker) -> None:
    training = server.create_dataset()["id"]
    held_out = server.create_dataset(labels=["up", "down"])["id"]  # numbered the other way round
    push_examples(server, bert, training, 96)
    swapped = [replace(example, label=1 - example.label) for example in separable_examples(40)]
    server.push(bert.shard(swapped, dataset=held_out, name="held-out"))
    server.seal(training)
    job = server.create_job(
        training,
        validation_file=held_out,
        hyperparameters={"n_epochs": 6},
        splitfrozen={"learning_rate": 1e-2},
    )
    job = server.wait_for_end(job["id"])
    assert job["splitfrozen"]["result"]["metrics"]["valid_accuracy"] >= 0.9


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"model": "nobody"}, 404, "model"),
        ({"training_file": "nothing"}, 404, "training_file"),
        ({"validation_file": "requests"}, 400, "validation_file"),
        ({"suffix": "two words"}, 400, "suffix"),
        ({"seed": -1}, 400, "seed"),
        ({"splitfrozen": {"lora": {"r": 0}}}, 400, "splitfrozen.lora.r"),
        ({"splitfrozen": {"learning_rat": 1}}, 400, "splitfrozen.learning_rat"),
    ],
)
def test_a_wrong_request_names_its_field(
    server: Server, change: dict[str, Any], status: int, param: str
) -> None:
    if not any(found["name"] == "requests" for found in server.get(DATASETS)["data"]):
        server.create_dataset("requests")
    body = {"model": "tiny", "training_file": "requests", **change}
    answer = server.http.post("/v1/fine_tuning/jobs", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


def test_only_admins_see_jobs(server: Server) -> None:
    headers = {"Authorization": f"Bearer {server.device_token('pi-1')}"}
    for path in ("/v1/fine_tuning/jobs", "/v1/files"):
        assert server.http.get(path, headers=headers).status_code == 403
        assert server.http.get(path, headers={"Authorization": ""}).status_code == 401


def test_a_job_with_wrong_target_modules_fails_and_the_next_one_runs(
    server: Server, bert: ShardMaker
) -> None:
    dataset = server.create_dataset()["id"]
    push_examples(server, bert, dataset, 16)
    server.seal(dataset)
    bad = server.create_job(dataset, splitfrozen={"lora": {"target_modules": ["q_proj"]}})
    good = server.create_job(dataset)
    bad = server.wait_for_end(bad["id"])
    assert bad["status"] == "failed"
    assert bad["error"]["param"] == "target_modules"
    assert "q_proj" in bad["error"]["message"]
    assert server.wait_for_end(good["id"])["status"] == "succeeded"


def test_a_damaged_blob_is_never_trained_on(server: Server, bert: ShardMaker) -> None:
    dataset = server.create_dataset()["id"]
    push_examples(server, bert, dataset, 16)
    server.seal(dataset)
    (shard,) = server.get(f"{DATASETS}/{dataset}/shards")["data"]
    (blob,) = (server.data_dir / "blobs").glob(f"??/{shard['digest']}")
    body = bytearray(blob.read_bytes())
    body[-1] ^= 1
    blob.write_bytes(body)
    job = server.wait_for_end(server.create_job(dataset)["id"])
    assert (job["status"], job["error"]["code"]) == ("failed", "bad_data")
