"""What an erasure means for jobs: trained on it, training on it, or not yet at it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.worker.server import Server
from tests.worker.shards import ShardMaker, push_examples, separable_examples

JOBS = "/v1/fine_tuning/jobs"


def erase(server: Server, device: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {server.device_token(device)}"}
    answer = server.http.delete("/v1/devices/self/data", headers=headers)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def derived(server: Server, dataset: str, job: str) -> list[Path]:
    """Files of the worker that hold the dataset's activations or what was learnt from them."""
    root = server.data_dir / "worker"
    places = (root / "datasets" / dataset, root / "jobs" / job)
    return [path for place in places for path in place.rglob("*") if path.is_file()]


def two_devices(server: Server, maker: ShardMaker, names: tuple[str, str]) -> str:
    dataset = str(server.create_dataset()["id"])
    for name in names:
        push_examples(server, maker, dataset, 16, name=name, device=name)
    return dataset


def test_adapters_that_saw_erased_shards_are_named_and_stay(
    server: Server, bert: ShardMaker
) -> None:
    dataset = two_devices(server, bert, ("erased-1", "stays-1"))
    server.seal(dataset)
    job = server.wait_for_end(server.create_job(dataset)["id"])
    erased = erase(server, "erased-1")
    assert erased["adapters"] == [job["fine_tuned_model"]] and erased["jobs_stopped"] == []
    again = erase(server, "erased-1")
    assert (again["shards"], again["adapters"]) == (0, erased["adapters"]), "an answer may be lost"
    assert derived(server, dataset, job["id"]) == []
    shard = bert.shard(separable_examples(4), dataset="", task="inference")
    assert server.ask(shard, job["fine_tuned_model"]).status_code == 200
    assert server.job(job["id"])["status"] == "succeeded"


def test_running_job_that_admitted_erased_shards_is_stopped_and_its_files_go(
    start_server: Callable[..., Server], tiny_model: Callable[[str], Path], bert: ShardMaker
) -> None:
    server = start_server(tiny_model("bert"))
    dataset = two_devices(server, bert, ("erased", "stays"))
    server.seal(dataset)
    job = server.create_job(dataset, hyperparameters={"n_epochs": 10_000})["id"]
    server.wait_for_step(job, 9)  # there are checkpoints
    assert derived(server, dataset, job)
    erased = erase(server, "erased")
    assert erased["jobs_stopped"] == [job] and erased["adapters"] == []
    stopped = server.job(job)
    assert (stopped["status"], stopped["error"]["code"]) == ("failed", "data_erased")
    assert any("erased" in text for text in server.messages(job))
    after = server.create_job(dataset)["id"]
    assert server.wait_for_end(after)["status"] == "succeeded", "on what is left"
    server.wait(lambda: derived(server, dataset, job) == [], "the worker has cleaned up")
    assert server.get(f"/v1/activation_datasets/{dataset}")["examples"] == 16


def test_job_that_had_not_admitted_the_shards_goes_on_without_them(
    server: Server, bert: ShardMaker
) -> None:
    dataset = str(server.create_dataset()["id"])
    push_examples(server, bert, dataset, 16, name="kept", device="stays-2")
    job = server.create_job(dataset, splitfrozen={"min_examples": 16})["id"]
    server.wait_for_step(job, 2)
    server.post(f"{JOBS}/{job}/pause", {})
    push_examples(server, bert, dataset, 16, name="late", device="erased-2")
    erased = erase(server, "erased-2")
    assert erased["shards"] > 0 and erased["jobs_stopped"] == []
    server.post(f"{JOBS}/{job}/resume", {})
    server.seal(dataset)
    ended = server.wait_for_end(job)
    assert ended["status"] == "succeeded", ended["error"]
    assert ended["total_steps"] == 16 // 8 * 3, "16 examples, batches of 8, 3 epochs"
    assert any("goes on without them" in text for text in server.messages(job))


def test_waiting_job_does_not_count_erased_examples(server: Server, bert: ShardMaker) -> None:
    dataset = two_devices(server, bert, ("erased-3", "stays-3"))
    erase(server, "erased-3")
    job = server.create_job(dataset, splitfrozen={"min_examples": 32})["id"]

    def waits() -> bool:
        return "16 of 32 examples" in (server.job(job)["splitfrozen"]["waiting_for"] or "")

    server.wait(waits, "it waits for more")
    push_examples(server, bert, dataset, 16, name="again", device="erased-3")
    server.wait_for_step(job, 1)
    assert erase(server, "erased-3")["jobs_stopped"] == [job]
