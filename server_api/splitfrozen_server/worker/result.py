"""The finished job's adapter: packed, written to the job's folder, described for the API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from splitfrozen_server.worker import adapter
from splitfrozen_server.worker.model import adapter_config_bytes, adapter_tensors, public_name

if TYPE_CHECKING:
    from splitfrozen_server.worker.run import JobRun

PACKED = "adapter.tar"


def pack_result(run: JobRun) -> dict[str, Any]:
    """Write adapter.tar and return what the API stores about it."""
    base = public_name(run.job.model)
    weights = adapter.weights_bytes(adapter_tensors(run.adapted.model))
    description = _describe(run, base, adapter.sha256(weights))
    config = adapter_config_bytes(run.adapted.model, run.job.model)
    packed = adapter.pack(adapter.adapter_files(description, weights, config))
    path = run.directory / PACKED
    path.write_bytes(packed)
    return {
        "path": str(path),
        "sha256": adapter.sha256(packed),
        "result": {
            "adapter_sha256": description.adapter_sha256,
            "examples": description.examples,
            "metrics": description.metrics,
        },
    }


def _describe(run: JobRun, base: str, weights_digest: str) -> adapter.AdapterDescription:
    return adapter.AdapterDescription(
        name=run.job.fine_tuned_model,
        base_model=base,
        base_revision=run.job.model.revision,
        prefix_digest=run.prefix_digest,
        bundles=tuple(sorted(run.rows.bundles)),
        cut=run.job.cut,
        task=run.job.task,
        labels=tuple(run.start.labels) if run.job.task == "classification" else (),
        dataset=run.job.training.name,
        examples=run.schedule.examples,
        epochs=run.settings.epochs,
        steps=run.state.steps,
        metrics=run.progress.final_metrics(),
        adapter_sha256=weights_digest,
    )
