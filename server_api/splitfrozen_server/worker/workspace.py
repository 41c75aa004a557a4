"""The worker's own folder: derived training files and checkpoints. All of it can be made again."""

from __future__ import annotations

import shutil
from pathlib import Path

from splitfrozen_server.worker.materialise import TrainingFile
from splitfrozen_server.worker.places import dataset_directory, job_directory


class Workspace:
    """`datasets/<id>/` holds a training file, `jobs/<id>/` a job's checkpoints and result."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._datasets = root / "datasets"
        self._jobs = root / "jobs"

    def training_file(self, dataset_id: str) -> TrainingFile:
        """The training file of a dataset, opened and checked."""
        return TrainingFile(dataset_directory(self._root, dataset_id))

    def job(self, job_id: str) -> Path:
        return job_directory(self._root, job_id)

    def drop_job(self, job_id: str) -> None:
        """Delete a job's files, which nobody needs once it ended."""
        shutil.rmtree(self.job(job_id), ignore_errors=True)

    def keep_only(self, jobs: set[str], datasets: set[str]) -> None:
        """Delete the files of all other jobs and datasets."""
        for path in self._jobs.glob("*"):
            if path.name not in jobs:
                self.drop_job(path.name)
        for path in self._datasets.glob("*"):
            if path.name not in datasets:
                shutil.rmtree(path, ignore_errors=True)
