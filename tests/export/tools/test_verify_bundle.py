"""`verify` finds every changed byte, every foreign file, and a model that is not the bundle's."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from splitfrozen.bundle import CHECKSUM_NAME, checksum_bytes, read_bundle
from splitfrozen.errors import ManifestError
from splitfrozen.manifest import FileEntry, manifest_bytes, parse_manifest
from splitfrozen.signature import SIGNATURE_NAME, Signature, signature_bytes
from splitfrozen_export.tools.verdict import Wishes, verify_bundle
from tests.export.tools.conftest import Done

Run = Callable[..., Done]
FILES = (
    "splitfrozen.json",
    CHECKSUM_NAME,
    "device.onnx",
    "device.onnx.data",
    "tokenizer.json",
    SIGNATURE_NAME,
)
_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = _KEY.public_key().public_bytes_raw().hex()


def sign(directory: Path, key: Ed25519PrivateKey = _KEY) -> None:
    made = key.sign((directory / "splitfrozen.json").read_bytes()).hex()
    public = key.public_key().public_bytes_raw().hex()
    (directory / SIGNATURE_NAME).write_bytes(signature_bytes(Signature(public, made)))


def seal(directory: Path, **changes: Any) -> None:
    """Write a manifest that fits the files as they are now."""
    manifest = parse_manifest((directory / "splitfrozen.json").read_bytes())
    files = {}
    for name in manifest.files:
        content = (directory / name).read_bytes()
        files[name] = FileEntry(hashlib.sha256(content).hexdigest(), len(content))
    raw = manifest_bytes(replace(manifest, files=files, **changes))
    (directory / "splitfrozen.json").write_bytes(raw)
    (directory / CHECKSUM_NAME).write_bytes(checksum_bytes(raw))


def flip(path: Path, at: int, mask: int) -> bytes:
    """Change a byte in place; returns what was there."""
    before = path.read_bytes()
    changed = bytearray(before)
    changed[at % len(before)] ^= mask
    path.write_bytes(changed)
    return before


def is_refused(directory: Path) -> bool:
    try:
        return not verify_bundle(directory, Wishes()).ok
    except ManifestError:
        return True


def fault(run: Run, directory: Path, *options: object) -> str:
    """What `verify` says is wrong, the exit code being 1."""
    done = run("verify", directory, *options, "--format", "json")
    assert done.code == 1, done.output
    found = json.loads(done.output) if done.output else {"faults": [done.errors]}
    return "\n".join(found["faults"])


def test_an_exported_bundle_is_sound(run: Run, exported: Callable[[str], Path]) -> None:
    done = run("verify", exported("opt"), "--format", "json")
    found = json.loads(done.output)
    assert (done.code, found["ok"], found["faults"]) == (0, True, [])
    measured = found["measured"]
    assert (measured["neighbour_difference"], measured["later_token_difference"]) == (0.0, 0.0)
    assert 0 <= measured["decoding_error"] < 0.08
    assert found["signed_by"] is None


@pytest.mark.parametrize("place", [0, 0.3, 0.7, -1])
@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_in_any_file_is_refused(
    run: Run, copy: Path, name: str, place: float
) -> None:
    sign(copy)
    assert run("verify", copy).code == 0
    size = (copy / name).stat().st_size
    flip(copy / name, size - 1 if place < 0 else int(place * size), 0x01)
    assert run("verify", copy).code == 1


def test_damage_is_said_where_it_was_looked_for_and_nothing_else_is_called_ok(
    run: Run, copy: Path
) -> None:
    flip(copy / "device.onnx.data", 100, 1)
    (copy / "notes.txt").write_text("mine")
    lines = run("verify", copy).output.splitlines()
    assert lines[1] == "WRONG    3 files: size, SHA-256, and no others"
    assert "device.onnx.data has SHA-256" in lines[2]
    assert "notes.txt is a file" in lines[3]
    assert lines[4].startswith("ok       signature: it has none")
    assert all(line.startswith("not yet  ") for line in lines[5:-1])
    assert lines[-1] == "The bundle must not be used."


def test_a_sound_bundle_is_described_in_words(run: Run, small: Path) -> None:
    lines = run("verify", small).output.splitlines()
    assert all(line.startswith(("ok  ", "    ")) for line in lines[1:-1])
    assert lines[-2].strip() == (
        "other texts in the batch and other padding change an activation not at all"
    )
    assert lines[-1] == "The bundle is sound."


@pytest.fixture(scope="module")
def signed(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = Path(shutil.copytree(small, tmp_path_factory.mktemp("signed") / "bundle"))
    sign(directory)
    return directory


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(name=st.sampled_from(FILES), at=st.integers(0, 1 << 30), mask=st.integers(1, 255))
def test_any_change_of_any_byte_is_refused(signed: Path, name: str, at: int, mask: int) -> None:
    before = flip(signed / name, at, mask)
    try:
        assert is_refused(signed)
    finally:
        (signed / name).write_bytes(before)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(name=st.sampled_from(FILES[:-1]), at=st.integers(0, 1 << 30), mask=st.integers(1, 255))
def test_any_change_of_any_byte_is_refused_before_a_device_loads_it(
    signed: Path, name: str, at: int, mask: int
) -> None:
    before = flip(signed / name, at, mask)
    try:
        with pytest.raises(ManifestError):
            read_bundle(signed)
    finally:
        (signed / name).write_bytes(before)


@pytest.mark.parametrize("name", [name for name in FILES if name != SIGNATURE_NAME])
def test_a_file_cut_short_or_longer_is_refused(run: Run, copy: Path, name: str) -> None:
    content = (copy / name).read_bytes()
    for other in (content[:-1], content + b" ", b""):
        (copy / name).write_bytes(other)
        assert run("verify", copy).code == 1, len(other)


def test_a_missing_file_is_named(run: Run, copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    assert "tokenizer.json is missing" in fault(run, copy)


def test_foreign_files_directories_and_links_are_named(run: Run, copy: Path) -> None:
    (copy / "notes.txt").write_text("mine")
    (copy / "old").mkdir()
    target = (copy / "device.onnx.data").rename(copy.parent / "elsewhere")
    (copy / "device.onnx.data").symlink_to(target)
    said = fault(run, copy)
    assert "notes.txt is a file" in said and "old is a directory" in said
    assert "not a plain file" in said


def test_a_graph_of_another_opset_than_declared_is_refused(run: Run, copy: Path) -> None:
    seal(copy, opset=23)
    assert "has opset 20, the manifest says 23" in fault(run, copy)


def change_graph(directory: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(directory / "device.onnx", load_external_data=False)
    change(model)
    (directory / "device.onnx").write_bytes(model.SerializeToString())
    seal(directory)


def test_weights_outside_the_bundle_are_refused(run: Run, copy: Path) -> None:
    def move(model: onnx.ModelProto) -> None:
        for entry in model.graph.initializer[0].external_data:
            if entry.key == "location":
                entry.value = "../secret"

    change_graph(copy, move)
    assert "'../secret', which is no file of the bundle" in fault(run, copy)


def test_weights_beyond_the_end_of_their_file_are_refused(run: Run, copy: Path) -> None:
    def enlarge(model: onnx.ModelProto) -> None:
        for entry in model.graph.initializer[0].external_data:
            if entry.key == "offset":
                entry.value = str(1 << 40)

    change_graph(copy, enlarge)
    assert "ends at byte" in fault(run, copy)


def test_a_graph_without_the_declared_outputs_is_refused(run: Run, copy: Path) -> None:
    def rename(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.output[:] = ["other" if name == "scale" else name for name in node.output]
            node.input[:] = ["other" if name == "scale" else name for name in node.input]
        for item in model.graph.output:
            item.name = "other" if item.name == "scale" else item.name

    change_graph(copy, rename)
    said = fault(run, copy)
    assert "has the output scale as None" in said and "outputs that no device knows: other" in said


def test_generation_that_reads_another_past_is_refused(
    run: Run, exported: Callable[[str], Path], tmp_path: Path
) -> None:
    """The values of the past come back doubled: right shapes, wrong numbers."""
    copy = Path(shutil.copytree(exported("opt"), tmp_path / "copy"))
    path = copy / "device_with_past.onnx"
    model = onnx.load(path, load_external_data=False)
    maker = next(node for node in model.graph.node if "present.0.value" in node.output)
    maker.output[list(maker.output).index("present.0.value")] = "right"
    for node in model.graph.node:
        node.input[:] = ["right" if name == "present.0.value" else name for name in node.input]
    model.graph.node.append(onnx.helper.make_node("Add", ["right", "right"], ["present.0.value"]))
    path.write_bytes(model.SerializeToString())
    seal(copy)
    assert "generation would not see what training saw" in fault(run, copy)


def test_a_tokenizer_that_cannot_be_read_is_a_fault_of_the_bundle(run: Run, copy: Path) -> None:
    (copy / "tokenizer.json").write_bytes(b"{}")
    seal(copy)
    done = run("verify", copy, "--format", "json")
    found = json.loads(done.output)
    assert (done.code, found["ok"]) == (1, False)
    assert any("tokenizer.json cannot be read" in fault for fault in found["faults"])


def test_a_graph_that_cannot_run_is_refused(run: Run, copy: Path) -> None:
    def spoil(model: onnx.ModelProto) -> None:
        model.graph.node[0].op_type = "NoSuchOperator"

    change_graph(copy, spoil)
    assert "ONNX Runtime cannot run the graph" in fault(run, copy)


def test_an_int8_bundle_that_depends_on_its_batch_is_refused(run: Run, copy: Path) -> None:
    """The largest value of the batch as a divisor, as one scale for the whole tensor would be."""

    def mix(model: onnx.ModelProto) -> None:
        last = next(node for node in model.graph.node if "hidden" in node.output)
        last.output[0] = "alone"
        make = onnx.helper.make_node
        added = [
            make("ReduceMax", ["looked_up"], ["largest_of_all"], keepdims=0),
            make("Mul", ["alone", "largest_of_all"], ["hidden"]),
        ]
        at = list(model.graph.node).index(last) + 1
        nodes = [*model.graph.node[:at], *added, *model.graph.node[at:]]
        del model.graph.node[:]
        model.graph.node.extend(nodes)

    change_graph(copy, mix)
    seal(copy, precision="int8")
    assert "changes with its company" in fault(run, copy)


def test_a_signature_by_the_pinned_key_is_accepted_and_any_other_refused(
    run: Run, copy: Path
) -> None:
    assert "has no splitfrozen.sig" in fault(run, copy, "--key", KEY)
    sign(copy)
    assert run("verify", copy, "--key", KEY.upper()).code == 0
    assert "signature by the required key" in run("verify", copy, "--key", KEY).output
    assert "not pinned" in run("verify", copy).output
    assert "was made by the key" in fault(run, copy, "--key", "0" * 64)
    mistyped = run("verify", copy, "--key", "abc")
    assert (mistyped.code, "no Ed25519 public key" in mistyped.errors) == (2, True)
    seal(copy, tools={"changed": "1"})
    assert "is not the signature of this manifest" in fault(run, copy)


def test_the_original_model_is_recognised_and_another_is_not(
    run: Run, exported: Callable[[str], Path], tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    model = tiny_model("opt")
    done = run("verify", exported("opt"), "--model", model, "--format", "json")
    found = json.loads(done.output)
    assert (done.code, found["faults"]) == (0, [])
    assert 0 < found["measured"]["relative_error"] < 0.08
    assert found["measured"]["prefix_digest"] == (
        read_bundle(exported("opt")).manifest.prefix_digest
    )
    own = tmp_path / "texts.jsonl"
    own.write_text('{"text": "the boat"}\n{"prompt": "a", "completion": " b"}\n')
    options = ["--model", model, "--data", own, "--max-error", "1e-6"]
    assert "more than 1e-06" in fault(run, exported("opt"), *options)
    other = Path(shutil.copytree(model, tmp_path / "other"))
    change_weight(other / "model.safetensors")
    assert "is not the model of this bundle" in fault(run, exported("opt"), "--model", other)


def change_weight(path: Path) -> None:
    import safetensors.torch

    tensors = safetensors.torch.load_file(path)
    name = next(name for name in sorted(tensors) if ".layers.0." in name)
    tensors[name] = tensors[name] + 1
    safetensors.torch.save_file(tensors, path, {"format": "pt"})


@pytest.mark.parametrize(
    ("options", "reason"),
    [(["--model", "/no/such/model"], "no directory"), (["--data", "/none"], "does not exist")],
)
def test_what_cannot_be_compared_with_is_wrong_usage(
    run: Run, small: Path, options: list[str], reason: str
) -> None:
    done = run("verify", small, *options)
    assert done.code == 2
    assert reason in done.errors
