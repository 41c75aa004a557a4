"""The app on the control socket: what the worker may ask and tell. Never on the network.

All writes of training go through here, because with SQLite the API process is the only writer.
Every call may come twice: the worker repeats what was not answered.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from sqlalchemy import select
from sqlalchemy.orm import Session

from splitfrozen_server.database.job_tables import JobAdmissionRow, JobCheckpointRow, JobRow
from splitfrozen_server.database.tables import BaseModelRow, BundleRow, DatasetRow, ShardRow
from splitfrozen_server.datasets import read_labels
from splitfrozen_server.errors import add_error_handlers
from splitfrozen_server.identifiers import new_id, now
from splitfrozen_server.jobs import leases, results, state
from splitfrozen_server.jobs.events import add_event, add_events, metric_events
from splitfrozen_server.jobs.messages import (
    Admission,
    Fail,
    Finish,
    LeaseRequest,
    PublishedCheckpoint,
    Release,
    Report,
    Start,
)
from splitfrozen_server.services import Services

PAGE = 500  # shards in one answer


def create_control_app(services: Services) -> FastAPI:
    """The worker's API."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.services = services
    add_error_handlers(app)
    _add_queue_routes(app, services)
    _add_progress_routes(app, services)
    _add_ending_routes(app, services)
    return app


def _add_queue_routes(app: FastAPI, services: Services) -> None:
    database, blobs = services.database, services.blobs

    @app.post("/lease")
    async def lease(body: LeaseRequest) -> dict[str, Any]:
        decision = await database.read(lambda s: leases.decide(s, body.worker))
        if not decision.changes:  # the usual case costs no write
            return {"job": None}
        return {"job": await database.write(lambda s: _grant(s, body.worker))}

    @app.get("/jobs")
    async def unfinished() -> dict[str, Any]:
        return await database.read(_unfinished)

    @app.get("/jobs/{job_id}/shards")
    async def shards(job_id: str, lease: str, dataset: str, after: int) -> dict[str, Any]:
        def work(session: Session) -> dict[str, Any]:
            job = leases.leased(session, job_id, lease)
            return _arrivals(session, job, dataset, after)

        page = await database.read(work)
        for shard in page["shards"]:
            shard["path"] = str(blobs.path(shard["digest"]))
        return page


def _add_progress_routes(app: FastAPI, services: Services) -> None:
    database = services.database

    @app.post("/jobs/{job_id}/start")
    async def start(job_id: str, body: Start) -> dict[str, Any]:
        return {"record": await database.write(lambda s: _start(s, job_id, body))}

    @app.post("/jobs/{job_id}/admissions")
    async def admit(job_id: str, body: Admission) -> dict[str, Any]:
        await database.write(lambda s: _admit(s, job_id, body))
        return {}

    @app.post("/jobs/{job_id}/events")
    async def report(job_id: str, body: Report) -> dict[str, Any]:
        return {"status": await database.write(lambda s: _report(s, job_id, body))}

    @app.post("/jobs/{job_id}/checkpoints")
    async def checkpoint(job_id: str, body: PublishedCheckpoint) -> dict[str, Any]:
        await database.write(lambda s: _checkpoint(s, job_id, body))
        return {}


def _add_ending_routes(app: FastAPI, services: Services) -> None:
    database, config = services.database, services.config

    @app.post("/jobs/{job_id}/finish")
    async def finish(job_id: str, body: Finish) -> dict[str, Any]:
        # First, so that a cancelled job does not wait for a disk that refuses its adapter.
        if await database.read(lambda s: _has_finished(s, job_id, body.lease)):
            return {}
        size = await asyncio.to_thread(results.store_adapter, config, Path(body.path), body.sha256)
        table = await database.read(lambda s: results.metrics_table(metric_events(s, job_id)))
        digest = await asyncio.to_thread(results.store_metrics, config, table)

        def work(session: Session) -> None:
            if _has_finished(session, job_id, body.lease):
                return
            job = leases.leased(session, job_id, body.lease)
            name = f"{job.fine_tuned_model.replace(':', '-').replace('/', '-')}.tar"
            results.add_file(session, job, "adapter", name, body.sha256, size)
            results.add_file(session, job, "metrics", "step_metrics.csv", digest, len(table))
            state.succeed(session, job, body.result)

        await database.write(work)
        return {}

    @app.post("/jobs/{job_id}/fail")
    async def fail(job_id: str, body: Fail) -> dict[str, Any]:
        def work(session: Session) -> None:
            job = leases.leased(session, job_id, body.lease)
            if job.status not in state.ENDED:
                state.fail(session, job, body.error.code, body.error.message, body.error.param)
            leases.release(job)

        await database.write(work)
        return {}

    @app.post("/jobs/{job_id}/release")
    async def release(job_id: str, body: Release) -> dict[str, Any]:
        def work(session: Session) -> None:
            job = leases.leased(session, job_id, body.lease)
            leases.release(job, idle_sequence=body.idle_sequence)

        await database.write(work)
        return {}


def _unfinished(session: Session) -> dict[str, Any]:
    """Jobs that have not ended and the datasets they use: what a worker must keep."""
    query = select(JobRow).where(JobRow.status.not_in(state.ENDED))
    jobs = session.scalars(query).all()
    used = {job.training_dataset_id for job in jobs} | {job.validation_dataset_id for job in jobs}
    return {"jobs": [job.id for job in jobs], "datasets": sorted(used - {None})}


def _grant(session: Session, worker: str) -> dict[str, Any] | None:
    job = leases.grant(session, worker)
    return None if job is None else _leased_record(session, job)


def _leased_record(session: Session, job: JobRow) -> dict[str, Any]:
    base = session.get_one(BaseModelRow, job.base_model_id)
    log = select(JobAdmissionRow).where(JobAdmissionRow.job_id == job.id)
    return {
        "id": job.id,
        "lease": job.lease,
        "model": {
            "name": base.name,
            "source": base.source,
            "revision": base.revision,
            "path": base.path,
            "hidden_size": base.hidden_size,
            "trust_remote_code": base.trust_remote_code,
        },
        "task": job.task,
        "cut": job.cut,
        "config": job.config,
        "training": _dataset_record(session, job.training_dataset_id),
        "validation": (
            None
            if job.validation_dataset_id is None
            else _dataset_record(session, job.validation_dataset_id)
        ),
        "prefix_digests": _prefix_digests(session, job),
        "fine_tuned_model": job.fine_tuned_model,
        "start": job.start,
        "admissions": [
            {"step": row.step, "sequence": row.sequence, "sealed": row.sealed}
            for row in session.scalars(log.order_by(JobAdmissionRow.step))
        ],
    }


def _prefix_digests(session: Session, job: JobRow) -> list[str]:
    """Of the device segments that made the job's activations: one, unless weights were swapped."""
    used = select(ShardRow.bundle_id).where(
        ShardRow.dataset_id.in_([job.training_dataset_id, job.validation_dataset_id])
    )
    query = select(BundleRow.prefix_digest).where(
        BundleRow.tenant_id == job.tenant_id, BundleRow.id.in_(used)
    )
    return sorted(set(session.scalars(query)))


def _dataset_record(session: Session, dataset_id: str) -> dict[str, Any]:
    dataset = session.get(DatasetRow, dataset_id)
    name = dataset_id if dataset is None else dataset.name
    return {"id": dataset_id, "name": name, "labels": read_labels(session, dataset_id)}


def _arrivals(session: Session, job: JobRow, dataset_id: str, after: int) -> dict[str, Any]:
    """One page of shards; `sealed` is read at the same instant, so nothing can slip between."""
    query = select(ShardRow.sequence, ShardRow.digest)
    query = query.where(ShardRow.dataset_id == dataset_id, ShardRow.sequence > after)
    rows = session.execute(query.order_by(ShardRow.sequence).limit(PAGE + 1)).all()
    dataset = session.get(DatasetRow, dataset_id)
    others = leases.decide(session, job.worker or "", besides=job.id)
    return {
        "shards": [{"sequence": sequence, "digest": digest} for sequence, digest in rows[:PAGE]],
        "more": len(rows) > PAGE,
        "sealed": dataset is None or dataset.sealed_at is not None,
        "status": job.status,
        "others_waiting": others.job_id is not None,
    }


def _start(session: Session, job_id: str, body: Start) -> dict[str, Any]:
    job = leases.leased(session, job_id, body.lease)
    if job.start is None:
        job.start = body.record
        add_event(session, job, "started", "Fine-tuning job started")
    return job.start


def _admit(session: Session, job_id: str, body: Admission) -> None:
    job = leases.leased(session, job_id, body.lease)
    row = JobAdmissionRow(
        job_id=job.id,
        tenant_id=job.tenant_id,
        step=body.step,
        sequence=body.sequence,
        sealed=body.sealed,
    )
    session.merge(row)
    leases.renew(job)


def _report(session: Session, job_id: str, body: Report) -> str:
    job = leases.leased(session, job_id, body.lease)
    add_events(session, job, [event.model_dump() for event in body.events])
    if body.progress is not None:
        leases.advance(job, body.progress)
    leases.renew(job)
    return job.status


def _has_finished(session: Session, job_id: str, lease: str) -> bool:
    """Whether the job has succeeded already; `job_not_active` unless it may succeed now."""
    job = leases.leased(session, job_id, lease)
    if job.status == "succeeded":
        return True
    state.require_running(job)
    return False


def _checkpoint(session: Session, job_id: str, body: PublishedCheckpoint) -> None:
    job = leases.leased(session, job_id, body.lease)
    query = select(JobCheckpointRow.id).where(
        JobCheckpointRow.job_id == job_id, JobCheckpointRow.step == body.step
    )
    if session.scalar(query) is not None:
        return
    session.add(
        JobCheckpointRow(
            id=new_id("ftckpt-"),
            tenant_id=job.tenant_id,
            job_id=job.id,
            step=body.step,
            name=body.name,
            metrics=body.metrics,
            created_at=now(),
        )
    )
    leases.renew(job)
