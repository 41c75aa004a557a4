"""Padded token ids -> outputs of the device segment. The only importer of onnxruntime.

`Graph` is one ONNX graph with the options that fit a small device; `DeviceSession` is the graph of
a bundle that every push runs. How many threads, and which memory profile, is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from splitfrozen.bundle import Bundle
from splitfrozen.errors import ManifestError, ModelError
from splitfrozen.graph import ATTENTION_MASK, DEVICE_GRAPH, HIDDEN, HIDDEN_Q, INPUT_IDS, SCALE
from splitfrozen_edge.model.cores import default_threads

Outputs = Mapping[str, NDArray[Any]]
Value = Any  # a tensor that stays in the runtime: onnxruntime.OrtValue, which has no types
RUNTIME = f"onnxruntime {onnxruntime.__version__}"
# Initializers of a saved graph from here on lie outside it, to be mapped. Constants of shapes must
# stay inside; and a product whose scales stay inside while its weights do not computes garbage.
_EXTERNAL_BYTES = 128


@dataclass(frozen=True)
class GraphOptions:
    """How a graph is run. None of these changes a result."""

    threads: int
    # Whether weights are copied into the layout that is fastest; without it they stay in the page
    # cache. Never off with MatMulNBits: it would fall back to dequantizing everything.
    prepack: bool = True
    saved: bool = False  # the graph is one that `save_prepacked` wrote: it is optimized already
    profile: Path | None = None  # prefix of a file with the time of every node


class Graph:
    """One ONNX graph on the CPU.

    Weights are external data, loaded by path, so that what is only looked up stays in the page
    cache. Idle threads sleep instead of spinning; the arena stays on (off costs memory and time).
    """

    def __init__(self, path: Path, options: GraphOptions) -> None:
        """Raises ManifestError `bad_manifest` if the file cannot be loaded."""
        self.path = path
        self._session = _open(path, _session_options(options))
        # Name -> shape, where a free axis is a name or None.
        self.inputs: dict[str, tuple[int | str | None, ...]] = {
            item.name: tuple(item.shape) for item in self._session.get_inputs()
        }
        self.outputs = tuple(str(item.name) for item in self._session.get_outputs())

    def run(self, outputs: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> Outputs:
        """Run once; ModelError `model_not_supported` with the shape of the ids if that fails."""
        try:
            found = self._session.run(list(outputs), dict(feeds))
        except Exception as error:  # onnxruntime's exceptions have no common public class
            raise _failure(feeds.get(INPUT_IDS), error) from None
        return dict(zip(outputs, found, strict=True))

    def run_values(self, outputs: Sequence[str], feeds: Mapping[str, Value]) -> dict[str, Value]:
        """As `run`, but tensors stay in the runtime: one call's keys and values go in the next.

        `to_value` makes a feed of an array; `.numpy()` of an output gives the array.
        """
        try:
            found = self._session.run_with_ort_values(list(outputs), dict(feeds))
        except Exception as error:  # onnxruntime's exceptions have no common public class
            raise _failure(feeds.get(INPUT_IDS), error) from None
        return dict(zip(outputs, found, strict=True))

    def end_profile(self) -> Path:
        """Stop timing nodes; the file with the times, as ONNX Runtime writes it."""
        return Path(self._session.end_profiling())


class DeviceSession:
    """The device segment of a verified bundle: `device.onnx`."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int | None = None,
        wire: str = "int8",
        graph: Graph | None = None,
    ) -> None:
        """`graph`: device.onnx, opened already. ManifestError `bad_manifest` if it is none."""
        options = GraphOptions(threads or default_threads())
        self._graph = graph or Graph(bundle.path(DEVICE_GRAPH), options)
        names = self._check_names()
        self._outputs = [HIDDEN]
        if wire == "int8" and {HIDDEN_Q, SCALE} <= names:
            self._outputs += [HIDDEN_Q, SCALE]

    def run(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Outputs:
        """Run [batch, seq] ids; `hidden` [batch, seq, d], for wire int8 `hidden_q` and `scale`."""
        feeds = {INPUT_IDS: input_ids, ATTENTION_MASK: attention_mask}
        return self._graph.run(self._outputs, feeds)

    def _check_names(self) -> set[str]:
        inputs, outputs = set(self._graph.inputs), set(self._graph.outputs)
        if inputs != {INPUT_IDS, ATTENTION_MASK} or HIDDEN not in outputs:
            listed = f"inputs {sorted(inputs)}, outputs {sorted(outputs)}"
            path = self._graph.path
            raise ManifestError("bad_manifest", f"{path} is no device graph: {listed}")
        return outputs


def to_value(array: NDArray[Any]) -> Value:
    """An array as a feed of `Graph.run_values`; the array must not change afterwards."""
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def save_prepacked(source: Path, directory: Path, *, threads: int) -> None:
    """Write the optimized graph of `source` with its weights in this processor's layout.

    Into `directory`, under the same name, weights beside it. What is written fits this processor
    and this version of ONNX Runtime only. ManifestError `bad_manifest` if `source` cannot be read.
    """
    options = _session_options(GraphOptions(threads))
    options.optimized_model_filepath = str(directory / source.name)
    prefix = "session.optimized_model_external_initializers_"
    options.add_session_config_entry(prefix + "file_name", source.name + ".data")
    options.add_session_config_entry(prefix + "min_size_in_bytes", str(_EXTERNAL_BYTES))
    options.add_session_config_entry("session.save_external_prepacked_constant_initializers", "1")
    _open(source, options)


def _session_options(wanted: GraphOptions) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = wanted.threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3
    if not wanted.prepack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    if wanted.saved:
        level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.graph_optimization_level = level
    if wanted.profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(wanted.profile)
    return options


def _open(path: Path, options: Any) -> Any:
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common public class
        raise ManifestError("bad_manifest", f"{path} cannot be loaded: {error}") from None


def _failure(ids: Any, error: Exception) -> ModelError:
    size = ids.shape() if callable(getattr(ids, "shape", None)) else getattr(ids, "shape", ())
    shape = "x".join(str(axis) for axis in size)
    return ModelError(
        "model_not_supported", f"the device graph fails on a batch of {shape} ids: {error}"
    )
