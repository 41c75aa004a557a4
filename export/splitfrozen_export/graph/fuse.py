"""Attention on [batch, tokens, heads * width], as the products give it: a pass over an ONNX graph.

The standard Attention and RotaryEmbedding take such tensors and know the heads by number. The
traced graph splits and swaps them around every attention, and repeats keys and values where
several query heads share them; all of that goes. The results are the same bits: what is added up,
and in which order, does not change. ONNX Runtime's own fused operators (MultiHeadAttention, norms
with the residual sum) are not used: docs/results.md has the table.

    x -> Reshape -> Transpose -> (RotaryEmbedding) -> (repeat heads)
      -> Attention -> Transpose -> Reshape

becomes

    x -> (RotaryEmbedding) -> Attention
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from splitfrozen_export.graph.edits import drop_unused, supersede

_SWAP = (0, 2, 1, 3)  # [batch, tokens, heads, width] <-> [batch, heads, tokens, width]


@dataclass(frozen=True)
class _Heads:
    """Queries, keys or values before their heads were split."""

    source: ir.Value  # [batch, tokens, count * width]
    count: int
    rotary: ir.Node | None  # what turns them once they are split


def fuse_graph(model: ir.Model) -> int:
    """Let every attention that can take its inputs unsplit do so; return how many did.

    Others stay as they are: without an Attention node (opset 20), with a norm on each head, or
    with past keys.
    """
    changed = sum(_flatten(model.graph, node) for node in list(model.graph))
    drop_unused(model)
    return changed


def _flatten(graph: ir.Graph, node: ir.Node) -> bool:
    if node.op_type != "Attention" or node.domain or not _is_simple(node):
        return False
    joined = _joined(node)
    queries, keys, values = (_unsplit(value) for value in node.inputs[:3])
    if joined is None or queries is None or keys is None or values is None:
        return False
    if keys.count != values.count or queries.count % keys.count:
        return False
    tape = ir.tape.Tape()
    inputs = [_turned(tape, heads) for heads in (queries, keys, values)]
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    attributes |= {"q_num_heads": queries.count, "kv_num_heads": keys.count}
    result = tape.op("Attention", [*inputs, *node.inputs[3:]], attributes)
    graph.insert_before(joined, tape.nodes)
    supersede(joined, result)
    return True


def _is_simple(node: ir.Node) -> bool:
    """No past keys among the inputs, and nothing but the result among the outputs."""
    past = any(value is not None for value in node.inputs[4:])
    return not past and not any(value.uses() for value in node.outputs[1:])


def _joined(node: ir.Node) -> ir.Node | None:
    """The Reshape that joins the heads of an attention's result, its only use; else None."""
    swap = _only_use(node.outputs[0])
    if swap is None or not _swaps(swap):
        return None
    join = _only_use(swap.outputs[0])
    if join is None or join.op_type != "Reshape" or len(join.outputs[0].shape or ()) != 3:
        return None
    return join


def _only_use(value: ir.Value) -> ir.Node | None:
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def _unsplit(value: ir.Value | None) -> _Heads | None:
    """Look back through repeated heads, a rotation, and the split of heads."""
    value = _unrepeated(value)
    node = _producer(value, "RotaryEmbedding")
    rotary = node if node is not None and not node.domain else None
    swap = _producer(value if rotary is None else rotary.inputs[0], "Transpose")
    if swap is None or not _swaps(swap):
        return None
    split = _producer(swap.inputs[0], "Reshape")
    if split is None:
        return None
    source, parts = split.inputs[0], split.outputs[0].shape
    if source is None or source.shape is None or parts is None or len(parts) != 4:
        return None
    heads, width = parts[2], parts[3]
    if not isinstance(heads, int) or not isinstance(width, int):
        return None
    if len(source.shape) != 3 or source.shape[2] != heads * width:
        return None
    return _Heads(source, heads, rotary)


def _unrepeated(value: ir.Value | None) -> ir.Value | None:
    """Heads before Unsqueeze, Expand and Reshape put copies of each right behind it."""
    expand = _producer(_first_input(_producer(value, "Reshape")), "Expand")
    single = _producer(_first_input(expand), "Unsqueeze")
    if expand is None or single is None:
        return value
    few, many = single.outputs[0].shape, expand.outputs[0].shape
    if few is None or many is None or len(few) != 5 or few[2] != 1:
        return value
    same = all(few[axis] == many[axis] for axis in (0, 1, 3, 4))
    return single.inputs[0] if same else value


def _turned(tape: ir.tape.Tape, heads: _Heads) -> ir.Value:
    if heads.rotary is None:
        return heads.source
    attributes = {name: attribute.value for name, attribute in heads.rotary.attributes.items()}
    attributes["num_heads"] = heads.count
    return tape.op("RotaryEmbedding", [heads.source, *heads.rotary.inputs[1:]], attributes)


def _producer(value: ir.Value | None, kind: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == kind else None


def _first_input(node: ir.Node | None) -> ir.Value | None:
    return None if node is None else node.inputs[0]


def _swaps(node: ir.Node) -> bool:
    return node.op_type == "Transpose" and tuple(node.attributes["perm"].as_ints()) == _SWAP
