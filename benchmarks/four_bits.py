"""How to choose 4-bit codes: the error of each method with every matrix product in 4 bits.

    python -m benchmarks.four_bits                        MiniLM cut 4, and stories260K cut 2
    python -m benchmarks.four_bits --model DIR --cut 2    any model

Blocks of 32, embedding tables in fp32, so that only the products differ. `ort` is ONNX Runtime's
own quantizer, `ours` is `--precision int4-all`, `gptq` a plain GPTQ on the calibration texts.
Errors are relative, of the activations at the cut, on held-out text. A method is `fast` when its
products run in integers (accuracy level 4, integer zero points or none). The last line is one JSON
object. Exit codes: 0 measured, 2 wrong usage or missing input.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from benchmarks.fidelity.gptq import code_columns, second_moments
from benchmarks.fidelity.subjects import choose_models, choose_texts
from benchmarks.fidelity.texts import Texts
from benchmarks.real_inputs import RealInputError, data_root
from splitfrozen.errors import SplitFrozenError
from splitfrozen.graph import ATTENTION_MASK, HIDDEN, INPUT_IDS
from splitfrozen_export.graph.edits import add_constant, drop_unused, supersede
from splitfrozen_export.graph.fuse import fuse_graph
from splitfrozen_export.graph.trace import export_graph
from splitfrozen_export.measure.closeness import measure_closeness
from splitfrozen_export.measure.reference import run_torch
from splitfrozen_export.precision.block_codes import BLOCK, BlockCodes
from splitfrozen_export.precision.calibrate import Calibration, calibrate
from splitfrozen_export.precision.census import count_products
from splitfrozen_export.precision.products import MICROSOFT, Product, find_products
from splitfrozen_export.precision.quantize import Recipe, apply_precision
from splitfrozen_export.precision.smooth import smooth_products
from splitfrozen_export.split import load_device_segment, resolve_model

Method = Callable[[ir.Model], onnx.ModelProto]


@click.command()
@click.option("--model", help="Hub id or directory.  [default: MiniLM, and stories260K]")
@click.option("--cut", type=click.IntRange(1), help="Blocks on the device; goes with --model.")
@click.option("--data-root", "root", type=click.Path(path_type=Path, file_okay=False))
@click.option("--quick", is_flag=True, help="Fewer texts.")
def four_bits(model: str | None, cut: int | None, root: Path | None, quick: bool) -> None:
    """Measure every method of choosing 4-bit codes."""
    if (model is None) != (cut is None):
        raise click.UsageError("--model and --cut go together")
    logging.basicConfig(level=logging.WARNING)  # else ONNX Runtime's quantizers make it INFO
    found = {}
    for name, blocks in choose_models(model, cut, root):
        title = f"{Path(name).name} cut {blocks}"
        click.echo(f"\n{title}")
        found[title] = dict(measure(name, blocks, data_root(root), quick=quick))
    click.echo(json.dumps({"quick": quick, "models": found}))


def measure(
    model: str, cut: int, root: Path | None, *, quick: bool
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name, relative error and whether the fast kernel runs it, method after method."""
    source = resolve_model(model)
    texts = choose_texts(source, root, quick=quick)
    segment = load_device_segment(source, cut)
    products = count_products(segment)
    calibration = calibrate(segment, texts.calibration)
    wanted = [run_torch(segment, [ids]) for ids in texts.held_out]
    traced = export_graph(segment)
    fuse_graph(traced)
    for name, method in _methods(texts, calibration, products).items():
        proto = method(traced.clone())
        got = _run(proto, texts)
        error = measure_closeness(np.concatenate(wanted), np.concatenate(got)).relative_error
        coded = [node for node in proto.graph.node if node.op_type == "MatMulNBits"]
        row = {"error": error, "fast": all(_is_fast(node, proto) for node in coded)}
        if len(coded) < products:
            raise click.ClickException(f"{name} coded {len(coded)} of {products} products")
        click.echo(f"{name:32} {error:8.4f}  {'fast' if row['fast'] else 'slow'}")
        yield name, row


def _methods(texts: Texts, calibration: Calibration, products: int) -> dict[str, Method]:
    def ours(graph: ir.Model, known: Calibration | None) -> onnx.ModelProto:
        recipe = Recipe("int4-all", "fp32", calibration=known)
        apply_precision(graph, recipe, products=products)
        return ir.to_proto(graph)

    def gptq(graph: ir.Model, known: Calibration | None) -> onnx.ModelProto:
        return _gptq(graph, texts.calibration, known)

    return {
        "ort symmetric": lambda graph: _ort(graph, is_symmetric=True),
        "ort asymmetric": lambda graph: _ort(graph, is_symmetric=False),
        "ort k-quant": lambda graph: _ort(graph, algorithm="KQuant"),
        "ort hqq": lambda graph: _ort(graph, algorithm="HQQ"),
        "ours": lambda graph: ours(graph, None),
        "ours calibrated": lambda graph: ours(graph, calibration),
        "gptq": lambda graph: gptq(graph, None),
        "gptq on ours calibrated": lambda graph: gptq(graph, calibration),
    }


def _ort(
    graph: ir.Model, *, algorithm: str = "Default", is_symmetric: bool = False
) -> onnx.ModelProto:
    """Let ONNX Runtime's own quantizer code the products."""
    from onnxruntime.quantization import matmul_nbits_quantizer as quantizer

    configs = {
        "Default": None,
        "KQuant": quantizer.KQuantWeightOnlyQuantConfig(),
        "HQQ": quantizer.HQQWeightOnlyQuantConfig(block_size=BLOCK),
    }
    _spell_out(graph)
    work = quantizer.MatMulNBitsQuantizer(
        ir.to_proto(graph),
        block_size=BLOCK,
        is_symmetric=is_symmetric,
        accuracy_level=4,
        algo_config=configs[algorithm],
    )
    with _silent():
        work.process()
    model: onnx.ModelProto = getattr(work.model, "model", work.model)
    return model


@contextmanager
def _silent() -> Iterator[None]:
    """Without progress bars on standard output and advice to install CUDA."""
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _spell_out(model: ir.Model) -> None:
    """Every product as MatMul with an initializer [K, M]: the only form that quantizer reads."""
    for number, product in enumerate(find_products(model.graph)):
        weight = add_constant(model.graph, f"plain_{number}", product.weight.read())
        tape = ir.tape.Tape()
        result = tape.op("MatMul", [product.source, weight])
        tape.nodes[0].name = f"product_{number}"
        if product.bias is not None:
            result = tape.op("Add", [result, product.bias])
        model.graph.insert_before(product.node, tape.nodes)
        supersede(product.node, result)
    drop_unused(model)


def _gptq(
    model: ir.Model, texts: Sequence[Sequence[int]], calibration: Calibration | None
) -> onnx.ModelProto:
    smooth_products(model.graph, find_products(model.graph), calibration)
    products = find_products(model.graph)
    moments = second_moments(model, products, texts)
    for number, product in enumerate(products):
        codes = code_columns(product.weight.read(), moments[product.source])
        _replace(model.graph, product, codes, f"gptq_{number}")
    model.graph.opset_imports[MICROSOFT] = 1
    drop_unused(model)
    return ir.to_proto(model)


def _replace(graph: ir.Graph, product: Product, codes: BlockCodes, name: str) -> None:
    outputs, blocks = codes.scales.shape
    width = len(product.weight.read())
    constants = [
        add_constant(graph, f"{name}_codes", codes.packed.reshape(outputs, blocks, -1)),
        add_constant(graph, f"{name}_scales", codes.scales),
        add_constant(graph, f"{name}_zero_points", codes.zero_points),
    ]
    tape = ir.tape.Tape()
    form = {"K": width, "N": outputs, "bits": 4, "block_size": BLOCK, "accuracy_level": 4}
    result = tape.op("MatMulNBits", [product.source, *constants], form, domain=MICROSOFT)
    if product.bias is not None:
        result = tape.op("Add", [result, product.bias])
    graph.insert_before(product.node, tape.nodes)
    supersede(product.node, result)


def _is_fast(node: onnx.NodeProto, model: onnx.ModelProto) -> bool:
    level = max((item.i for item in node.attribute if item.name == "accuracy_level"), default=0)
    points = {
        item.name: item.data_type
        for item in model.graph.initializer
        if item.name in list(node.input)[3:4]
    }
    return level == 4 and all(kind == onnx.TensorProto.UINT8 for kind in points.values())


def _run(model: onnx.ModelProto, texts: Texts) -> list[NDArray[np.float32]]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options)
    rows = [np.array([ids], np.int64) for ids in texts.held_out]
    feeds = [{INPUT_IDS: row, ATTENTION_MASK: np.ones_like(row)} for row in rows]
    return [session.run([HIDDEN], feed)[0][0] for feed in feeds]


def main() -> None:
    """Run the command and leave with a documented exit code."""
    try:
        four_bits.main(standalone_mode=False)
    except (RealInputError, SplitFrozenError, FileNotFoundError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(2)


if __name__ == "__main__":
    main()
