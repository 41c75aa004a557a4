"""Everything that `verify` checks about a bundle, in the order in which it is checked."""

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

_OF_THE_BUNDLE = ("check_failed", "bad_signature", "bad_manifest")  # errors that are its faults


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
class Check:
    """One thing that was looked at."""

    subject: str
    faults: list[str] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)


@dataclass
class Verdict:
    """The checks that were made, and the subjects that an earlier fault left unchecked."""

    directory: Path
    id: str
    checks: list[Check] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    signed_by: str | None = None  # public key

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults

    @property
    def faults(self) -> list[str]:
        """Everything that is wrong."""
        return [fault for check in self.checks for fault in check.faults]

    @property
    def measured(self) -> dict[str, Any]:
        """The numbers of all checks."""
        return {name: value for check in self.checks for name, value in check.measured.items()}


def verify_bundle(directory: Path, wishes: Wishes) -> Verdict:
    """Check a bundle; what follows a fault stays unchecked, but for the signature.

    Raises ManifestError where there is no manifest or it was changed, and what `read_examples` and
    `compare_with_model` raise.
    """
    raw = read_manifest(directory)
    check_manifest(directory, raw)
    manifest = parse_manifest(raw)
    verdict = Verdict(directory, bundle_id(raw))
    bundle = Bundle(directory, manifest, verdict.id)
    work = _Work(bundle, raw, wishes, verdict)
    work.make(f"{len(manifest.files)} files: size, SHA-256, and no others", work.files)
    work.make("signature", work.signature, always=True)
    work.make("graphs: inputs, outputs, opset, weights within the bundle's files", work.graphs)
    work.make("tokenizer: its ids are the model's", work.tokenizer)
    work.make("the graph runs, in other company too", work.company)
    if DEVICE_WITH_PAST in manifest.files:
        work.make("token by token against whole texts", work.decoding)
    if wishes.model is not None:
        work.make(f"prefix digest and activations against {wishes.model}", work.original)
    return verdict


@dataclass
class _Work:
    """The checks of one bundle; each method yields what is wrong."""

    bundle: Bundle
    manifest: bytes
    wishes: Wishes
    verdict: Verdict
    examples: list[list[int]] = field(default_factory=list)  # token ids, once the tokenizer ran

    def make(
        self, subject: str, faults: Callable[[Check], Iterator[str]], *, always: bool = False
    ) -> None:
        """Make a check, unless there is a fault already; errors of the bundle are faults too."""
        if not (always or self.verdict.ok):
            self.verdict.unchecked.append(subject)
            return
        check = Check(subject)
        self.verdict.checks.append(check)
        try:
            check.faults += faults(check)
        except SplitFrozenError as error:
            if error.code not in _OF_THE_BUNDLE:
                raise
            check.faults.append(error.message)

    def files(self, _check: Check) -> Iterator[str]:
        yield from damaged_files(self.bundle.directory, self.bundle.manifest)
        yield from foreign_files(self.bundle.directory, self.bundle.manifest)

    def signature(self, check: Check) -> Iterator[str]:
        key = self.wishes.key
        found = check_signed(self.bundle.directory, self.manifest, key=key)
        if found is None:
            check.subject = "signature: it has none; a server gives one to what it publishes"
            return
        self.verdict.signed_by = found.key
        by = "the required key" if key else f"{found.key} (not pinned: give --key)"
        check.subject = f"signature by {by}"
        yield from ()

    def graphs(self, _check: Check) -> Iterator[str]:
        yield from graph_faults(self.bundle.directory, self.bundle.manifest)

    def tokenizer(self, _check: Check) -> Iterator[str]:
        from splitfrozen_export.tools import numbers

        self.examples = numbers.read_examples(self.bundle, self.wishes.data)
        yield from ()

    def company(self, check: Check) -> Iterator[str]:
        from splitfrozen_export.tools import numbers

        check.measured = dict(numbers.invariance(self.bundle, self.examples))
        yield from numbers.variance_faults(self.bundle, check.measured)

    def decoding(self, check: Check) -> Iterator[str]:
        from splitfrozen_export.tools import numbers

        error = numbers.decoding_error(self.bundle, self.examples)
        check.measured = {"decoding_error": error}
        yield from numbers.decoding_faults(self.bundle, error)

    def original(self, check: Check) -> Iterator[str]:
        from splitfrozen_export.tools import numbers

        wishes = self.wishes
        check.measured = numbers.compare_with_model(
            self.bundle,
            self.examples,
            model=str(wishes.model),
            revision=wishes.revision,
            trust_remote_code=wishes.trust_remote_code,
        )
        yield from numbers.model_faults(self.bundle, check.measured, wishes.max_error)
