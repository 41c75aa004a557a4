"""Matrix products with weights of 4 or 8 bits in blocks of 32: a pass over an ONNX graph.

    MatMul(x, w [K, M]) -> MatMulNBits(x, codes [M, K / 32, 32 * bits / 8], scales, zero points)

MatMulNBits is a contributed operator of ONNX Runtime. At accuracy level 4 it codes its input as
int8 too, 32 channels of one token at a time, so a token depends on no other; below that level it
falls back to slower float32 arithmetic.
"""

from __future__ import annotations

import onnx_ir as ir

from splitfrozen_export.graph.edits import add_constant, supersede
from splitfrozen_export.precision.block_codes import BLOCK, BlockCodes, quantize_blocks
from splitfrozen_export.precision.products import MICROSOFT, Product

_INT8_INPUT = 4  # the operator's accuracy level


def quantize_nbits(graph: ir.Graph, product: Product, bits: int) -> None:
    """Replace one product by MatMulNBits."""
    weight = product.weight.read()
    inputs, outputs = weight.shape
    codes = quantize_blocks(weight.T, bits)
    tape = ir.tape.Tape()
    result = tape.op(
        "MatMulNBits",
        [product.source, *_constants(graph, f"{product.key}_{bits}bit", codes)],
        {
            "K": inputs,
            "N": outputs,
            "bits": bits,
            "block_size": BLOCK,
            "accuracy_level": _INT8_INPUT,
        },
        domain=MICROSOFT,
    )
    if product.bias is not None:
        result = tape.op("Add", [result, product.bias])
    graph.insert_before(product.node, tape.nodes)
    supersede(product.node, result)


def _constants(graph: ir.Graph, name: str, codes: BlockCodes) -> list[ir.Value]:
    outputs, blocks = codes.scales.shape
    return [
        add_constant(graph, f"{name}_codes", codes.packed.reshape(outputs, blocks, -1)),
        add_constant(graph, f"{name}_scales", codes.scales),
        add_constant(graph, f"{name}_zero_points", codes.zero_points),
    ]
