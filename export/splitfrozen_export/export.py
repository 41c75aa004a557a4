"""The whole way from a model to a bundle, step by step."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError

from splitfrozen.errors import SplitFrozenError
from splitfrozen_export import steps
from splitfrozen_export.build import build_graphs
from splitfrozen_export.bundle import draft_bundle
from splitfrozen_export.downloads import download
from splitfrozen_export.plan import Plan, make_plan
from splitfrozen_export.preprocess import write_tokenizer
from splitfrozen_export.record import describe_bundle
from splitfrozen_export.request import Request, Result
from splitfrozen_export.split import Proof, prefix_digest, prove_cut
from splitfrozen_export.split.needs import missing_files
from splitfrozen_export.split.source import absent_files

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def export_bundle(
    request: Request, on_step: steps.OnStep, on_part: steps.OnPart = steps.ignore_parts
) -> Result:
    """Export a bundle; `on_step` is told each of STEPS as it begins, `on_part` its progress.

    Raises SplitFrozenError: whatever `make_plan` refuses, and `check_failed` when a proof or a
    comparison fails, `insufficient_storage` for a full disk. Then nothing new is left at
    `request.output`.
    """
    with _full_disk(request):
        return _export(request, steps.Watcher(on_step, on_part))


def _export(request: Request, watch: steps.Watcher) -> Result:
    watch.on_step(steps.FIND)
    plan = make_plan(request)
    fetch(plan, watch)
    watch.on_step(steps.PROVE)
    proof = prove(plan)
    with draft_bundle(request.output, force=request.force) as draft:
        built = build_graphs(plan, draft.directory, watch)
        watch.on_step(steps.WRITE)
        write_tokenizer(plan.text, draft.directory)
        manifest = describe_bundle(
            plan,
            proof=proof,
            built=built,
            digest=prefix_digest(plan.source, request.cut),
            files=draft.files(),
        )
        return Result(request.output, draft.publish(manifest), manifest)


def fetch(plan: Plan, watch: steps.Watcher) -> None:
    """Download what the Hub cache lacks: the files of the segment, all where all are read.

    Raises ModelError `model_not_found` when the Hub fails.
    """
    source = plan.source
    if source.revision is None:
        return
    watch.on_step(steps.DOWNLOAD)
    download(source, missing_files(source, plan.request.cut), watch.on_part)
    if plan.windows or plan.proves_weights:
        download(source, absent_files(source), watch.on_part)


def prove(plan: Plan) -> Proof:
    """Prove the cut on a twin, and on the weights when asked or when that is cheap.

    Raises SplitFrozenError `check_failed` for any difference but 0.0.
    """
    proof = prove_cut(plan.source, plan.request.cut, real=plan.proves_weights)
    if proof.twin_difference != 0 or (proof.real_difference or 0) != 0:
        raise SplitFrozenError(
            "check_failed",
            f"{plan.request.model} cut at {plan.request.cut} is not the whole model: logits differ "
            f"by {proof.twin_difference} on a random twin, {proof.real_difference} on the weights",
        )
    return proof


@contextmanager
def _full_disk(request: Request) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        if not _says_full(error):
            raise
        raise SplitFrozenError(
            "insufficient_storage",
            f"there is no room for the bundle at {request.output}, or for a small model beside "
            f"other temporary files ({error}); no bundle was written. --dry-run says how large it "
            "will be",
        ) from error


def _says_full(error: OSError | SafetensorError) -> bool:
    """Whether a write failed for want of room.

    numpy's short write has no number of the system at all, safetensors has it in its words.
    """
    if isinstance(error, OSError):
        return error.errno in _FULL or " requested and " in str(error)
    return any(f"(os error {number})" in str(error) for number in _FULL)
