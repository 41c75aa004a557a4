"""What the linear layers of an answering model receive on real text, by their names in its graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from splitfrozen_export.home.answering import Answering
from splitfrozen_export.home.check import batch_size
from splitfrozen_export.home.trace import layer_in
from splitfrozen_export.measure.batches import Ids
from splitfrozen_export.precision.calibrate import BATCH, Calibration, calibrate
from splitfrozen_export.steps import OnPart


def calibrate_answering(
    module: Answering, base_prefix: str, examples: Sequence[Ids], on_part: OnPart
) -> Calibration:
    """Run token ids through `module`; the upper half gets what its lower blocks make of them."""

    def call(ids: Tensor, mask: Tensor) -> object:
        return module(*module.feed(ids, mask, None).values())

    return calibrate(
        module,
        examples,
        on_part,
        call=call,
        name=_names(module, base_prefix),
        batch=batch_size(module, examples, BATCH),
    )


def _names(module: nn.Module, base_prefix: str) -> Callable[[str], str]:
    """The layer of the module at a path: a tied head is known by the table that it shares."""
    first = {id(parameter): name for name, parameter in module.named_parameters()}

    def name(path: str) -> str:
        weight = module.get_submodule(path).weight
        return layer_in(first.get(id(weight), f"{path}.weight"), base_prefix)

    return name
