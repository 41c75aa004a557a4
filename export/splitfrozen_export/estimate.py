"""How large a bundle will be, from the shapes of an empty model alone. Reads no weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import ceil, prod

import torch
from torch import nn

from splitfrozen.quantize import CODECS, scale_width
from splitfrozen_export.precision.block_codes import BLOCK
from splitfrozen_export.precision.census import LINEAR
from splitfrozen_export.precision.quantize import PRECISIONS, Recipe, default_embedding
from splitfrozen_export.precision.tables import MIN_WIDTH
from splitfrozen_export.split import ModelSource
from splitfrozen_export.split.classes import model_class
from splitfrozen_export.split.probe import device_parameters

_FP32 = 4
_PYTHON = 60_000_000  # bytes: the interpreter, numpy and ONNX Runtime without a model
_TORCH = 700_000_000  # bytes: torch, Transformers and the tracer without a model
_SMALL_TABLE = 16  # times smaller than the largest: 4 bits would save nothing


@dataclass(frozen=True)
class Weight:
    """One parameter that the device segment reads."""

    name: str  # in the base model
    shape: tuple[int, ...]
    kind: str  # product: [K, M]; table: [rows, width]; rest
    attention: bool = False  # a product of an attention layer
    tied: bool = False  # a table that is also a product, which is listed on its own

    @property
    def fp32_bytes(self) -> int:
        """Its size in the fp32 bundle."""
        return 0 if self.tied else _FP32 * prod(self.shape)


def segment_weights(source: ModelSource, cut: int) -> list[Weight]:
    """What the device segment of a model reads, by the shapes of an empty model."""
    wanted = device_parameters(source.config, cut, code=source.code)
    cls = model_class(source.config, "base", code=source.code)
    with torch.device("meta"):
        model = cls(source.config)
    modules = dict(model.named_modules())
    return [
        describe_weight(name, parameter, modules)
        for name, parameter in model.named_parameters()
        if name in wanted
    ]


def data_bytes(weights: Sequence[Weight], recipe: Recipe) -> int:
    """Size of `device.onnx.data`, but for what is shared or padded: within a few percent."""
    largest = max((prod(w.shape) for w in weights if w.kind == "table"), default=0)
    return sum(_bytes(weight, recipe, largest) for weight in weights)


def bytes_by_precision(weights: Sequence[Weight]) -> dict[str, int]:
    """`data_bytes` of every precision with the embedding coding that goes with it."""
    return {name: data_bytes(weights, Recipe(name, default_embedding(name))) for name in PRECISIONS}


def wire_bytes(hidden_size: int) -> dict[str, int]:
    """Bytes of one token on the wire before compression, by codec."""
    coded = hidden_size + 2 * scale_width(hidden_size)
    sizes = {"fp32": 4 * hidden_size, "bf16": 2 * hidden_size, "int8": coded}
    return {codec: sizes[codec] for codec in CODECS}


def memory_bytes(weights: Sequence[Weight], data: int) -> Mapping[str, int]:
    """Rough peak memory: of this export, and of a device that runs short batches."""
    fp32 = sum(weight.fp32_bytes for weight in weights)
    return {"export": _TORCH + fp32, "device": _PYTHON + data}


def describe_weight(name: str, parameter: nn.Parameter, modules: Mapping[str, nn.Module]) -> Weight:
    """What a parameter is to the graph, by the module of `modules` that its name leads to."""
    path, _, leaf = name.rpartition(".")
    module, shape = modules[path], tuple(parameter.shape)
    if leaf == "weight" and isinstance(module, LINEAR):
        if isinstance(module, nn.Linear):
            shape = shape[::-1]
        return Weight(name, shape, "product", attention=_attends(path, modules))
    wide = len(shape) == 2 and shape[1] >= MIN_WIDTH
    table = leaf == "weight" and isinstance(module, nn.Embedding) and wide
    return Weight(name, shape, "table" if table else "rest")


def _attends(path: str, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a module above it calls itself attention."""
    parents = path.split(".")[:-1]
    above = [".".join(parents[: end + 1]) for end in range(len(parents))]
    return any("attention" in type(modules[name]).__name__.lower() for name in above)


def _bytes(weight: Weight, recipe: Recipe, largest_table: int) -> int:
    if weight.kind == "product" and not _kept(weight, recipe):
        return _product_bytes(weight, recipe.precision)
    if weight.tied and _stored_once(weight, recipe):
        return 0
    if weight.kind == "table" and recipe.embedding != "fp32":
        small = prod(weight.shape) * _SMALL_TABLE <= largest_table
        rows, width = weight.shape
        if recipe.embedding == "int4" and not small:
            return _blocks(rows, width, bits=4)
        if recipe.precision == "int8-hq":
            return _blocks(rows, width, bits=8)
        return rows * (width + _FP32)
    return _FP32 * prod(weight.shape)


def _stored_once(table: Weight, recipe: Recipe) -> bool:
    """Whether the lookup reads the codes of the product that it is tied to."""
    kept = recipe.precision == "fp32" or _kept(table, recipe)
    if kept or recipe.embedding == "fp32":
        return kept and recipe.embedding == "fp32"
    if recipe.precision == "int8":
        return recipe.embedding == "int8"
    return table.shape[1] % BLOCK == 0


def _product_bytes(weight: Weight, precision: str) -> int:
    inputs, outputs = weight.shape
    if precision == "fp32":
        return weight.fp32_bytes
    if precision == "int8":
        return outputs * (inputs + _FP32)
    four = precision == "int4-all" or (precision == "int4" and weight.attention)
    return _blocks(outputs, inputs, bits=4 if four else 8)


def _blocks(rows: int, columns: int, *, bits: int) -> int:
    """Codes, and for each block a scale and a zero point."""
    blocks = ceil(columns / BLOCK)
    return rows * (blocks * (BLOCK * bits // 8 + _FP32) + ceil(blocks * bits / 8))


def _kept(weight: Weight, recipe: Recipe) -> bool:
    layer = "." + weight.name.removesuffix(".weight")
    return any(fnmatchcase(layer, f"*.{pattern}") for pattern in recipe.keep_fp)
