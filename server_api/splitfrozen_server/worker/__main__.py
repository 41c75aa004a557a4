"""`python -m splitfrozen_server.worker`: started, restarted and ended by `serve`."""

from __future__ import annotations

import logging
import os
import threading
import time
import warnings
from pathlib import Path

import click

WORKER_NAME = "worker-0"
ORPHAN_CHECK = 1.0  # seconds


@click.command(help="Train jobs and answer inference for a running splitfrozen-server.")
@click.option("--data-dir", type=click.Path(path_type=Path), required=True)
@click.option("--control-socket", type=click.Path(path_type=Path), required=True)
@click.option("--worker-socket", type=click.Path(path_type=Path), required=True)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; default: torch's choice")
def main(data_dir: Path, control_socket: Path, worker_socket: Path, threads: int | None) -> None:
    """Run until the server that started this process ends."""
    logging.basicConfig(level=logging.INFO, format="worker: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # PEFT uses names that Transformers will drop: nothing an operator could act on.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    _end_with_parent(os.getppid())
    # cuBLAS is deterministic only with a workspace of fixed size, chosen before it starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ["HF_HUB_OFFLINE"] = "1"  # all weights are here; a job never waits for a network

    import torch

    from splitfrozen_server.worker.control_client import ControlClient
    from splitfrozen_server.worker.inference import serve_in_thread
    from splitfrozen_server.worker.loop import work_forever
    from splitfrozen_server.worker.turns import Turns
    from splitfrozen_server.worker.workspace import Workspace

    if threads is not None:
        torch.set_num_threads(threads)
    if torch.cuda.is_available():
        torch.use_deterministic_algorithms(True, warn_only=True)
    turns = Turns()
    serve_in_thread(worker_socket, turns)
    control = ControlClient(control_socket, WORKER_NAME)
    work_forever(control, Workspace(data_dir / "worker"), turns)


def _end_with_parent(parent: int) -> None:
    """Stop at once when the server is gone: an orphan would train beside its successor."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(ORPHAN_CHECK)
        os._exit(1)

    threading.Thread(target=watch, name="orphan-watch", daemon=True).start()


if __name__ == "__main__":
    main()
