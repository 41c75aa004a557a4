"""From an answering model to an ONNX graph with Optimum's names and free axes."""

from __future__ import annotations

import onnx_ir as ir

from splitfrozen.errors import ModelError
from splitfrozen_export.graph.trace import OPSETS, replace_conv1d, trace
from splitfrozen_export.home.answering import Answering
from splitfrozen_export.precision.products import layer_name


def trace_answering(module: Answering, base_prefix: str, *, opset: int | None) -> ir.Model:
    """Trace `module`; without `opset` with the newest operator set that works.

    Initializers are named as in a device graph: the module path inside the base model behind
    `model.`, so that layer names mean the same in both. Replaces Conv1D modules in place. Raises
    ModelError `model_not_supported` when no operator set works or an axis is not free.
    """
    replace_conv1d(module)
    failures = []
    for version in (opset,) if opset else OPSETS:
        try:
            model = _trace(module, version)
        except Exception as error:  # the exporter raises whatever a converter raises
            failures.append(f"opset {version}: {type(error).__name__}: {str(error).strip()[:200]}")
            continue
        _name_axes(model, module)
        _name_layers(model, base_prefix)
        return model
    raise ModelError("model_not_supported", "the model has no ONNX form: " + "; ".join(failures))


def _trace(module: Answering, opset: int) -> ir.Model:
    example = module.example()
    shapes = tuple(dict(module.inputs[name]) for name in example)
    named = module.forward.__code__.co_argcount - 1  # parameters before *tensors
    return trace(
        module,
        tuple(example.values()),
        input_names=list(module.inputs),
        output_names=list(module.outputs),
        dynamic_shapes=(*shapes[:named], shapes[named:]) if shapes[named:] else shapes,
        opset=opset,
    )


def _name_axes(model: ir.Model, module: Answering) -> None:
    """Give every free axis its name; refuse a graph that fixed one."""
    wanted = module.inputs | module.outputs
    for value in (*model.graph.inputs, *model.graph.outputs):
        shape = value.shape
        assert shape is not None
        for axis, name in wanted[str(value.name)].items():
            if isinstance(shape[axis], int):
                raise ModelError(
                    "model_not_supported",
                    f"the exported graph fixes axis {axis} of {value.name} to {shape[axis]}; "
                    f"{name} must stay free",
                )
        axes = [wanted[str(value.name)].get(axis, dim) for axis, dim in enumerate(shape)]
        value.shape = ir.Shape([_plain(dim) for dim in axes])


def _plain(dim: int | str | ir.SymbolicDim) -> int | str | None:
    return dim if isinstance(dim, int | str) else dim.value


def _name_layers(model: ir.Model, base_prefix: str) -> None:
    for value in list(model.graph.initializers.values()):
        value.name = _inside(str(value.name), base_prefix)


def layer_in(parameter: str, base_prefix: str) -> str:
    """The layer that a parameter of the traced module belongs to, as the graph calls it."""
    return layer_name(_inside(parameter, base_prefix))


def _inside(name: str, base_prefix: str) -> str:
    inside = f"model.{base_prefix}."
    return "model." + name.removeprefix(inside) if name.startswith(inside) else name
