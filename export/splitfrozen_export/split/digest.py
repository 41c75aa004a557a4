"""The prefix digest: what identifies the frozen part, whatever its precision (SPEC 6.3).

Reads the tensors of the device segment from the checkpoint one by one and no other, so a server
can compute it for any cut of a model that does not fit in its memory.
"""

from __future__ import annotations

import hashlib

from splitfrozen_export.split.checkpoint import Checkpoint, StoredTensor
from splitfrozen_export.split.needs import stored_names
from splitfrozen_export.split.probe import device_parameters
from splitfrozen_export.split.refuse import check_cut
from splitfrozen_export.split.source import ModelSource

_CHUNK = 1 << 20


def prefix_digest(source: ModelSource, cut: int) -> str:
    """SHA-256, hex, over names, dtypes, shapes and bytes of the tensors below the cut.

    Names are those of the family's base model, so that a base checkpoint and a task checkpoint
    with the same frozen part agree. Raises ModelError `model_not_supported` when the model cannot
    be cut there or a tensor is missing.
    """
    check_cut(source.config, cut, code=source.code)
    wanted = device_parameters(source.config, cut, code=source.code)
    tensors = _find_tensors(source, wanted)
    lines = [_line(name, tensors[name]) for name in sorted(wanted)]
    return hashlib.sha256(b"".join(lines)).hexdigest()


def _line(name: str, tensor: StoredTensor) -> bytes:
    digest = hashlib.sha256()
    for chunk in tensor.chunks(_CHUNK):
        digest.update(chunk)
    shape = ",".join(str(size) for size in tensor.shape)
    return "\0".join([name, tensor.dtype, shape, digest.hexdigest()]).encode() + b"\n"


def _find_tensors(source: ModelSource, wanted: set[str]) -> dict[str, StoredTensor]:
    """Map each wanted parameter of the base model to its bytes in the checkpoint."""
    checkpoint = Checkpoint(source)
    names = stored_names(source, checkpoint.names, wanted)
    found = checkpoint.find(list(names.values()))
    return {name: found[names[name]] for name in wanted}
