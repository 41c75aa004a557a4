"""ExecuTorch with its XNNPACK backend: dynamic int8 activations, int8 weights per channel.

Each batch size is a program of its own: the backend wants fixed shapes to plan its memory.
"""

from __future__ import annotations

import numpy as np
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import (  # type: ignore[import-not-found]
    XnnpackPartitioner,
)
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (  # type: ignore[import-not-found]
    XNNPACKQuantizer,
    get_symmetric_quantization_config,
)
from executorch.exir import to_edge_transform_and_lower  # type: ignore[import-not-found]
from executorch.runtime import Runtime  # type: ignore[import-not-found]
from numpy.typing import NDArray
from torch.fx import GraphModule
from torchao.quantization.pt2e.quantize_pt2e import (  # type: ignore[import-not-found]
    convert_pt2e,
    prepare_pt2e,
)

from benchmarks.speed.torch_runner import plain_linears
from benchmarks.speed.worker import BATCHES, Ids, Runner, Task, make_ids
from splitfrozen_export.split import load_device_segment, resolve_model


class _LinearsOnly(XNNPACKQuantizer):  # type: ignore[misc]
    """The backend's quantizer for linear layers, and nothing else of the graph changed."""

    def __init__(self) -> None:
        super().__init__()
        config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True)
        self.set_module_type(torch.nn.Linear, config)

    def transform_for_annotation(self, model: GraphModule) -> GraphModule:
        """Keep scalars: the original turns them into float tensors, also those of indices."""
        return model


@torch.no_grad()
def load(task: Task) -> Runner:
    """Export, quantize and lower one program for each batch size."""
    torch.set_num_threads(task.threads)
    _limit_threads(task.threads)  # first: a loaded program keeps the pool it was loaded with
    segment = load_device_segment(resolve_model(str(task.model)), task.cut).eval()
    plain_linears(segment)
    sizes, programs = [], {}
    for batch in BATCHES:
        ids = torch.from_numpy(make_ids(batch, task.tokens, task.vocabulary))
        example = (ids, torch.ones_like(ids))
        prepared = prepare_pt2e(torch.export.export(segment, example).module(), _LinearsOnly())
        prepared(*example)
        exported = torch.export.export(convert_pt2e(prepared), example)
        lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
        body = lowered.to_executorch().buffer
        sizes.append(len(body))
        program = Runtime.get().load_program(body)
        programs[batch] = program, program.load_method("forward")  # which needs the program alive

    def run(ids: Ids, mask: Ids) -> NDArray[np.float32]:
        _, method = programs[len(ids)]
        (hidden,) = method.execute([torch.from_numpy(ids), torch.from_numpy(mask)])
        found: NDArray[np.float32] = hidden.numpy()
        return found

    return Runner(run, sizes[0])


def _limit_threads(threads: int) -> None:
    from executorch.extension.pybindings import portable_lib  # type: ignore[import-not-found]

    portable_lib._unsafe_reset_threadpool(threads)
