"""Do a bundle's numbers hold: the same in any batch, and close to the original model in torch?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from splitfrozen.bundle import Bundle
from splitfrozen.errors import ManifestError, SplitFrozenError
from splitfrozen.graph import DEVICE_GRAPH, DEVICE_WITH_PAST, HIDDEN, TOKENIZER
from splitfrozen_export.measure.batches import Ids
from splitfrozen_export.measure.texts import read_calibration, read_lines
from splitfrozen_export.precision.quantize import MAX_ERROR

DECODED = 32  # tokens that the graph with past is tried on


def read_examples(bundle: Bundle, data: Path | None) -> list[list[int]]:
    """Token ids of the texts in `data` (lines, or rows of a .jsonl), else of built-in sentences.

    Raises DataError for a file without texts, ManifestError for a tokenizer that cannot be read,
    SplitFrozenError `check_failed` for ids that the model does not know.
    """
    from tokenizers import Tokenizer

    rows = data is not None and data.suffix == ".jsonl"
    texts = read_calibration(data) if rows and data is not None else read_lines(data)
    try:
        tokenizer = Tokenizer.from_file(str(bundle.path(TOKENIZER)))
    except ManifestError:
        raise
    except Exception as error:  # tokenizers raises plain Exception
        raise ManifestError("bad_manifest", f"{TOKENIZER} cannot be read: {error}") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    examples = [list(item.ids) for item in tokenizer.encode_batch(list(texts))]
    largest = max((max(ids) for ids in examples if ids), default=0)
    if largest >= bundle.manifest.vocab_size:
        raise SplitFrozenError(
            "check_failed",
            f"the tokenizer gives the id {largest}, the model knows {bundle.manifest.vocab_size}",
        )
    return examples


def invariance(bundle: Bundle, examples: Sequence[Ids]) -> dict[str, float]:
    """Run the graph in ONNX Runtime; how much an activation changes in other company.

    Raises SplitFrozenError `check_failed` when the graph does not load or run.
    """
    from splitfrozen_export.measure import verify

    manifest = bundle.manifest
    session = verify.open_session(verify.graph_in(bundle.directory))
    batch = verify.sample_batches(examples, manifest.preprocess.max_length)[-1]
    found = {"neighbour_difference": verify.neighbour_difference(session, batch)}
    if manifest.architecture == "decoder":
        found["later_token_difference"] = verify.later_token_difference(session, batch)
    return found


def decoding_error(bundle: Bundle, examples: Sequence[Ids]) -> float:
    """Relative error of activations fed a few tokens at a time, against the whole text at once.

    Raises SplitFrozenError `check_failed` when the graph with past does not load or run.
    """
    from splitfrozen_export.measure import verify
    from splitfrozen_export.measure.closeness import measure_closeness
    from splitfrozen_export.past.decode import decode

    limit = min(bundle.manifest.preprocess.max_length, DECODED)
    text = verify.sample_batches(examples, limit)[1][0]
    whole = verify.run_graph(verify.open_session(verify.graph_in(bundle.directory)), [text])[0][0]
    session = verify.open_session(bundle.path(DEVICE_WITH_PAST))
    (found,) = decode(session, [text], (5, 1, 1, 3))
    return measure_closeness(whole, found[HIDDEN]).relative_error


def decoding_faults(bundle: Bundle, error: float) -> Iterator[str]:
    """A device that generates must come to the activations that training saw."""
    limit = MAX_ERROR[bundle.manifest.precision]
    if not error <= limit:  # NaN fails too
        yield (
            f"{DEVICE_WITH_PAST} is {error:.3g} off {DEVICE_GRAPH} (relative error), more than "
            f"{limit:g}: generation would not see what training saw"
        )


def variance_faults(bundle: Bundle, found: dict[str, float]) -> Iterator[str]:
    """int8 promises the same bits in any company (SPEC 6.5), where no layer was kept in fp32."""
    manifest = bundle.manifest
    coverage = manifest.report.get("coverage")
    kept = isinstance(coverage, dict) and bool(coverage.get("kept"))
    if manifest.precision != "int8" or kept:
        return
    for name, change in found.items():
        if change != 0:
            yield f"an int8 activation changes with its company: {name} is {change:.3g}, not 0"


def compare_with_model(
    bundle: Bundle,
    examples: Sequence[Ids],
    *,
    model: str,
    revision: str | None,
    trust_remote_code: bool,
) -> dict[str, Any]:
    """Prefix digest and errors against the original model's device segment in torch.

    Raises ModelError for a model that cannot be found or cut there.
    """
    from splitfrozen_export.measure import verify
    from splitfrozen_export.quiet import silence_transformers
    from splitfrozen_export.split import load_device_segment, prefix_digest, resolve_model

    silence_transformers()
    manifest = bundle.manifest
    source = resolve_model(model, revision=revision, trust_remote_code=trust_remote_code)
    digest = prefix_digest(source, manifest.cut)
    found: dict[str, Any] = {"model": model, "prefix_digest": digest}
    if digest != manifest.prefix_digest:
        return found  # another model: its shapes may not even fit
    report = verify.verify(
        verify.graph_in(bundle.directory),
        load_device_segment(source, manifest.cut),
        examples,
        max_length=manifest.preprocess.max_length,
        causal=manifest.architecture == "decoder",
    )
    return found | asdict(report)


def model_faults(bundle: Bundle, found: dict[str, Any], max_error: float | None) -> Iterator[str]:
    """Where the comparison with the model is not good enough."""
    manifest = bundle.manifest
    if found["prefix_digest"] != manifest.prefix_digest:
        yield (
            f"{found['model']} is not the model of this bundle: its prefix digest at cut "
            f"{manifest.cut} is {found['prefix_digest'][:12]}…, the manifest says "
            f"{manifest.prefix_digest[:12]}…"
        )
        return
    limit = MAX_ERROR[manifest.precision] if max_error is None else max_error
    if not found["relative_error"] <= limit:  # NaN fails too
        yield (
            f"the activations are {found['relative_error']:.3g} off the model's (relative error), "
            f"more than {limit:g}"
        )


def output_closeness(first: Bundle, second: Bundle) -> dict[str, Any]:
    """How far `hidden` of a bundle is from that of another, on the built-in sentences.

    Both run on the token ids of the first one's tokenizer.
    """
    import numpy as np

    from splitfrozen_export.measure import verify
    from splitfrozen_export.measure.batches import real_tokens
    from splitfrozen_export.measure.closeness import measure_closeness

    examples = read_examples(first, None)
    length = min(item.manifest.preprocess.max_length for item in (first, second))
    batches = verify.sample_batches(examples, length)
    hidden = []
    for bundle in (first, second):
        session = verify.open_session(verify.graph_in(bundle.directory))
        runs = [real_tokens(verify.run_graph(session, batch)[0], batch) for batch in batches]
        hidden.append(np.concatenate(runs))
    return asdict(measure_closeness(*hidden)) | {"tokens": len(hidden[0])}
