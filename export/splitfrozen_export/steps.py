"""The steps of an export, and who is told about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

OnStep = Callable[[str], None]  # a step of STEPS begins
OnPart = Callable[[int, int], None]  # so many units of the running step are done, of so many

FIND = "Finding the model"
DOWNLOAD = "Downloading weights"
PROVE = "Proving the cut"
LOAD = "Loading the device segment"
CALIBRATE = "Calibrating"
REFERENCE = "Running it in torch"
TRACE = "Tracing it to ONNX"
QUANTIZE = "Coding the weights"
SAVE = "Writing the weights"
COMPARE = "Comparing ONNX Runtime with torch"
PAST = "Making the generation graph"
COMPARE_PAST = "Generating with it token by token"
LOSS = "Measuring the loss"
WRITE = "Writing the bundle"

STEPS = (
    FIND,
    DOWNLOAD,
    PROVE,
    LOAD,
    CALIBRATE,
    REFERENCE,
    TRACE,
    QUANTIZE,
    SAVE,
    COMPARE,
    PAST,
    COMPARE_PAST,
    LOSS,
    WRITE,
)


def ignore_parts(_done: int, _total: int) -> None:
    """For callers that show no progress."""


@dataclass(frozen=True)
class Watcher:
    """Who wants to know how far an export is."""

    on_step: OnStep
    on_part: OnPart = ignore_parts
