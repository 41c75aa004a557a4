"""The worker's life: lease a job, work on it, whatever happens go on with the next."""

from __future__ import annotations

import logging
import time

from splitfrozen.errors import SplitFrozenError
from splitfrozen_server.worker.control_client import ControlClient, LeaseLostError
from splitfrozen_server.worker.job import LeasedJob
from splitfrozen_server.worker.run import JobRun, StoppedError
from splitfrozen_server.worker.trainer import NotFiniteError
from splitfrozen_server.worker.turns import Turns
from splitfrozen_server.worker.workspace import Workspace

POLL = 0.5  # seconds between two looks into the queue

log = logging.getLogger(__name__)


def work_forever(control: ControlClient, workspace: Workspace, turns: Turns) -> None:
    """Never returns; a job that fails is reported and left behind."""
    workspace.keep_only(control.unfinished())
    while True:
        job = control.lease()
        if job is None:
            time.sleep(POLL)
            continue
        log.info("job %s leased", job.id)
        try:
            attempt(job, control, workspace, turns)
        except LeaseLostError:
            log.warning("job %s: the lease was lost", job.id)
        workspace.keep_only(control.unfinished())


def attempt(job: LeasedJob, control: ControlClient, workspace: Workspace, turns: Turns) -> None:
    """Work on one job; tells the API how it went. LeaseLostError passes through."""
    try:
        JobRun(job, control, workspace, turns).run()
        log.info("job %s succeeded", job.id)
    except StoppedError as stopped:
        control.release(job, idle_sequence=stopped.idle_sequence)
    except LeaseLostError:
        raise
    except SplitFrozenError as error:
        log.warning("job %s failed: %s", job.id, error)
        control.fail(job, error.code, error.message, error.param)
    except NotFiniteError as error:
        advice = "lower the learning rate, or look for broken examples"
        control.fail(job, "not_finite", f"{error}; {advice}", None)
    except Exception as error:
        log.exception("job %s failed", job.id)
        control.fail(job, "internal_error", f"{type(error).__name__}: {error}", None)
