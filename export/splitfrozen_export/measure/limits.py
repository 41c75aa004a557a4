"""When a measured bundle is refused. Pure."""

from __future__ import annotations

from collections.abc import Collection

from splitfrozen.errors import SplitFrozenError
from splitfrozen_export.measure.loss import LossReport
from splitfrozen_export.measure.verify import Report
from splitfrozen_export.past import CachedReport
from splitfrozen_export.precision.quantize import MAX_ERROR
from splitfrozen_export.request import Request

# The worst token may be this many times as far off as all together.
WORST_TOKEN = 4.0
# Nats per token that a precision may cost a language model unless the user allows more.
MAX_LOSS_GAP = {"fp32": 1e-3, "int8": 0.05, "int8-hq": 0.02, "int4": 0.15, "int4-all": 0.3}


def judge(report: Report, request: Request, *, kept: Collection[str] = ()) -> None:
    """Raise SplitFrozenError `check_failed` when a graph is further off than the request allows.

    With layers `kept` in fp32, last bits may depend on a batch: their kernels are not exact.
    """
    limit = MAX_ERROR[request.precision] if request.max_error is None else request.max_error
    too_far = not report.relative_error <= limit  # NaN fails too
    if too_far or not report.worst_token <= WORST_TOKEN * limit:
        what = "relative error" if too_far else f"worst token, over {WORST_TOKEN:g} times the limit"
        raise SplitFrozenError(
            "check_failed",
            f"the graph is too far from the model ({what}): relative error "
            f"{report.relative_error:.3g}, worst token {report.worst_token:.3g}, limit of "
            f"{request.precision} {limit:g}; no bundle was written. Raise --max-error, or choose a "
            "closer --precision",
        )
    changed = max(report.neighbour_difference, report.later_token_difference or 0)
    if request.precision == "int8" and not kept and changed != 0:
        raise SplitFrozenError(
            "check_failed",
            f"an activation changes by {changed:.3g} with its batch, padding or later tokens; "
            "int8 must be the same to the bit: export with --precision fp32",
        )


def judge_past(report: CachedReport, request: Request) -> None:
    """Raise SplitFrozenError `check_failed` when generating is further off than is allowed."""
    limit = MAX_ERROR[request.precision] if request.max_error is None else request.max_error
    if not report.relative_error <= limit:
        raise SplitFrozenError(
            "check_failed",
            f"generating token by token is too far from the model: relative error "
            f"{report.relative_error:.3g}, limit of {request.precision} {limit:g}; no bundle was "
            "written. Export with --no-generation, or raise --max-error",
        )


def judge_loss(loss: LossReport, request: Request) -> None:
    """Raise SplitFrozenError `check_failed` when a precision costs more loss than is allowed."""
    judge_gap(loss.wire_gap, loss.whole, request)


def judge_gap(gap: float, whole: float, request: Request) -> None:
    """The same for a `gap` in nats per token above the `whole` model's loss in fp32."""
    limit = request.max_loss_gap
    if limit is None:
        limit = MAX_LOSS_GAP[request.precision]
    if not gap <= limit:
        raise SplitFrozenError(
            "check_failed",
            f"{request.precision} costs {gap:.3g} nats per token (the whole model's loss is "
            f"{whole:.4g}); the limit is {limit:g}; nothing was written. Raise --max-loss-gap, or "
            "choose a closer --precision",
        )
