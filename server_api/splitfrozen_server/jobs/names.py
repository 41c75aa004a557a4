"""Names of adapters: `ft:{base}:{suffix}:{job8}`; `ft:{suffix}` is the newest that succeeded."""

from __future__ import annotations

from difflib import get_close_matches

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from splitfrozen.errors import RefusedError
from splitfrozen_server.database.job_tables import JobRow
from splitfrozen_server.database.tables import BaseModelRow
from splitfrozen_server.identifiers import new_id

JOB_PREFIX = "ftjob-"
ADAPTER_PREFIX = "ft:"
_SHORT = 8  # digits of the job id in an adapter's name
_NAMED, _SEARCHED = 5, 200  # names of an error; newest adapters that it looks through


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


def no_model(session: Session, tenant_id: str, name: str) -> RefusedError:
    """`not_found` for a name, with what its tenant has instead: a job under way, or other names."""
    found = f"there is no model {name[:120]!r}"
    suffix = name.removeprefix(ADAPTER_PREFIX)
    jobs = select(JobRow).where(JobRow.tenant_id == tenant_id).order_by(JobRow.position.desc())
    last = session.scalar(
        jobs.where(or_(JobRow.suffix == suffix, JobRow.fine_tuned_model == name)).limit(1)
    )
    if last is not None and last.status == "succeeded":  # asked for without its prefix
        return _not_found(f"{found}; did you mean {ADAPTER_PREFIX}{suffix}?")
    if last is not None:
        state = "has ended as" if last.finished_at is not None else "makes it and is"
        return _not_found(f"{found}: job {last.id} {state} {last.status}")
    adapters = session.scalars(jobs.where(JobRow.status == "succeeded").limit(_SEARCHED)).all()
    bases = select(BaseModelRow.name).where(BaseModelRow.tenant_id == tenant_id)
    known = [f"{ADAPTER_PREFIX}{job.suffix}" for job in adapters]
    known = list(dict.fromkeys([*known, *session.scalars(bases.order_by(BaseModelRow.name))]))
    close = get_close_matches(name[:120], known, n=_NAMED)
    if close:
        return _not_found(f"{found}; did you mean {' or '.join(close)}?")
    rest = ", …" if len(known) > _NAMED else ""
    return _not_found(f"{found}; there is: {', '.join(known[:_NAMED]) or 'none yet'}{rest}")


def _not_found(message: str) -> RefusedError:
    return RefusedError("not_found", message, param="model")
