"""Store a table once when the model looks words up in it and also multiplies by it.

A tied head computes with the transpose of the embedding table. Coded one by one, both would hold
the same numbers in two forms. Afterwards the lookup's form is the one that is stored:

    int8       the product takes Transpose(codes [V, d]), whose scales are those of the rows
    in blocks  the product takes Reshape(codes [V, d * bits / 8]), and the lookup reads the same
               blocks, so a head of 8 bits gives words of 8 bits

ONNX Runtime computes both operators once, when it loads the graph. Nothing is shared unless the
numbers agree.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from splitfrozen_export.graph.edits import add_constant, add_integers, drop_unused, supersede
from splitfrozen_export.precision.block_codes import BLOCK
from splitfrozen_export.precision.products import MICROSOFT

_ROWS = "_rows_int8"
_BLOCKS = re.compile(r"_[48]bit_codes$")


@dataclass(frozen=True)
class _Lookup:
    """A coded lookup: the table's own name, and the node that gives the words."""

    table: str
    width: int  # of a word
    ids: ir.Value
    result: ir.Node


def share_tables(model: ir.Model) -> int:
    """Let lookups and tied products read the same codes; return how many lookups do."""
    graph = model.graph
    shared = sum(_share_rows(graph, found) or _share_blocks(graph, found) for found in _find(graph))
    drop_unused(model)
    return shared


def _find(graph: ir.Graph) -> list[_Lookup]:
    found = []
    for node in graph:
        codes = node.inputs[0] if node.inputs else None
        name = "" if codes is None or codes.const_value is None else str(codes.name)
        if node.op_type == "Gather" and name.endswith(_ROWS):
            bits = 8
            (cast,) = node.outputs[0].consumers()
            (result,) = cast.outputs[0].consumers()
        elif node.op_type == "GatherBlockQuantized" and _BLOCKS.search(name):
            bits, result = node.attributes["bits"].as_int(), node
        else:
            continue
        ids = node.inputs[1]
        assert codes is not None and ids is not None
        width = _array(codes).shape[1] * 8 // bits
        table = _BLOCKS.sub("", name.removesuffix(_ROWS))
        found.append(_Lookup(table, width, ids, result))
    return found


def _share_rows(graph: ir.Graph, lookup: _Lookup) -> bool:
    """int8: one scale per word on both sides."""
    codes = graph.initializers.get(f"{lookup.table}{_ROWS}")
    product = _tied(graph, lookup.table, "_int8")
    if codes is None or product is None or not np.array_equal(_array(codes).T, _array(product)):
        return False
    _derive(graph, product, codes, "Transpose", perm=[1, 0])
    return True


def _share_blocks(graph: ir.Graph, lookup: _Lookup) -> bool:
    for bits in (4, 8):
        product, scales, points = (
            _tied(graph, lookup.table, f"_{bits}bit_{part}")
            for part in ("codes", "scales", "zero_points")
        )
        if product is None or scales is None or points is None:
            continue
        if lookup.width != _array(scales).shape[1] * BLOCK:
            return False  # the last block is short: a lookup would give its filling too
        codes = _array(product).reshape(len(_array(product)), -1)
        stored = add_constant(graph, f"{lookup.table}_shared_{bits}bit", codes)
        _derive(graph, product, stored, "Reshape", add_integers(graph, *_array(product).shape))
        _look_up(graph, lookup, stored, scales, points, bits)
        return True
    return False


def _look_up(
    graph: ir.Graph,
    lookup: _Lookup,
    codes: ir.Value,
    scales: ir.Value,
    points: ir.Value,
    bits: int,
) -> None:
    tape = ir.tape.Tape()
    words = tape.op(
        "GatherBlockQuantized",
        [codes, lookup.ids, scales, points],
        {"bits": bits, "block_size": BLOCK, "gather_axis": 0, "quantize_axis": 1},
        domain=MICROSOFT,
    )
    graph.insert_before(lookup.result, tape.nodes)
    supersede(lookup.result, words)
    graph.opset_imports[MICROSOFT] = 1


def _derive(
    graph: ir.Graph,
    value: ir.Value,
    source: ir.Value,
    operator: str,
    *more: ir.Value,
    **fields: Sequence[int],
) -> None:
    """Let `operator` on the constant `source` stand where the initializer `value` stood."""
    tape = ir.tape.Tape()
    derived = tape.op(operator, [source, *more], fields)
    derived.shape, derived.type = value.shape, value.type
    graph.insert_before(next(iter(graph)), tape.nodes)
    value.replace_all_uses_with(derived)
    del graph.initializers[str(value.name)]


def _tied(graph: ir.Graph, table: str, ending: str) -> ir.Value | None:
    """What the product by the transposed table reads."""
    return graph.initializers.get(f"{table}.T{ending}")


def _array(value: ir.Value) -> NDArray[np.generic]:
    assert value.const_value is not None
    return value.const_value.numpy()
