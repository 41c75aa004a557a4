"""The edge runtime: token ids -> activations -> shards on disk -> server. Never imports torch.

Importing this package loads nothing heavy; a public name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "Client": "splitfrozen_edge.http.client",
    "DeviceSession": "splitfrozen_edge.model.session",
    "Outbox": "splitfrozen_edge.outbox.store",
    "PushReport": "splitfrozen_edge.pushing.report",
    "PushRequest": "splitfrozen_edge.pushing.file",
    "StateDirectory": "splitfrozen_edge.state",
    "Tokenizer": "splitfrozen_edge.data.tokenizer",
    "classify": "splitfrozen_edge.inference.predict",
    "push_file": "splitfrozen_edge.pushing.file",
    "read_rows": "splitfrozen_edge.data.rows",
}

__all__ = [
    "Client",
    "DeviceSession",
    "Outbox",
    "PushReport",
    "PushRequest",
    "StateDirectory",
    "Tokenizer",
    "classify",
    "push_file",
    "read_rows",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
