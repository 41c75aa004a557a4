"""Token by token on the device: a second graph with past keys and values, over the same weights.

A device that generates opens `device_with_past.onnx` alone and uses it for whole texts, too, with
an empty past: there it is about 5 % slower than `device.onnx` and gives, in int8, the same bytes.
Two sessions share the file's pages only; what ONNX Runtime packs for its kernels each of them packs
anew, and its Python interface has no container to share that in. `device.onnx` is for everything
that reads whole texts only: training data, classification, encoders.
"""

from splitfrozen_export.past.graph import export_cached_graph
from splitfrozen_export.past.save import cached_graph_in, save_beside
from splitfrozen_export.past.verify import CachedReport, compare_cached, verify_cached

__all__ = [
    "CachedReport",
    "cached_graph_in",
    "compare_cached",
    "export_cached_graph",
    "save_beside",
    "verify_cached",
]
