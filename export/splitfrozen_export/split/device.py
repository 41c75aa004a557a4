"""The device segment: embeddings and blocks 0..k-1 of the family's own base model."""

from __future__ import annotations

import re
from functools import partial

from splitfrozen_export.split.assemble import Wanted
from splitfrozen_export.split.blocks import count_layers
from splitfrozen_export.split.classes import is_decoder, model_class
from splitfrozen_export.split.probe import device_parameters
from splitfrozen_export.split.refuse import check_cut
from splitfrozen_export.split.segment import DeviceSegment, keep_blocks
from splitfrozen_export.split.source import ModelSource
from splitfrozen_export.split.tasks import without_cache
from splitfrozen_export.split.weights import load_weights


def load_device_segment(source: ModelSource, cut: int, *, stream: bool = False) -> DeviceSegment:
    """Load the embeddings and blocks 0..cut-1, in fp32; nothing else of the checkpoint is read.

    With `stream` the weights stay in the checkpoint: each operation reads its own and drops them,
    so the segment takes the memory of its largest layer, and of the rows that it looks up in its
    tables. The same bits come out, slower.

    Raises ModelError `model_not_supported` when the model cannot be cut there or the checkpoint
    lacks a weight that the segment reads.
    """
    check_cut(source.config, cut, code=source.code)
    read = device_parameters(source.config, cut, code=source.code)
    dead = rf"^(?!({'|'.join(map(re.escape, read))})$)"  # a final norm or pooler that no one reads
    model = load_weights(
        model_class(source.config, "base", code=source.code),
        source,
        without_cache(source.config),
        surgery=partial(keep_blocks, layers=count_layers(source.config), cut=cut),
        wanted=Wanted(unread=[dead]),
        stream=stream,
    )
    return DeviceSegment(model, cut, decoder=is_decoder(source.config)).eval()
