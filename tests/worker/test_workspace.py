"""The worker's folder holds what unfinished jobs use, and nothing else."""

from __future__ import annotations

from pathlib import Path

from splitfrozen_server.worker.workspace import Workspace


def test_files_of_ended_jobs_and_unused_datasets_go(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    for name in ("ds_used", "ds_unused"):
        workspace.training_file(name)
    for name in ("ftjob-1", "ftjob-2"):
        workspace.job(name).mkdir(parents=True)
    workspace.keep_only({"ftjob-2"}, {"ds_used"})
    kept = {str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*")}
    assert kept == {"jobs/ftjob-2", "datasets/ds_used"}
