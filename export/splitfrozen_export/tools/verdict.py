"""Everything that `verify` checks about a bundle, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from splitfrozen.bundle import Bundle, check_manifest
from splitfrozen.errors import SplitFrozenError
from splitfrozen.graph import DEVICE_WITH_PAST
from splitfrozen.manifest import bundle_id, parse_manifest
from splitfrozen_export.tools.overview import read_manifest
from splitfrozen_export.tools.signed import check_signed
from splitfrozen_export.tools.soundness import damaged_files, foreign_files, graph_faults


@dataclass(frozen=True)
class Wishes:
    """What to check besides the bundle itself."""

    key: str | None = None  # Ed25519 public key that must have signed it
    model: str | None = None  # Hub id or directory to compare with
    revision: str | None = None
    data: Path | None = None  # texts to compare on
    max_error: float | None = None  # relative; None: the precision's own limit
    trust_remote_code: bool = False


@dataclass
class Verdict:
    """What was checked, what was found to be wrong, what was measured."""

    directory: Path
    id: str
    checked: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)
    signed_by: str | None = None  # public key

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults


def verify_bundle(directory: Path, wishes: Wishes) -> Verdict:
    """Check a bundle; later checks are left out when files are damaged.

    Raises ManifestError where there is no manifest or it was changed, and what `read_examples` and
    `compare_with_model` raise.
    """
    raw = read_manifest(directory)
    check_manifest(directory, raw)
    manifest = parse_manifest(raw)
    verdict = Verdict(directory, bundle_id(raw))
    verdict.faults += damaged_files(directory, manifest)
    verdict.faults += foreign_files(directory, manifest)
    verdict.checked.append(f"{len(manifest.files)} files: size, SHA-256, and no others")
    _check_signature(verdict, directory, raw, wishes)
    if verdict.faults:
        return verdict
    verdict.faults += graph_faults(directory, manifest)
    verdict.checked.append("graph: inputs, outputs, opset, weights within the bundle's files")
    if not verdict.faults:
        _check_numbers(verdict, Bundle(directory, manifest, verdict.id), wishes)
    return verdict


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """For a script."""
    return {
        "bundle": verdict.id,
        "directory": str(verdict.directory),
        "ok": verdict.ok,
        "faults": verdict.faults,
        "checked": verdict.checked,
        "signed_by": verdict.signed_by,
        "measured": verdict.measured,
    }


def verdict_lines(verdict: Verdict) -> list[str]:
    """For a person."""
    lines = [f"Bundle {verdict.id}", *(f"checked  {what}" for what in verdict.checked)]
    lines += [f"found    {name} {value}" for name, value in verdict.measured.items()]
    lines += [f"WRONG    {fault}" for fault in verdict.faults]
    return [*lines, "The bundle is sound." if verdict.ok else "The bundle must not be used."]


def _check_signature(verdict: Verdict, directory: Path, raw: bytes, wishes: Wishes) -> None:
    def check() -> Iterator[str]:
        found = check_signed(directory, raw, key=wishes.key)
        verdict.signed_by = None if found is None else found.key
        yield from ()

    _collect(verdict, check)
    if verdict.signed_by is not None:
        by = "the required key" if wishes.key else f"{verdict.signed_by} (not pinned: give --key)"
        verdict.checked.append(f"signature by {by}")


def _check_numbers(verdict: Verdict, bundle: Bundle, wishes: Wishes) -> None:
    from splitfrozen_export.tools import numbers

    examples: list[list[int]] = []

    def tokenizer() -> Iterator[str]:
        examples.extend(numbers.read_examples(bundle, wishes.data))
        yield from ()

    def company() -> Iterator[str]:
        found = numbers.invariance(bundle, examples)
        verdict.measured |= found
        verdict.checked.append("graph runs; activations in other batches, with other padding")
        yield from numbers.variance_faults(bundle, found)

    def original() -> Iterator[str]:
        assert wishes.model is not None
        found = numbers.compare_with_model(
            bundle,
            examples,
            model=wishes.model,
            revision=wishes.revision,
            trust_remote_code=wishes.trust_remote_code,
        )
        verdict.measured |= found
        verdict.checked.append(f"prefix digest and activations against {wishes.model}")
        yield from numbers.model_faults(bundle, found, wishes.max_error)

    def decoding() -> Iterator[str]:
        error = numbers.decoding_error(bundle, examples)
        verdict.measured["decoding_error"] = error
        verdict.checked.append("token by token against whole texts")
        yield from numbers.decoding_faults(bundle, error)

    _collect(verdict, tokenizer)
    if not verdict.ok:
        return
    _collect(verdict, company)
    if DEVICE_WITH_PAST in bundle.manifest.files and verdict.ok:
        _collect(verdict, decoding)
    if wishes.model is not None and verdict.ok:
        _collect(verdict, original)


def _collect(verdict: Verdict, check: Callable[[], Iterator[str]]) -> None:
    """Take the faults of a check; those of the bundle that it raises are faults too."""
    try:
        verdict.faults += check()
    except SplitFrozenError as error:
        if error.code not in ("check_failed", "bad_signature", "bad_manifest"):
            raise
        verdict.faults.append(error.message)
