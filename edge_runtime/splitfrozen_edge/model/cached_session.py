"""Texts that grow: the device segment with past keys and values (SPEC 6.6), which stay here.

Only `device_with_past.onnx` is opened: with an empty past it reads whole texts too. Keys and values
go from call to call as NumPy arrays: those are views of the runtime's own tensors, and handing
over OrtValues or binding them was measured to be no faster (docs/results.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitfrozen.bundle import Bundle
from splitfrozen.errors import ManifestError
from splitfrozen.graph import (
    ATTENTION_MASK,
    DEVICE_WITH_PAST,
    HIDDEN,
    HIDDEN_Q,
    INPUT_IDS,
    SCALE,
    past_names,
    present_names,
)
from splitfrozen_edge.model.cores import default_threads
from splitfrozen_edge.model.session import Graph, GraphOptions, Outputs
from splitfrozen_edge.state import StateError


class CachedSession:
    """The device segment of a verified bundle, with past. Holds no text; threads may share it."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int | None = None,
        wire: str = "int8",
        graph: Graph | None = None,
    ) -> None:
        """`graph`: device_with_past.onnx, opened already.

        Raises StateError if the bundle has none, ManifestError `bad_manifest` if it is no such
        graph.
        """
        require_past(bundle)
        options = GraphOptions(threads or default_threads())
        self.graph = graph or Graph(bundle.path(DEVICE_WITH_PAST), options)
        self.past = past_names(bundle.manifest.cut)
        self.presents = present_names(bundle.manifest.cut)
        self._check_names()
        self.outputs = [HIDDEN]
        if wire == "int8" and {HIDDEN_Q, SCALE} <= set(self.graph.outputs):
            self.outputs += [HIDDEN_Q, SCALE]

    def start(self) -> CachedText:
        """A new text, without tokens yet."""
        return CachedText(self)

    def empty_past(self) -> dict[str, NDArray[Any]]:
        """Keys and values of no token: float32 [1, heads, 0, width]."""
        shapes = {name: self.graph.inputs[name] for name in self.past}
        return {
            name: np.zeros((1, int(shape[1] or 0), 0, int(shape[3] or 0)), np.float32)
            for name, shape in shapes.items()
        }

    def _check_names(self) -> None:
        inputs, outputs = set(self.graph.inputs), set(self.graph.outputs)
        shapes = (self.graph.inputs.get(name, ()) for name in self.past)
        fixed = all(len(s) == 4 and isinstance(s[1], int) and isinstance(s[3], int) for s in shapes)
        right = inputs == {INPUT_IDS, ATTENTION_MASK, *self.past}
        if not (right and fixed and {HIDDEN, *self.presents} <= outputs):
            raise ManifestError(
                "bad_manifest",
                f"{self.graph.path} is no graph with past: inputs {sorted(inputs)}, outputs "
                f"{sorted(outputs)}",
            )


class CachedText:
    """One text, growing to the right."""

    def __init__(self, session: CachedSession) -> None:
        self._session = session
        self._past = session.empty_past()
        self.tokens = 0  # that were fed

    def feed(self, ids: Sequence[int]) -> Outputs:
        """Run the next tokens; `hidden` [1, tokens, d], for wire int8 `hidden_q` and `scale`.

        Raises ModelError `model_not_supported` when the graph fails; the text is as before then.
        """
        session, total = self._session, self.tokens + len(ids)
        feeds: dict[str, NDArray[Any]] = {
            INPUT_IDS: np.array([ids], np.int64),
            ATTENTION_MASK: np.ones((1, total), np.int64),
            **self._past,
        }
        found = dict(session.graph.run([*session.outputs, *session.presents], feeds))
        pairs = zip(session.past, session.presents, strict=True)
        self._past = {past: found.pop(present) for past, present in pairs}
        self.tokens = total
        return found


def can_generate(bundle: Bundle) -> bool:
    """Whether a bundle has what generating needs."""
    return DEVICE_WITH_PAST in bundle.manifest.files


def require_past(bundle: Bundle) -> None:
    """StateError, which says how to export the graph, if a bundle cannot generate."""
    if can_generate(bundle):
        return
    manifest, which = bundle.manifest, f"the bundle {bundle.id[:12]}… in {bundle.directory}"
    if manifest.architecture != "decoder":
        raise StateError(
            f"{which} is of an encoder ({manifest.family}), which reads texts and writes none; "
            "for classification use predict"
        )
    raise StateError(
        f"{which} has no {DEVICE_WITH_PAST}, which generating needs. Export it again, without "
        f"--no-generation: splitfrozen-export --model {manifest.base_model.id} --cut "
        f"{manifest.cut} --precision {manifest.precision} --output DIRECTORY, and publish it on "
        "the server"
    )
