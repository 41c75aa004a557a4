"""SplitFrozen's contract: shards, quantization, manifests, errors. Needs numpy and nothing else.

A public name is loaded when it is first used: whoever needs the errors only never loads numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from splitfrozen.bundle import Bundle, read_bundle
    from splitfrozen.errors import CODES, SplitFrozenError
    from splitfrozen.identity import example_id
    from splitfrozen.manifest import Manifest, manifest_bytes, parse_manifest
    from splitfrozen.wire import Shard, decode, digest, encode

__version__ = "0.1.0"

_PUBLIC = {
    "CODES": "splitfrozen.errors",
    "Bundle": "splitfrozen.bundle",
    "Manifest": "splitfrozen.manifest",
    "Shard": "splitfrozen.wire",
    "SplitFrozenError": "splitfrozen.errors",
    "decode": "splitfrozen.wire",
    "digest": "splitfrozen.wire",
    "encode": "splitfrozen.wire",
    "example_id": "splitfrozen.identity",
    "manifest_bytes": "splitfrozen.manifest",
    "parse_manifest": "splitfrozen.manifest",
    "read_bundle": "splitfrozen.bundle",
}

__all__ = [
    "CODES",
    "Bundle",
    "Manifest",
    "Shard",
    "SplitFrozenError",
    "decode",
    "digest",
    "encode",
    "example_id",
    "manifest_bytes",
    "parse_manifest",
    "read_bundle",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
