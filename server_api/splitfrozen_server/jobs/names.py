"""Names of adapters: `ft:{base}:{suffix}:{job8}`; `ft:{suffix}` is the newest that succeeded."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from splitfrozen_server.database.job_tables import JobRow
from splitfrozen_server.identifiers import new_id

JOB_PREFIX = "ftjob-"
ADAPTER_PREFIX = "ft:"
_SHORT = 8  # digits of the job id in an adapter's name


def new_job_id() -> str:
    return new_id(JOB_PREFIX)


def adapter_name(base: str, suffix: str, job_id: str) -> str:
    """The one full name of a job's adapter."""
    short = job_id.removeprefix(JOB_PREFIX)[:_SHORT]
    return f"{ADAPTER_PREFIX}{base}:{suffix}:{short}"


def find_adapter(session: Session, tenant_id: str, name: str) -> JobRow | None:
    """The succeeded job behind a full name, or the newest one of a suffix."""
    done = select(JobRow).where(JobRow.tenant_id == tenant_id, JobRow.status == "succeeded")
    if (found := session.scalar(done.where(JobRow.fine_tuned_model == name))) is not None:
        return found
    if not name.startswith(ADAPTER_PREFIX):
        return None
    suffix = name.removeprefix(ADAPTER_PREFIX)
    newest = done.where(JobRow.suffix == suffix).order_by(JobRow.position.desc())
    return session.scalar(newest.limit(1))
