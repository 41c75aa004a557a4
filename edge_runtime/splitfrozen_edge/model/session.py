"""Padded token ids -> outputs of the device segment. The only importer of onnxruntime."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from splitfrozen.bundle import Bundle
from splitfrozen.errors import ManifestError, ModelError
from splitfrozen.graph import ATTENTION_MASK, DEVICE_GRAPH, HIDDEN, HIDDEN_Q, INPUT_IDS, SCALE

Outputs = Mapping[str, NDArray[Any]]


class DeviceSession:
    """The device segment of a verified bundle, on the CPU.

    Weights are external data, loaded by path, so that what is only looked up stays in the page
    cache. Idle threads sleep instead of spinning; the arena stays on (off costs memory and time).
    """

    def __init__(self, bundle: Bundle, *, threads: int | None = None, wire: str = "int8") -> None:
        """Raises ManifestError `bad_manifest` if the graph is not what the manifest says."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or default_threads()
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        options.log_severity_level = 3
        path = str(bundle.path(DEVICE_GRAPH))
        try:
            self._session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's exceptions have no common public class
            raise ManifestError("bad_manifest", f"{path} cannot be loaded: {error}") from None
        self._names = self._check_names(path)
        self._outputs = [HIDDEN]
        if wire == "int8" and {HIDDEN_Q, SCALE} <= self._names:
            self._outputs += [HIDDEN_Q, SCALE]

    def run(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Outputs:
        """Run [batch, seq] ids; `hidden` [batch, seq, d], for wire int8 `hidden_q` and `scale`."""
        feeds = {INPUT_IDS: input_ids, ATTENTION_MASK: attention_mask}
        try:
            found = self._session.run(self._outputs, feeds)
        except Exception as error:  # onnxruntime's exceptions have no common public class
            shape = "x".join(str(size) for size in input_ids.shape)
            raise ModelError(
                "model_not_supported", f"the device graph fails on a batch of {shape} ids: {error}"
            ) from None
        return dict(zip(self._outputs, found, strict=True))

    def _check_names(self, path: str) -> set[str]:
        inputs = {item.name for item in self._session.get_inputs()}
        outputs = {item.name for item in self._session.get_outputs()}
        if inputs != {INPUT_IDS, ATTENTION_MASK} or HIDDEN not in outputs:
            listed = f"inputs {sorted(inputs)}, outputs {sorted(outputs)}"
            raise ManifestError("bad_manifest", f"{path} is no device graph: {listed}")
        return outputs


def default_threads() -> int:
    """At most 4 of the cores that this process may use: more rarely pays on small devices."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else (os.cpu_count() or 1)
    return min(4, cores)
