"""The edge runtime: token ids -> activations -> shards on disk -> server. Never imports torch.

Apps use the names below (docs/edge-python.md); every other module is this package's own business
and may change. Importing the package loads nothing heavy: a name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from splitfrozen.errors import DataError, ManifestError, RefusedError, SplitFrozenError
    from splitfrozen_edge.app.bundle import Bundle
    from splitfrozen_edge.app.device import Device
    from splitfrozen_edge.app.outbox import Outbox
    from splitfrozen_edge.inference.predict import Prediction
    from splitfrozen_edge.outbox.entries import DatasetState
    from splitfrozen_edge.pushing.report import PushReport
    from splitfrozen_edge.state import StateError

_PUBLIC = {
    "Bundle": "splitfrozen_edge.app.bundle",
    "DataError": "splitfrozen.errors",
    "DatasetState": "splitfrozen_edge.outbox.entries",
    "Device": "splitfrozen_edge.app.device",
    "ManifestError": "splitfrozen.errors",
    "Outbox": "splitfrozen_edge.app.outbox",
    "Prediction": "splitfrozen_edge.inference.predict",
    "PushReport": "splitfrozen_edge.pushing.report",
    "RefusedError": "splitfrozen.errors",
    "SplitFrozenError": "splitfrozen.errors",
    "StateError": "splitfrozen_edge.state",
}

__all__ = [
    "Bundle",
    "DataError",
    "DatasetState",
    "Device",
    "ManifestError",
    "Outbox",
    "Prediction",
    "PushReport",
    "RefusedError",
    "SplitFrozenError",
    "StateError",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
