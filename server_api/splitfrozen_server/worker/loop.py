"""The worker's life: lease a job, work on it, whatever happens go on with the next."""

from __future__ import annotations

import logging
import time
from typing import Any

from splitfrozen.errors import SplitFrozenError
from splitfrozen_server.blobs import NO_SPACE
from splitfrozen_server.worker.control_client import ControlClient, LeaseLostError
from splitfrozen_server.worker.job import LeasedJob
from splitfrozen_server.worker.run import JobRun, StoppedError
from splitfrozen_server.worker.trainer import NotFiniteError
from splitfrozen_server.worker.turns import Turns
from splitfrozen_server.worker.workspace import Workspace

POLL = 0.5  # seconds between two looks into the queue
CLEAN_EVERY = 20  # idle looks between two looks for files that nobody needs any more
FULL_DISK_PAUSE = 30.0  # seconds

log = logging.getLogger(__name__)


class DiskFullError(Exception):
    """A job was given back because the worker's folder takes no more bytes."""


def work_forever(control: ControlClient, workspace: Workspace, turns: Turns) -> None:
    """Never returns; a job that fails is reported and left behind."""
    workspace.keep_only(*control.unfinished())
    idle = 0
    while True:
        job = control.lease()
        if job is None:
            time.sleep(POLL)
            idle += 1
            if idle % CLEAN_EVERY == 0:  # datasets are deleted, and jobs cancelled, meanwhile
                workspace.keep_only(*control.unfinished())
            continue
        log.info("job %s leased", job.id)
        try:
            attempt(job, control, workspace, turns)
        except LeaseLostError:
            log.warning("job %s: the lease was lost", job.id)
        except DiskFullError:
            time.sleep(FULL_DISK_PAUSE)
        workspace.keep_only(*control.unfinished())


def attempt(job: LeasedJob, control: ControlClient, workspace: Workspace, turns: Turns) -> None:
    """Work on one job; tells the API how it went. LeaseLostError passes through.

    Raises DiskFullError when the job was given back for want of space.
    """
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
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            _give_back(job, control)
            raise DiskFullError from error
        log.exception("job %s failed", job.id)
        control.fail(job, "internal_error", f"{type(error).__name__}: {error}", None)


def _give_back(job: LeasedJob, control: ControlClient) -> None:
    """Say so in the job's events: it goes on from its checkpoint once there is space."""
    text = (
        "The server's disk is full: the job is put back and tried again every "
        f"{FULL_DISK_PAUSE:.0f} s; make space in the data directory"
    )
    log.warning("job %s: %s", job.id, text)
    event: dict[str, Any] = {"key": f"disk_full:{job.lease}", "type": "message", "level": "warn"}
    event |= {"message": text, "data": {}, "created_at": time.time()}
    control.report(job, [event])
    control.release(job)
