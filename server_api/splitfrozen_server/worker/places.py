"""Where the worker keeps derived files. The API knows this much of them, to erase them."""

from __future__ import annotations

from pathlib import Path


def dataset_directory(root: Path, dataset_id: str) -> Path:
    """The training file of a dataset, below the worker's folder `root`."""
    return root / "datasets" / dataset_id


def job_directory(root: Path, job_id: str) -> Path:
    """Checkpoints and result of a job."""
    return root / "jobs" / job_id
