"""The manifest of a bundle, `splitfrozen.json` (SPEC 6): parse strictly, write canonically. Pure.

A bundle's id is the SHA-256 of the manifest's bytes. The manifest names every other file with
its size and SHA-256, so one id fixes the weights, the tokenizer and the preprocessing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from splitfrozen.errors import ManifestError
from splitfrozen.quantize import CODECS

MANIFEST_NAME = "splitfrozen.json"
_BESIDE = (MANIFEST_NAME, "splitfrozen.json.sha256", "splitfrozen.sig")  # what no manifest names
FORMAT = 1
PRECISIONS = ("fp32", "int8", "int8-hq", "int4", "int4-all")
ARCHITECTURES = ("encoder", "decoder")
_HEX = re.compile(r"[0-9a-f]{64}")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")

T = TypeVar("T")


@dataclass(frozen=True)
class BaseModel:
    """Where the weights came from; informative, `prefix_digest` is what counts."""

    id: str  # Hub id or directory name
    revision: str | None  # commit of the Hub repository


@dataclass(frozen=True)
class FileEntry:
    """One file of the bundle."""

    sha256: str  # 64 hex digits
    size: int  # bytes


@dataclass(frozen=True)
class Preprocess:
    """All that a device needs, besides tokenizer.json, to turn a row into token ids (SPEC 7)."""

    max_length: int  # tokens of an example, special tokens included
    truncation: str  # "right": see SPEC 7.4
    prefix_ids: tuple[int, ...]  # put before a prompt by the tokenizer, e.g. bos; causal_lm
    eos_token_id: int | None  # ends a completion
    pad_token_id: int | None
    chat_template: str | None  # Jinja text for {"messages"} rows


@dataclass(frozen=True)
class Manifest:
    """What a bundle is. `report` holds the exporter's measurements and may grow."""

    base_model: BaseModel
    prefix_digest: str  # SHA-256 over the tensors that the device segment reads (SPEC 6.3)
    family: str  # the model_type of its configuration
    architecture: str  # encoder | decoder
    hidden_size: int  # channels at the cut
    num_layers: int  # blocks of the whole model
    cut: int  # blocks on the device
    max_positions: int
    vocab_size: int
    precision: str
    wire: str  # the codec that devices use unless told otherwise
    wire_codecs: tuple[str, ...]  # all that this graph serves
    opset: int
    preprocess: Preprocess
    files: Mapping[str, FileEntry]
    tools: Mapping[str, str] = field(default_factory=dict)  # name -> version
    report: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT


def bundle_id(manifest: bytes) -> str:
    """The id of the bundle with these manifest bytes."""
    return hashlib.sha256(manifest).hexdigest()


def manifest_bytes(manifest: Manifest) -> bytes:
    """Canonical JSON: sorted keys, two spaces, one newline at the end; UTF-8."""
    text = json.dumps(asdict(manifest), sort_keys=True, indent=2, ensure_ascii=False)
    return (text + "\n").encode()


def parse_manifest(raw: bytes) -> Manifest:
    """Read a manifest; ManifestError names the field that is wrong."""
    try:
        document = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:  # also an integer of thousands of digits
        raise ManifestError("bad_manifest", f"{MANIFEST_NAME} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ManifestError("bad_manifest", f"{MANIFEST_NAME} is not a JSON object")
    if document.get("format") != FORMAT or isinstance(document.get("format"), bool):
        raise ManifestError(
            "unsupported_format",
            f"{MANIFEST_NAME} has format {document.get('format')!r}; this version reads {FORMAT}",
            param="format",
        )
    manifest = _read(Manifest, document, "")
    _check(manifest)
    return manifest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ManifestError("bad_manifest", f"an object of {MANIFEST_NAME} repeats a key")
    return found


def _wrong(name: str, rule: str) -> ManifestError:
    return ManifestError("bad_manifest", f"{MANIFEST_NAME}: {name} {rule}", param=name)


def _read(kind: Callable[..., T], document: Any, path: str) -> T:
    """Build a dataclass from an object that has exactly its fields."""
    if not isinstance(document, dict):
        raise _wrong(path or "the document", "is not an object")
    names = {item.name for item in fields(kind)}  # type: ignore[arg-type]
    for name in sorted(names - set(document)):
        raise _wrong(path + name, "is missing")
    for name in sorted(set(document) - names):
        raise _wrong(path + name, "is not a field of the format")
    return kind(**{name: _value(path + name, document[name]) for name in names})


def _value(name: str, value: Any) -> Any:
    if reader := _READERS.get(name):
        return reader(name, value)
    raise _wrong(name, "is not a field of the format")


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(name, "is not a string")
    return value


def _count(name: str, value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 53:
        raise _wrong(name, "is not a non-negative integer")
    return value


def _optional(reader: Callable[[str, Any], T]) -> Callable[[str, Any], T | None]:
    return lambda name, value: None if value is None else reader(name, value)


def _list_of(reader: Callable[[str, Any], T]) -> Callable[[str, Any], tuple[T, ...]]:
    def read(name: str, value: Any) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise _wrong(name, "is not a list")
        return tuple(reader(name, item) for item in value)

    return read


def _hex(name: str, value: Any) -> str:
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise _wrong(name, "is not 64 lower-case hex digits")
    return value


def _files(name: str, value: Any) -> dict[str, FileEntry]:
    if not isinstance(value, dict) or not value:
        raise _wrong(name, "is not an object of files")
    return {key: _file(key, entry) for key, entry in value.items()}


def _file(name: str, entry: Any) -> FileEntry:
    if not _FILE_NAME.fullmatch(name) or name in _BESIDE:
        raise ManifestError("bad_path", f"{MANIFEST_NAME}: {name[:80]!r} is no name for a file")
    if not isinstance(entry, dict) or set(entry) != {"sha256", "size"}:
        raise _wrong(f"files.{name}", "needs exactly sha256 and size")
    return FileEntry(
        _hex(f"files.{name}.sha256", entry["sha256"]), _count(f"files.{name}.size", entry["size"])
    )


def _object(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(name, "is not an object")
    return value


def _versions(name: str, value: Any) -> dict[str, str]:
    return {key: _text(f"{name}.{key}", text) for key, text in _object(name, value).items()}


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "format": _count,
    "base_model": lambda name, value: _read(BaseModel, value, name + "."),
    "base_model.id": _text,
    "base_model.revision": _optional(_text),
    "prefix_digest": _hex,
    "family": _text,
    "architecture": _text,
    "hidden_size": _count,
    "num_layers": _count,
    "cut": _count,
    "max_positions": _count,
    "vocab_size": _count,
    "precision": _text,
    "wire": _text,
    "wire_codecs": _list_of(_text),
    "opset": _count,
    "tools": _versions,
    "report": _object,
    "files": _files,
    "preprocess": lambda name, value: _read(Preprocess, value, name + "."),
    "preprocess.max_length": _count,
    "preprocess.truncation": _text,
    "preprocess.prefix_ids": _list_of(_count),
    "preprocess.eos_token_id": _optional(_count),
    "preprocess.pad_token_id": _optional(_count),
    "preprocess.chat_template": _optional(_text),
}


def _check(manifest: Manifest) -> None:
    rules = (
        ("architecture", manifest.architecture in ARCHITECTURES, f"is not one of {ARCHITECTURES}"),
        ("precision", manifest.precision in PRECISIONS, f"is not one of {PRECISIONS}"),
        ("wire_codecs", set(manifest.wire_codecs) <= set(CODECS), f"has more than {CODECS}"),
        ("wire", manifest.wire in manifest.wire_codecs, "is not one of wire_codecs"),
        ("cut", 1 <= manifest.cut < manifest.num_layers, "is not within 1..num_layers-1"),
        ("hidden_size", manifest.hidden_size >= 1, "is not positive"),
        ("vocab_size", manifest.vocab_size >= 1, "is not positive"),
        ("preprocess.truncation", manifest.preprocess.truncation == "right", "is not 'right'"),
        (
            "preprocess.max_length",
            1 <= manifest.preprocess.max_length <= manifest.max_positions,
            "is not within 1..max_positions",
        ),
    )
    for name, holds, rule in rules:
        if not holds:
            raise _wrong(name, rule)
