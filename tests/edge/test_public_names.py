"""What apps may rely on: names, signatures, documentation and types of `splitfrozen_edge`."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import splitfrozen_edge

SURFACE = """
Bundle
    open -> Bundle
        directory: str | os.PathLike[str]
    verify -> None
    id: str
    directory: Path
    base_model: str
    cut: int
    hidden_size: int
    precision: str
    max_length: int
DataError
    is a SplitFrozenError
DatasetState
    id: str
    name: str
    bundle: str
    queued_shards: int
    queued_examples: int
    queued_bytes: int
    acked_shards: int
    done_examples: int
    parked_shards: int
    parked_examples: int
    parked_bytes: int
    oldest_at: float | None
Device
    open -> Device
        state_dir: str | os.PathLike[str] | None = None
        *, threads: int | None = None
        *, retry_for: float = 120.0
    enroll -> Device
        server: str
        token: str
        *, state_dir: str | os.PathLike[str] | None = None
        *, name: str | None = None
        *, ca_file: str | os.PathLike[str] | None = None
        *, pin: str | None = None
        *, replace: bool = False
        *, threads: int | None = None
        *, retry_for: float | None = None
    bundle -> Bundle
        wanted: BundleLike | None = None
    embed -> list[NDArray[np.float32]]
        texts: Iterable[str]
        *, bundle: BundleLike | None = None
    push -> PushReport
        rows: Iterable[Mapping[str, Any]]
        *, dataset: str
        *, bundle: BundleLike | None = None
        *, task: str | None = None
        *, labels: Sequence[str] = ()
        *, strict: bool = False
        *, on_bad_row: Callable[[DataError], None] | None = None
    predict -> list[Prediction]
        texts: Iterable[str]
        *, model: str
        *, bundle: BundleLike | None = None
    generate -> Iterator[str]
        prompt: str | Sequence[Mapping[str, str]]
        *, model: str
        *, max_tokens: int = 256
        *, temperature: float = 1.0
        *, top_p: float = 1.0
        *, seed: int | None = None
        *, stop: Sequence[str] = ()
        *, bundle: BundleLike | None = None
    status -> dict[str, Any]
    outbox: Outbox
    close -> None
ManifestError
    is a SplitFrozenError
Outbox
    datasets -> list[DatasetState]
    waiting -> tuple[int, int, int]
    retry -> int
        dataset: str
    drop -> int
        dataset: str
Prediction
    line: int
    label: str
    scores: dict[str, float]
PushReport
    dataset: str
    dataset_id: str
    bundle: str
    task: str
    codec: str
    rows: int
    skipped: int
    examples: int
    truncated: int
    tokens: int
    uploaded_examples: int
    uploaded_shards: int
    duplicates: int
    bytes_body: int
    cpu_seconds: float
    bytes_up: int
    wall_seconds: float
    parked_shards: int
    parked_examples: int
    refusals: tuple[Refusal, ...]
    damaged: int
    bad_rows: int
RefusedError
    is a SplitFrozenError
SplitFrozenError
StateError
"""
PROGRAM = """
from collections.abc import Iterator

from splitfrozen_edge import Bundle, DataError, Device, Outbox, RefusedError, StateError


def rows() -> Iterator[dict[str, str]]:
    yield {"text": "hello", "label": "greeting"}


with Device.open("state", threads=1) as device:
    bundle: Bundle = device.bundle()
    outbox: Outbox = device.outbox
    for rows_of_text in device.embed(["a", "b"], bundle=bundle):
        total: float = float(rows_of_text.sum())
    try:
        count: int = device.push(rows(), dataset="d", bundle=bundle).uploaded_examples
    except (DataError, RefusedError, StateError) as error:
        raise SystemExit(str(error)) from None
    for found in device.predict(["a"], model="ft:x"):
        scores: dict[str, float] = found.scores
    for piece in device.generate("Once", model="gpt2"):
        text: str = piece
    names: list[str] = [item.name for item in outbox.datasets()]
"""


def surface() -> Iterator[str]:
    """Public names, their members, and the parameters and results of these."""
    for name in splitfrozen_edge.__all__:
        found = getattr(splitfrozen_edge, name)
        yield name
        if issubclass(found, Exception):
            yield from (f"    is a {base.__name__}" for base in found.__mro__[1:-3])
        elif dataclasses.is_dataclass(found):
            yield from (f"    {field.name}: {field.type}" for field in dataclasses.fields(found))
        else:
            yield from members(found)


def members(found: type) -> Iterator[str]:
    for name, member in vars(found).items():
        if name.startswith("_"):
            continue
        if isinstance(member, property):
            yield f"    {name}: {inspect.signature(member.fget).return_annotation}"
            continue
        signature = inspect.signature(getattr(found, name))
        yield f"    {name} -> {signature.return_annotation}"
        for parameter in signature.parameters.values():
            if parameter.name != "self":
                keyword = "*, " if parameter.kind is parameter.KEYWORD_ONLY else ""
                yield f"        {keyword}{parameter}".replace("'", "")


def test_names_and_signatures_are_these() -> None:
    assert "\n".join(surface()) == SURFACE.strip("\n")


def test_every_public_name_and_member_is_documented() -> None:
    for name in splitfrozen_edge.__all__:
        found = getattr(splitfrozen_edge, name)
        assert inspect.getdoc(found), name
        for member, value in vars(found).items():
            if callable(value) or isinstance(value, property | classmethod):
                assert member.startswith("_") or inspect.getdoc(value), f"{name}.{member}"


def test_a_name_stays_after_its_module_was_imported() -> None:
    for name in 2 * splitfrozen_edge.__all__:  # twice: a module of the same name would shadow it
        assert callable(getattr(splitfrozen_edge, name))
    assert dir(splitfrozen_edge) == sorted(splitfrozen_edge.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = splitfrozen_edge.nonsense


def check_types(directory: Path, program: str) -> subprocess.CompletedProcess[str]:
    (directory / "app.py").write_text(program)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", "cache", "app.py"]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True)


def test_an_app_is_type_checked_against_the_package(tmp_path: Path) -> None:
    done = check_types(tmp_path, PROGRAM)
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = PROGRAM.replace("text: str = piece", "text: int = piece")
    assert "Incompatible types in assignment" in check_types(tmp_path, wrong).stdout
