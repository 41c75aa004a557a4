"""The worker's only way to the API: HTTP over the control socket. The one importer of httpx here.

Every call may be repeated: the API takes the same event, admission or result twice. A call is
retried until the API answers, since a worker without its API has nothing else to do; the watch on
the parent process ends both together.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx

from splitfrozen_server.worker.job import Arrivals, LeasedJob, ShardRef
from splitfrozen_server.worker.schedule import Boundary

RETRY_PAUSE = 0.5  # seconds between attempts while the API does not answer
_TIMEOUT = httpx.Timeout(60.0)


class LeaseLostError(RuntimeError):
    """The job now belongs to another worker, or ended: stop working on it, save nothing more."""


class ControlClient:
    """Speaks for one worker, which the API knows by `worker`."""

    def __init__(self, socket: Path, worker: str) -> None:
        transport = httpx.HTTPTransport(uds=str(socket))
        self._http = httpx.Client(
            transport=transport, base_url="http://control", timeout=_TIMEOUT, trust_env=False
        )
        self._worker = worker

    def close(self) -> None:
        self._http.close()

    def lease(self) -> LeasedJob | None:
        """The next job that has work to do, or None."""
        record = self._post("/lease", {"worker": self._worker})["job"]
        return None if record is None else LeasedJob.parse(record)

    def start(self, job: LeasedJob, record: dict[str, Any]) -> dict[str, Any]:
        """Freeze what the job starts with; a record that was stored before wins."""
        answer = self._post(f"/jobs/{job.id}/start", {"lease": job.lease, "record": record})
        stored: dict[str, Any] = answer["record"]
        return stored

    def arrivals(self, job: LeasedJob, dataset: str, after: int) -> Arrivals:
        """All shards of a dataset after a sequence number, and how the job stands."""
        shards: list[ShardRef] = []
        while True:
            query = {"lease": job.lease, "dataset": dataset, "after": after}
            page = self._call("GET", f"/jobs/{job.id}/shards", params=query)
            shards += [ShardRef(**shard) for shard in page["shards"]]
            if not page["more"]:
                return Arrivals(
                    tuple(shards), page["sealed"], page["status"], page["others_waiting"]
                )
            after = shards[-1].sequence

    def admit(self, job: LeasedJob, boundary: Boundary) -> None:
        """Log an admission durably; only then may its shards be trained on."""
        body = {
            "lease": job.lease,
            "step": boundary.step,
            "sequence": boundary.sequence,
            "sealed": boundary.sealed,
        }
        self._post(f"/jobs/{job.id}/admissions", body)

    def report(
        self,
        job: LeasedJob,
        events: list[dict[str, Any]],
        progress: dict[str, Any] | None = None,
    ) -> str:
        """Post events (each key is stored once) and progress; returns the job's status."""
        body = {"lease": job.lease, "events": events, "progress": progress}
        status: str = self._post(f"/jobs/{job.id}/events", body)["status"]
        return status

    def checkpoint(self, job: LeasedJob, step: int, name: str, metrics: dict[str, Any]) -> None:
        body = {"lease": job.lease, "step": step, "name": name, "metrics": metrics}
        self._post(f"/jobs/{job.id}/checkpoints", body)

    def finish(self, job: LeasedJob, result: dict[str, Any]) -> None:
        """Hand over the adapter's path and its digests; the job has succeeded when this returns."""
        self._post(f"/jobs/{job.id}/finish", {"lease": job.lease, **result})

    def fail(self, job: LeasedJob, code: str, message: str, param: str | None) -> None:
        error = {"code": code, "message": message, "param": param}
        self._post(f"/jobs/{job.id}/fail", {"lease": job.lease, "error": error})

    def release(self, job: LeasedJob, *, idle_sequence: int | None = None) -> None:
        """Give the job back without ending it: paused, cancelled, or idle after this shard."""
        body = {"lease": job.lease, "idle_sequence": idle_sequence}
        self._post(f"/jobs/{job.id}/release", body)

    def unfinished(self) -> tuple[set[str], set[str]]:
        """Ids of the jobs that may still need their files, and of the datasets they use."""
        found = self._call("GET", "/jobs")
        return set(found["jobs"]), set(found["datasets"])

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._call("POST", path, json=body)

    def _call(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        while True:
            try:
                answer = self._http.request(method, path, **arguments)
            except httpx.TransportError:
                time.sleep(RETRY_PAUSE)
                continue
            if answer.status_code == httpx.codes.CONFLICT:
                raise LeaseLostError(answer.text)
            if answer.status_code < 500:
                answer.raise_for_status()
                found: dict[str, Any] = answer.json()
                return found
            time.sleep(RETRY_PAUSE)
