"""What an answering model's linear layers receive on real text, named as in its graph."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from splitfrozen_export.home.answering import Answering
from splitfrozen_export.home.check import batch_size
from splitfrozen_export.home.trace import layer_in
from splitfrozen_export.measure.batches import Ids
from splitfrozen_export.precision.calibrate import BATCH, Calibration, calibrate
from splitfrozen_export.steps import OnPart


def calibrate_answering(
    module: Answering, base_prefix: str, examples: Sequence[Ids], on_part: OnPart
) -> Calibration:
    """Run token ids through `module`; the upper half gets what its lower blocks make of them.

    A head that shares the token table has its own name here, as in the graph.
    """

    def call(ids: Tensor, mask: Tensor) -> object:
        return module(*module.feed(ids, mask, None).values())

    return calibrate(
        module,
        examples,
        on_part,
        call=call,
        name=lambda path: layer_in(f"{path}.weight", base_prefix),
        batch=batch_size(module, examples, BATCH),
    )
