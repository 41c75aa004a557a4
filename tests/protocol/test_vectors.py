"""The golden vectors, run against the Python codec."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from splitfrozen import CODES, SplitFrozenError, decode, encode, read_bundle
from splitfrozen.manifest import MANIFEST_NAME, bundle_id, manifest_bytes, parse_manifest
from splitfrozen.quantize import encode_hidden

PROTOCOL = Path(__file__).resolve().parents[2] / "protocol"
VECTORS = PROTOCOL / "vectors"


def load(folder: str, least: int) -> list[Any]:
    """All vectors of a folder; fewer than `least` means that some were not seen."""
    paths = sorted((VECTORS / folder).glob("*.json"))
    assert len(paths) >= least, f"{folder}: only {len(paths)} vectors"
    return [pytest.param(json.loads(path.read_text()), id=path.stem) for path in paths]


def outcome(call: Callable[[], Any]) -> str:
    try:
        call()
    except SplitFrozenError as error:
        return error.code
    return "ok"


def wire(vector: dict[str, Any]) -> bytes:
    body = bytes.fromhex(vector["wire_hex"])
    return body + body[-1:] * (vector.get("repeat_last", 1) - 1)


@pytest.mark.parametrize("vector", load("message", 77))
def test_a_body_is_read_or_refused_with_its_code(vector: dict[str, Any]) -> None:
    assert outcome(lambda: decode(wire(vector))) == vector["expect"]


@pytest.mark.parametrize("vector", load("message", 77))
def test_a_good_body_has_one_encoding(vector: dict[str, Any]) -> None:
    if vector["expect"] != "ok":
        assert outcome(lambda: decode(wire(vector))) != "ok"
        return
    shard = decode(wire(vector))
    for name, tensor in vector["tensors"].items():
        array = getattr(shard, name)
        assert list(array.shape) == tensor["shape"]
        assert array.tobytes() == bytes.fromhex(tensor["bits_hex"])
    assert encode(shard) == wire(vector)


def test_the_stock_safetensors_reader_opens_every_good_body() -> None:
    seen = 0
    for path in (VECTORS / "message").glob("ok_*.json"):
        vector = json.loads(path.read_text())
        if "bf16" in path.stem:
            continue  # numpy's view of U16 is the same, the reader is tried on the others
        tensors = safetensors.numpy.load(wire(vector))
        assert {name: array.tobytes().hex() for name, array in tensors.items()} == {
            name: tensor["bits_hex"] for name, tensor in vector["tensors"].items()
        }
        seen += 1
    assert seen >= 5


@pytest.mark.parametrize("vector", load("quantize", 12))
def test_activations_are_coded_bit_for_bit(vector: dict[str, Any]) -> None:
    bits = bytes.fromhex(vector["hidden_f32_hex"])
    hidden = np.frombuffer(bits, "<f4").reshape(-1, vector["width"])
    assert outcome(lambda: encode_hidden(vector["codec"], hidden)) == vector["expect"]
    if vector["expect"] == "ok":
        coded, scale = encode_hidden(vector["codec"], hidden)
        assert coded.tobytes().hex() == vector["coded_hex"]
        assert scale is None or scale.tobytes().hex() == vector["scale_f16_hex"]


@pytest.mark.parametrize("vector", load("manifest", 15))
def test_a_bundle_is_opened_or_refused_with_its_code(
    vector: dict[str, Any], tmp_path: Path
) -> None:
    raw = vector["manifest"].encode()
    if "files_hex" in vector:
        (tmp_path / MANIFEST_NAME).write_bytes(raw)
        for name, content in vector["files_hex"].items():
            (tmp_path / name).write_bytes(bytes.fromhex(content))
        assert outcome(lambda: read_bundle(tmp_path)) == vector["expect"]
        return
    assert outcome(lambda: parse_manifest(raw)) == vector["expect"]
    if vector["expect"] == "ok":
        assert manifest_bytes(parse_manifest(raw)) == raw
        assert bundle_id(raw) == vector["bundle_id"]


@pytest.mark.parametrize("vector", load("answer", 45))
def test_the_table_of_codes_has_the_status_and_the_retry_rule(vector: dict[str, Any]) -> None:
    entry = CODES[vector["body"]["error"]["code"]]
    assert (entry.status, entry.retryable) == (vector["status"], vector["retry"])


def test_every_code_has_a_vector_and_every_vector_a_code() -> None:
    expected = {json.loads(p.read_text())["expect"] for p in VECTORS.glob("*/*.json")}
    assert expected - {"ok"} == set(CODES)


def test_every_code_of_a_shard_or_a_bundle_is_reached_by_bytes_not_only_by_an_answer() -> None:
    folders = ("message", "quantize", "manifest")
    reached = {
        json.loads(p.read_text())["expect"] for f in folders for p in (VECTORS / f).glob("*.json")
    }
    codes = list(CODES)
    on_bytes = codes[: codes.index("invalid_request")]
    assert set(on_bytes) - reached == {"bad_encoding"}  # of the HTTP layer: tested at the server


def test_the_generator_reproduces_the_files_without_the_codec() -> None:
    command = [sys.executable, str(PROTOCOL / "generate_vectors.py"), "--check"]
    subprocess.run(command, check=True, timeout=60)
    sources = [PROTOCOL / "generate_vectors.py", *(PROTOCOL / "vector_scenarios").glob("*.py")]
    assert not any("splitfrozen" in line for s in sources for line in imports(s))


def imports(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line.startswith(("import", "from"))]
