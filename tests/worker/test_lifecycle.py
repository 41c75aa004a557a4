"""Jobs that wait, grow, stop and go on; and those who watch them."""

from __future__ import annotations

import json
from typing import Any

from splitfrozen_server.database.engine import Database
from splitfrozen_server.database.job_tables import JobRow
from tests.worker.server import Server
from tests.worker.shards import ShardMaker, push_examples, separable_examples

JOBS = "/v1/fine_tuning/jobs"
SLOW = {"n_epochs": 1000}  # long enough to be stopped in the middle


def sealed_dataset(server: Server, maker: ShardMaker, *, examples: int = 32) -> str:
    dataset = str(server.create_dataset()["id"])
    push_examples(server, maker, dataset, examples)
    server.seal(dataset)
    return dataset


def change(server: Server, job: dict[str, Any], action: str) -> Any:
    return server.http.post(f"{JOBS}/{job['id']}/{action}")


def lease_of(server: Server, job: dict[str, Any]) -> str | None:
    database = Database(f"sqlite:///{server.data_dir / 'splitfrozen.db'}")
    found = database.read_sync(lambda session: session.get_one(JobRow, job["id"]).lease)
    database.close()
    return found


def test_a_job_waits_for_its_start_conditions(server: Server, bert: ShardMaker) -> None:
    dataset = server.create_dataset()["id"]
    wanted = {"min_examples": 40, "min_devices": 2, "min_per_label": 18}
    job = server.create_job(dataset, splitfrozen=wanted)["id"]
    push_examples(server, bert, dataset, 32)

    def waits_for(text: str) -> bool:
        return text in (server.job(job)["splitfrozen"]["waiting_for"] or "")

    server.wait(lambda: waits_for("32 of 40 examples; 1 of 2 devices"), "it waits for both")
    assert server.job(job)["status"] == "queued"
    assert waits_for("16 of 18 examples of 'down'")
    assert any(text.startswith("Waiting for training data") for text in server.messages(job))
    push_examples(server, bert, dataset, 16, name="b", device="pi-2")
    server.wait(lambda: server.job(job)["status"] == "running", "it runs")
    server.seal(dataset)
    assert server.wait_for_end(job)["status"] == "succeeded"


def test_a_sealed_dataset_that_is_too_small_fails_the_job(server: Server, bert: ShardMaker) -> None:
    dataset = sealed_dataset(server, bert, examples=16)
    job = server.wait_for_end(server.create_job(dataset, splitfrozen={"min_examples": 99})["id"])
    assert job["status"] == "failed"
    assert "sealed with 16 of 99 examples" in job["error"]["message"]


def test_open_labels_are_frozen_at_the_seal(server: Server, bert: ShardMaker) -> None:
    dataset = server.create_dataset(labels=None)["id"]
    job = server.create_job(dataset)["id"]
    server.post(f"/v1/activation_datasets/{dataset}/labels", {"names": ["down", "up"]})
    push_examples(server, bert, dataset, 16)
    waiting = "the seal (labels are open and no start condition was given: `datasets seal`)"
    server.wait(lambda: server.job(job)["splitfrozen"]["waiting_for"] == waiting, "it waits")
    server.seal(dataset)
    assert server.wait_for_end(job)["status"] == "succeeded"


def test_labels_that_come_after_the_start_are_left_out(server: Server, bert: ShardMaker) -> None:
    dataset = server.create_dataset(labels=None)["id"]
    server.post(f"/v1/activation_datasets/{dataset}/labels", {"names": ["down", "up"]})
    job = server.create_job(dataset, splitfrozen={"min_examples": 16})["id"]
    push_examples(server, bert, dataset, 16)
    server.wait_for_step(job, 2)
    server.post(f"/v1/activation_datasets/{dataset}/labels", {"names": ["sideways"]})
    late = separable_examples(9, labels=3)
    server.push(bert.shard(late, dataset=dataset, name="late"))
    server.seal(dataset)
    found = server.wait_for_end(job)
    assert found["splitfrozen"]["result"]["examples"] == 16 + 6
    assert any("3 examples are left out" in text for text in server.messages(job))


def test_training_takes_in_what_arrives_and_ends_with_the_seal(
    server: Server, bert: ShardMaker
) -> None:
    dataset = server.create_dataset()["id"]
    job = server.create_job(dataset, hyperparameters={"n_epochs": 4})["id"]
    for place, device in enumerate(("pi-1", "pi-2", "pi-3")):
        push_examples(server, bert, dataset, 16, name=device, device=device)
        # two full batches of eight, twice each before the seal
        server.wait_for_step(job, 4 * (place + 1))
    assert server.job(job)["total_steps"] is None
    server.wait(lambda: any("waiting for" in m for m in server.messages(job)), "it waits")
    push_examples(server, bert, dataset, 16, name="pi-4", device="pi-4")
    server.seal(dataset)
    done = server.wait_for_end(job)
    assert done["status"] == "succeeded", done["error"]
    made = [e["data"] for e in server.events(job) if "train_loss" in e["data"]]
    assert sum(step["examples"] for step in made) == 4 * 64  # every example, four times
    assert done["trained_tokens"] == 4 * server.get(f"/v1/activation_datasets/{dataset}")["tokens"]


def test_a_waiting_job_lets_another_one_pass(server: Server, bert: ShardMaker) -> None:
    growing = server.create_dataset()["id"]
    push_examples(server, bert, growing, 16)
    first = server.create_job(growing)["id"]
    server.wait_for_step(first, 2)
    second = server.create_job(sealed_dataset(server, bert))["id"]
    assert server.wait_for_end(second)["status"] == "succeeded"
    assert server.job(first)["status"] == "running"
    server.seal(growing)
    assert server.wait_for_end(first)["status"] == "succeeded"


def test_pause_and_resume_change_nothing_in_the_result(server: Server, bert: ShardMaker) -> None:
    dataset = sealed_dataset(server, bert)
    calm = server.wait_for_end(server.create_job(dataset, hyperparameters={"n_epochs": 12})["id"])
    job = server.create_job(dataset, hyperparameters={"n_epochs": 12})
    server.wait_for_step(job["id"], 3)
    assert change(server, job, "pause").json()["status"] == "paused"
    assert change(server, job, "pause").status_code == 200
    server.wait(lambda: lease_of(server, job) is None, "the worker lets go")
    stopped_at = server.job(job["id"])["steps_completed"]
    # The worker is at work on another job, and not on this one.
    other = server.create_job(dataset, hyperparameters={"n_epochs": 1})["id"]
    assert server.wait_for_end(other)["status"] == "succeeded"
    assert server.job(job["id"])["steps_completed"] == stopped_at < calm["total_steps"]
    assert change(server, job, "resume").json()["status"] in ("queued", "running")
    done = server.wait_for_end(job["id"])
    assert done["splitfrozen"]["result"] == calm["splitfrozen"]["result"]
    assert server.losses(job["id"]) == server.losses(calm["id"])
    going_on = f"Going on from the checkpoint of step {stopped_at}"
    assert going_on in server.messages(job["id"])
    assert change(server, job, "pause").json()["error"]["code"] == "job_not_active"


def test_a_cancelled_job_frees_the_worker(server: Server, bert: ShardMaker) -> None:
    dataset = sealed_dataset(server, bert)
    job = server.create_job(dataset, hyperparameters=SLOW)
    server.wait_for_step(job["id"], 2)
    found = change(server, job, "cancel").json()
    assert (found["status"], found["result_files"]) == ("cancelled", [])
    assert change(server, job, "cancel").json()["error"]["code"] == "job_not_active"
    assert change(server, job, "resume").status_code == 409
    assert server.wait_for_end(server.create_job(dataset)["id"])["status"] == "succeeded"
    assert server.job(job["id"])["steps_completed"] < 4 * SLOW["n_epochs"] / 4
    folder = server.data_dir / "worker" / "jobs" / job["id"]
    server.wait(lambda: not folder.exists(), "its checkpoints are gone")


def test_checkpoints_are_listed_newest_first(server: Server, trained: dict[str, Any]) -> None:
    found = server.get(f"{JOBS}/{trained['id']}/checkpoints", limit=3)
    steps = [checkpoint["step_number"] for checkpoint in found["data"]]
    assert steps == sorted(steps, reverse=True) and steps[0] == trained["total_steps"]
    assert found["has_more"]
    rest = server.get(f"{JOBS}/{trained['id']}/checkpoints", after=found["last_id"], limit=100)
    assert rest["data"][0]["step_number"] < steps[-1]
    assert set(found["data"][0]["metrics"]) == {"train_loss", "valid_loss", "valid_accuracy"}


def test_jobs_and_events_come_in_pages(server: Server, trained: dict[str, Any]) -> None:
    everything = server.events(trained["id"])[::-1]
    first = server.get(f"{JOBS}/{trained['id']}/events", limit=5)
    rest = server.get(f"{JOBS}/{trained['id']}/events", limit=1000, after=first["last_id"])
    assert first["data"] + rest["data"] == everything
    jobs = server.get(JOBS, limit=1)
    assert server.get(JOBS, limit=1000, after=jobs["last_id"])["data"] or not jobs["has_more"]


def test_the_event_stream_resumes_after_the_last_id(
    server: Server, trained: dict[str, Any]
) -> None:
    expected = server.events(trained["id"])
    assert stream(server, trained["id"]) == expected
    middle = expected[10]["id"]
    assert stream(server, trained["id"], last=middle) == expected[11:]
    done = server.http.get(
        f"{JOBS}/{trained['id']}/events",
        headers={"Accept": "text/event-stream", "Last-Event-ID": expected[-1]["id"]},
    )
    assert done.status_code == 204


def test_a_live_stream_ends_with_the_job(server: Server, bert: ShardMaker) -> None:
    dataset = server.create_dataset()["id"]
    push_examples(server, bert, dataset, 16)
    job = server.create_job(dataset)["id"]
    headers = {"Accept": "text/event-stream"}
    with server.http.stream("GET", f"{JOBS}/{job}/events", headers=headers) as answer:
        seen = []
        for line in answer.iter_lines():
            if line.startswith("data:"):
                seen.append(json.loads(line[5:]))
                if "Step 2" in seen[-1]["message"]:
                    server.seal(dataset)
    assert seen == server.events(job)
    assert seen[-1]["message"] == "The job has successfully completed"


def stream(server: Server, job_id: str, last: str | None = None) -> list[dict[str, Any]]:
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last else {})
    with server.http.stream("GET", f"{JOBS}/{job_id}/events", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = list(answer.iter_lines())
    ids = [line[3:].strip() for line in lines if line.startswith("id:")]
    events = [json.loads(line[5:]) for line in lines if line.startswith("data:")]
    assert ids == [event["id"] for event in events]
    return events
