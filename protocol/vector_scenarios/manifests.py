"""Manifests, and bundle files that do not match theirs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from vector_scenarios.shard_bytes import Vector


def manifest(**changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "architecture": "encoder",
        "base_model": {"id": "org/name", "revision": None},
        "cut": 2,
        "family": "bert",
        "files": {"device.onnx": {"sha256": "ab" * 32, "size": 10}},
        "format": 1,
        "hidden_size": 384,
        "max_positions": 512,
        "num_layers": 6,
        "opset": 23,
        "precision": "int8",
        "prefix_digest": "cd" * 32,
        "preprocess": {
            "chat_template": None,
            "eos_token_id": None,
            "max_length": 512,
            "pad_token_id": 0,
            "prefix_ids": [],
            "truncation": "right",
        },
        "report": {},
        "tools": {"torch": "2.13.0"},
        "vocab_size": 30522,
        "wire": "int8",
        "wire_codecs": ["fp32", "bf16", "int8"],
    }
    for key, value in changes.items():
        fields[key] = value
    return {key: value for key, value in fields.items() if value is not ...}


def manifest_vectors() -> Iterator[tuple[str, Vector]]:
    def entry(code: str, comment: str, raw: bytes) -> Vector:
        digest = hashlib.sha256(raw).hexdigest() if code == "ok" else None
        return {"expect": code, "comment": comment, "manifest": raw.decode(), "bundle_id": digest}

    def raw(**changes: Any) -> bytes:
        text = json.dumps(manifest(**changes), sort_keys=True, indent=2, ensure_ascii=False)
        return (text + "\n").encode()

    file = {"sha256": "ab" * 32, "size": 10}
    yield "ok", entry("ok", "canonical bytes; / is not escaped", raw())
    smallest = raw(precision="int4-all")
    yield "ok_int4_all", entry("ok", "the last of the precisions", smallest)
    yield "bad_manifest_json", entry("bad_manifest", "not JSON", b"{")
    yield "bad_manifest_missing", entry("bad_manifest", "no cut", raw(cut=...))
    yield "bad_manifest_extra", entry("bad_manifest", "an unknown field", raw(colour="red"))
    yield "bad_manifest_cut", entry("bad_manifest", "the cut is the last block", raw(cut=6))
    yield "bad_manifest_bool", entry("bad_manifest", "true is no number", raw(cut=True))
    yield "bad_manifest_wire", entry("bad_manifest", "wire not offered", raw(wire="int4"))
    yield "bad_manifest_precision", entry("bad_manifest", "no precision", raw(precision="int2"))
    yield "bad_manifest_hex", entry("bad_manifest", "short digest", raw(prefix_digest="cd"))
    yield "unsupported_format", entry("unsupported_format", "format 2", raw(format=2))
    for name, path in {
        "up": "../device.onnx",
        "absolute": "/x",
        "hidden": ".x",
        "sub": "a/b",
    }.items():
        yield f"bad_path_{name}", entry("bad_path", path, raw(files={path: file}))
    yield "bad_path_manifest", entry("bad_path", "itself", raw(files={"splitfrozen.json": file}))
    for name, path in {
        "signature": "splitfrozen.sig",
        "checksum": "splitfrozen.json.sha256",
    }.items():
        yield (
            f"bad_path_{name}",
            entry("bad_path", "made from the manifest", raw(files={path: file})),
        )
    good = raw()
    for name, size in (("missing_file", None), ("hash_mismatch", 10)):
        vector = entry(name, "the file on disk", good)
        vector["files_hex"] = {} if size is None else {"device.onnx": "00" * size}
        yield name, vector
    short = entry("hash_mismatch", "another size", good)
    short["files_hex"] = {"device.onnx": "00"}
    yield "hash_mismatch_size", short
