"""When a measured bundle is refused. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

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
# The next precision to try when one is too far off.
CLOSER = {"int8": "int8-hq", "int8-hq": "fp32", "int4": "int8-hq", "int4-all": "int4"}


def judge(report: Report, request: Request, *, kept: Collection[str] = ()) -> None:
    """Raise SplitFrozenError `check_failed` when a graph is further off than the request allows.

    With layers `kept` in fp32, last bits may depend on a batch: their kernels are not exact.
    """
    limit, named = _limit(MAX_ERROR, request, "--max-error", request.max_error)
    too_far = not report.relative_error <= limit  # NaN fails too
    if too_far or not report.worst_token <= WORST_TOKEN * limit:
        what = "relative error" if too_far else f"worst token, over {WORST_TOKEN:g} times the limit"
        raise SplitFrozenError(
            "check_failed",
            f"the graph is too far from the model ({what}): relative error "
            f"{report.relative_error:.3g}, worst token {report.worst_token:.3g}, {named}; no "
            f"bundle was written. {advice(request, '--max-error')}",
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
    limit, named = _limit(MAX_ERROR, request, "--max-error", request.max_error)
    if not report.relative_error <= limit:
        raise SplitFrozenError(
            "check_failed",
            f"generating token by token is too far from the model: relative error "
            f"{report.relative_error:.3g}, {named}; no bundle was written. "
            f"{advice(request, '--max-error')}; or leave this out with --no-generation",
        )


def judge_loss(loss: LossReport, request: Request) -> None:
    """Raise SplitFrozenError `check_failed` when a precision costs more loss than is allowed."""
    judge_gap(loss.wire_gap, loss.whole, request)


def judge_gap(gap: float, whole: float, request: Request) -> None:
    """The same for a `gap` in nats per token above the `whole` model's loss in fp32."""
    limit, named = _limit(MAX_LOSS_GAP, request, "--max-loss-gap", request.max_loss_gap)
    if not gap <= limit:
        raise SplitFrozenError(
            "check_failed",
            f"{request.precision} costs {gap:.3g} nats per token (the whole model's loss is "
            f"{whole:.4g}), {named}; nothing was written. {advice(request, '--max-loss-gap')}",
        )


def judge_logits(error: float, own: float, request: Request) -> None:
    """The same for the relative `error` of a model's logits; `own` is its precision's limit."""
    limit, named = _limit({request.precision: own}, request, "--max-error", request.max_error)
    if not error <= limit:
        raise SplitFrozenError(
            "check_failed",
            f"the logits are too far from the model: relative error {error:.3g}, {named}; nothing "
            f"was written. {advice(request, '--max-error')}",
        )


def advice(request: Request, option: str) -> str:
    """What to try when a graph is above the limit that `option` sets, the best first."""
    ways = [] if request.calibrate or request.precision == "fp32" else ["--calibrate FILE.jsonl"]
    if request.precision in CLOSER:
        ways.append(f"--precision {CLOSER[request.precision]}")
    return f"Try {', then '.join([*ways, f'a higher {option}'])}"


def _limit(
    own: Mapping[str, float], request: Request, option: str, asked: float | None
) -> tuple[float, str]:
    """The limit that counts, and what a message calls it."""
    usual = own[request.precision]
    if asked is None:
        return usual, f"limit of {request.precision} {usual:g}"
    return asked, f"your {option} {asked:g} ({request.precision}'s own limit: {usual:g})"
