"""A request that nothing refuses: all that can be known about an export without its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from splitfrozen.errors import ModelError, SplitFrozenError
from splitfrozen.manifest import Preprocess
from splitfrozen_export.blueprint import Blueprint, read_blueprint
from splitfrozen_export.dense import require_dense
from splitfrozen_export.measure.batches import Ids
from splitfrozen_export.measure.loss import cut_windows
from splitfrozen_export.measure.texts import read_calibration, read_lines, read_text
from splitfrozen_export.precision.quantize import Recipe, default_embedding
from splitfrozen_export.preprocess import TextSide, describe, read_text_side
from splitfrozen_export.request import AUTO, Request, check_output, check_request
from splitfrozen_export.split import ModelSource, check_cut, resolve_model, worth_proving


@dataclass(frozen=True)
class Plan:
    """What will be exported, from what, and the token ids to measure it on."""

    request: Request
    recipe: Recipe  # as far as it is known before calibration
    source: ModelSource
    blueprint: Blueprint
    text: TextSide
    preprocess: Preprocess
    examples: Sequence[Ids]  # to compare graph and torch on
    calibration: Sequence[Ids]  # to see what activations are like; may be empty
    windows: Sequence[Ids]  # to measure a loss on; may be empty

    @property
    def generation(self) -> bool:
        """Whether the graph that answers token by token is written too."""
        return self.request.generation and self.blueprint.causal

    @property
    def proves_weights(self) -> bool:
        """Whether the cut is proved on the real weights, which reads all of them."""
        wish = self.request.prove
        return wish == "full" or (wish == "auto" and worth_proving(self.source))


def make_plan(request: Request) -> Plan:
    """Find and read everything but weights, and refuse what cannot be exported.

    Raises what `check_request`, `check_output`, `resolve_model`, `check_cut`, `describe` and the
    readers of texts raise.
    """
    check_request(request)
    check_output(request)
    lines = read_lines(request.eval_text)
    rows = read_calibration(request.calibrate) if request.calibrate else ()
    source = resolve_model(
        request.model, revision=request.revision, trust_remote_code=request.trust_remote_code
    )
    check_cut(source.config, request.cut, code=source.code)
    require_dense(source)
    blueprint = read_blueprint(source)
    _require_decoder(request, source, blueprint)
    text = read_text_side(source)
    preprocess = describe(
        text,
        limit=blueprint.max_positions,
        max_length=request.max_length,
        causal=blueprint.causal,
        steady_only=blueprint.steady_only,
    )
    plan = Plan(
        request,
        _recipe(request),
        source,
        blueprint,
        text,
        preprocess,
        examples=[text.encode(line) for line in lines],
        calibration=[ids[: preprocess.max_length] for ids in map(text.encode, rows) if ids],
        windows=_windows(request, text, preprocess),
    )
    _require_known_ids(source, [*plan.examples, *plan.calibration, *plan.windows])
    return plan


def _recipe(request: Request) -> Recipe:
    named = frozenset(request.keep_fp) - {AUTO}
    return Recipe(
        request.precision,
        request.embedding or default_embedding(request.precision),
        reduce_range=request.reduce_range,
        keep_fp=named,
    )


def _windows(request: Request, text: TextSide, preprocess: Preprocess) -> list[list[int]]:
    if request.eval is None:
        return []
    ids = text.tokenizer.encode(read_text(request.eval), add_special_tokens=False).ids
    return cut_windows(
        ids, prefix=preprocess.prefix_ids, max_length=preprocess.max_length, path=request.eval
    )


def _require_decoder(request: Request, source: ModelSource, blueprint: Blueprint) -> None:
    if request.eval is not None and not blueprint.causal:
        raise SplitFrozenError(
            "invalid_request",
            f"--eval measures how well a model predicts the next token, and {source.id!r} "
            f"({source.config.model_type}) is an encoder: leave it out, or compare activations on "
            "your own texts with --eval-text",
            param="eval",
        )


def _require_known_ids(source: ModelSource, examples: Sequence[Ids]) -> None:
    largest = max((max(ids) for ids in examples if len(ids)), default=0)
    if largest >= source.config.vocab_size:
        raise ModelError(
            "model_not_supported",
            f"the tokenizer of {source.id!r} gives the token id {largest}, but the model knows "
            f"{source.config.vocab_size}; they do not belong together",
        )
