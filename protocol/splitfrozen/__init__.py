"""SplitFrozen's contract: shards, quantization, manifests, errors. Needs numpy and nothing else."""

from splitfrozen.bundle import Bundle, read_bundle
from splitfrozen.errors import CODES, SplitFrozenError
from splitfrozen.identity import example_id
from splitfrozen.manifest import Manifest, manifest_bytes, parse_manifest
from splitfrozen.wire import Shard, decode, digest, encode

__version__ = "0.1.0"

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
