"""A request for a whole model or an upper half that nothing refuses: all but the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from splitfrozen.errors import SplitFrozenError
from splitfrozen.manifest import Preprocess
from splitfrozen_export.blueprint import read_blueprint
from splitfrozen_export.dense import require_dense
from splitfrozen_export.home.adapter import Adapter, read_adapter
from splitfrozen_export.home.fitting import check_base, check_shapes, check_tied, check_upper
from splitfrozen_export.home.task import Purpose, choose_purpose, empty_model
from splitfrozen_export.measure.batches import Ids
from splitfrozen_export.measure.loss import cut_windows
from splitfrozen_export.measure.texts import read_calibration, read_lines, read_text
from splitfrozen_export.past.inputs import require_plain_cache
from splitfrozen_export.precision.quantize import Recipe, default_embedding
from splitfrozen_export.preprocess import TextSide, describe, read_text_side
from splitfrozen_export.request import AUTO, Request, check_output
from splitfrozen_export.split import ModelSource, check_cut, resolve_model

_LONGEST = 128  # tokens of a text on which graph and torch are compared


@dataclass(frozen=True)
class HomePlan:
    """What will be exported, from what, and the token ids to measure it on."""

    request: Request
    source: ModelSource
    adapter: Adapter | None
    purpose: Purpose
    recipe: Recipe  # as far as it is known before calibration
    text: TextSide
    examples: Sequence[Ids]  # to compare graph and torch on
    calibration: Sequence[Ids]  # to see what activations are like; may be empty
    windows: Sequence[Ids]  # to measure a loss on; may be empty


def make_home_plan(request: Request) -> HomePlan:
    """Find and read everything but weights, and refuse what cannot be exported."""
    check_output(request)
    lines = read_lines(request.eval_text)
    rows = read_calibration(request.calibrate) if request.calibrate else ()
    adapter = read_adapter(request.adapter) if request.adapter is not None else None
    source = resolve_model(
        request.model, revision=request.revision, trust_remote_code=request.trust_remote_code
    )
    check_cut(source.config, request.cut or 1, code=source.code)
    require_dense(source)
    purpose = choose_purpose(source, adapter)
    if purpose.task == "causal_lm":
        require_plain_cache(source.config)
    _require_next_tokens(request, source, purpose)
    if adapter is not None:
        check_base(adapter, source)
        model = empty_model(source, purpose)
        check_shapes(adapter, source, model)
        check_tied(adapter, model)
        if not request.whole:
            check_upper(adapter, source, model, request.cut)
    text = read_text_side(source)
    preprocess = _preprocess(request, source, text)
    longest = min(_LONGEST, preprocess.max_length)
    return HomePlan(
        request,
        source,
        adapter,
        purpose,
        _recipe(request),
        text,
        examples=[text.encode(line)[:longest] for line in lines],
        calibration=[ids[: preprocess.max_length] for ids in map(text.encode, rows) if ids],
        windows=_windows(request, text, preprocess),
    )


def _require_next_tokens(request: Request, source: ModelSource, purpose: Purpose) -> None:
    if request.eval is not None and purpose.task != "causal_lm":
        raise SplitFrozenError(
            "invalid_request",
            f"--eval measures how well a model predicts the next token, and {source.id!r} "
            "classifies here: leave it out, or compare logits on your own texts with --eval-text",
            param="eval",
        )


def _preprocess(request: Request, source: ModelSource, text: TextSide) -> Preprocess:
    blueprint = read_blueprint(source)
    return describe(
        text,
        limit=blueprint.max_positions,
        max_length=request.max_length,
        causal=blueprint.causal,
        steady_only=blueprint.steady_only,
    )


def _windows(request: Request, text: TextSide, preprocess: Preprocess) -> list[list[int]]:
    if request.eval is None:
        return []
    ids = text.tokenizer.encode(read_text(request.eval), add_special_tokens=False).ids
    return cut_windows(
        ids, prefix=preprocess.prefix_ids, max_length=preprocess.max_length, path=request.eval
    )


def _recipe(request: Request) -> Recipe:
    embedding = request.embedding or default_embedding(request.precision)
    if not request.whole:
        embedding = "fp32"  # the upper half has no table
    return Recipe(
        request.precision,
        embedding,
        reduce_range=request.reduce_range,
        keep_fp=frozenset(request.keep_fp) - {AUTO},
    )
