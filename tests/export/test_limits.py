"""A bundle that is further from its model than its precision allows is refused, with numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from splitfrozen import SplitFrozenError
from splitfrozen_export.measure.limits import WORST_TOKEN, judge, judge_gap
from splitfrozen_export.measure.verify import Report
from splitfrozen_export.precision.quantize import MAX_ERROR
from splitfrozen_export.request import Request

GOOD = Report(0.01, 0.02, 1.0, 0.99, 0.0, 0.0, tokens=9, shapes=((1, 1),))
INT8 = Request("m", 2, Path("out"))


@pytest.mark.parametrize("precision", MAX_ERROR)
def test_every_precision_has_a_limit_of_its_own(precision: str) -> None:
    limit = MAX_ERROR[precision]
    request = replace(INT8, precision=precision)
    judge(replace(GOOD, relative_error=limit, worst_token=limit), request)
    with pytest.raises(SplitFrozenError, match=f"limit of {precision}"):
        judge(replace(GOOD, relative_error=limit * 1.01), request)


def test_a_limit_of_the_user_is_called_so_and_the_best_way_out_comes_first() -> None:
    calibrated = replace(INT8, max_error=0.001, calibrate=Path("rows.jsonl"))
    with pytest.raises(SplitFrozenError) as refused:
        judge(GOOD, calibrated)
    assert "your --max-error 0.001 (int8's own limit: 0.08)" in refused.value.message
    assert "Try --precision int8-hq, then a higher --max-error" in refused.value.message
    with pytest.raises(SplitFrozenError, match="Try a higher --max-error"):
        judge(GOOD, replace(INT8, precision="fp32"))
    with pytest.raises(SplitFrozenError, match=r"limit of int4 0\.15.* Try --calibrate"):
        judge_gap(0.2, 2.0, replace(INT8, precision="int4"))


def test_one_token_that_is_far_off_is_enough() -> None:
    worst = replace(GOOD, worst_token=WORST_TOKEN * MAX_ERROR["int8"] * 1.01)
    with pytest.raises(SplitFrozenError, match="worst token") as refused:
        judge(worst, INT8)
    assert refused.value.code == "check_failed"
    judge(worst, replace(INT8, max_error=0.2))


def test_what_is_not_a_number_passes_no_limit() -> None:
    with pytest.raises(SplitFrozenError):
        judge(replace(GOOD, relative_error=float("nan")), replace(INT8, max_error=10))


def test_int8_moves_not_by_a_bit_unless_layers_stay_in_fp32() -> None:
    moved = replace(GOOD, neighbour_difference=1e-7)
    with pytest.raises(SplitFrozenError, match="must be the same to the bit"):
        judge(moved, INT8)
    with pytest.raises(SplitFrozenError, match="must be the same to the bit"):
        judge(moved, replace(INT8, keep_fp=("auto",)))  # which found none to keep
    judge(moved, replace(INT8, keep_fp=("x",)), kept=("h.0.x",))
    judge(moved, replace(INT8, precision="int4"))
