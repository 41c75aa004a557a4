"""A trained adapter as its users get it: a flat PEFT directory for the whole base model, as .tar.

    adapter_config.json adapter_model.safetensors     stock PEFT, `layers_to_transform` = [cut..]
    README.md                                         model card
    splitfrozen.json                                  what a server needs to serve it

The same training gives the same bytes: no times, no machine names.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from safetensors.torch import save as save_tensors
from torch import Tensor

from splitfrozen_server.worker.checkpoint import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from splitfrozen_server.worker.model_card import model_card

FORMAT = 1
CARD = "README.md"
DESCRIPTION = "splitfrozen.json"


@dataclass(frozen=True)
class AdapterDescription:
    """splitfrozen.json of an adapter: where it belongs and how it came to be."""

    name: str  # ft:{base}:{suffix}:{job8}
    base_model: str  # as the model card names it
    base_revision: str | None
    prefix_digest: str  # of the device segments whose activations it was trained on
    bundles: tuple[str, ...]
    cut: int
    task: str
    labels: tuple[str, ...]  # empty for causal_lm
    dataset: str
    examples: int
    epochs: int
    steps: int
    metrics: dict[str, float]
    adapter_sha256: str  # of adapter_model.safetensors


def adapter_files(
    description: AdapterDescription, weights: bytes, config: bytes
) -> dict[str, bytes]:
    """All files of the directory by name."""
    fields = {"format": FORMAT, **asdict(description)}
    return {
        CARD: model_card(description, json.loads(config)).encode(),
        ADAPTER_CONFIG: config,
        ADAPTER_WEIGHTS: weights,
        DESCRIPTION: (json.dumps(fields, indent=2, sort_keys=True) + "\n").encode(),
    }


def weights_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """adapter_model.safetensors."""
    return save_tensors(dict(tensors), metadata={"format": "pt"})


def pack(files: Mapping[str, bytes]) -> bytes:
    """A tar of plain files in the order of their names, with nothing that varies."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(files):
            info = tarfile.TarInfo(name)
            info.size = len(files[name])
            info.mode = 0o644
            archive.addfile(info, io.BytesIO(files[name]))
    return sink.getvalue()


def unpack(archive: bytes) -> dict[str, bytes]:
    """The files of a packed adapter."""
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as found:
        members = [member for member in found.getmembers() if member.isfile()]
        return {member.name: _read(found, member) for member in members}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None
    return file.read()
