"""`python -m splitfrozen_server.worker`: started, restarted and ended by `serve`."""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from pathlib import Path
from typing import IO

import click

WORKER_NAME = "worker-0"
ORPHAN_CHECK = 1.0  # seconds


@click.command(help="Train jobs and answer inference for a running splitfrozen-server.")
@click.option("--data-dir", type=click.Path(path_type=Path), required=True)
@click.option("--control-socket", type=click.Path(path_type=Path), required=True)
@click.option("--worker-socket", type=click.Path(path_type=Path), required=True)
@click.option("--parent-pid", type=int, required=True, help="Server that started this process.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; default: torch's choice")
@click.option("--session-memory", type=int, help="Bytes of split sessions; default: a quarter.")
@click.option("--max-sessions", type=int, required=True, help="Split sessions at once.")
@click.option("--session-idle", type=float, required=True, help="Seconds until one is dropped.")
def main(
    data_dir: Path,
    control_socket: Path,
    worker_socket: Path,
    parent_pid: int,
    threads: int | None,
    session_memory: int | None,
    max_sessions: int,
    session_idle: float,
) -> None:
    """Run until the server that started this process ends."""
    logging.basicConfig(level=logging.INFO, format="worker: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    _end_with_parent(parent_pid)
    lock = _hold_folder(data_dir / "worker")
    # cuBLAS is deterministic only with a workspace of fixed size, chosen before it starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ["HF_HUB_OFFLINE"] = "1"  # all weights are here; a job never waits for a network

    import torch
    from transformers.utils import logging as transformers_logging

    from splitfrozen_server.worker.control_client import ControlClient
    from splitfrozen_server.worker.inference import serve_in_thread
    from splitfrozen_server.worker.loop import work_forever
    from splitfrozen_server.worker.memory import session_bytes
    from splitfrozen_server.worker.sessions import Limits
    from splitfrozen_server.worker.turns import Turns
    from splitfrozen_server.worker.workspace import Workspace

    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    if threads is not None:
        torch.set_num_threads(threads)
    if torch.cuda.is_available():
        torch.use_deterministic_algorithms(True, warn_only=True)
    turns = Turns()
    limits = Limits(session_memory or session_bytes(), max_sessions, session_idle)
    serve_in_thread(worker_socket, turns, limits)
    control = ControlClient(control_socket, WORKER_NAME)
    with lock:
        work_forever(control, Workspace(data_dir / "worker"), turns)


def _hold_folder(directory: Path) -> IO[str]:
    """Wait until no other worker uses the folder; it stays ours while the result is open."""
    directory.mkdir(parents=True, exist_ok=True)
    stream = (directory / "lock").open("w")
    fcntl.flock(stream, fcntl.LOCK_EX)
    return stream


def _end_with_parent(parent: int) -> None:
    """Stop at once when the server is gone: an orphan would train beside its successor.

    Its id is given and not asked for: it may be gone before this process can ask.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(ORPHAN_CHECK)
        os._exit(1)

    threading.Thread(target=watch, name="orphan-watch", daemon=True).start()


if __name__ == "__main__":
    main()
