"""A device as an object: what an app does with SplitFrozen, without a command line."""

from __future__ import annotations

import logging
import os
import platform
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitfrozen_edge.app.arguments import require_list
from splitfrozen_edge.app.bundle import Bundle, BundleLike
from splitfrozen_edge.app.connection import Connection
from splitfrozen_edge.app.outbox import Outbox
from splitfrozen_edge.state import StateDirectory

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from splitfrozen.errors import DataError
    from splitfrozen_edge.app.loaded import Loaded
    from splitfrozen_edge.inference.predict import Prediction
    from splitfrozen_edge.pushing.report import PushReport

_LOG = logging.getLogger("splitfrozen_edge")
PATIENCE = 120.0  # seconds of waiting for a server that is away
_ENROL_PATIENCE = 10.0  # seconds; somebody watches, and a wrong address is likelier


class Device:
    """One state directory, as `splitfrozen-edge` uses it: identity, queue, bundles.

    Made by `open` or `enroll`; closed by `close` or `with`. All methods may be called from several
    threads: models are loaded once and shared, and pushes take turns. A push of another process
    with the same directory is a StateError. Warnings go to the logger `splitfrozen_edge`.

    Whoever runs the server can reconstruct the texts that `push`, `predict` and `generate` send:
    the first blocks run here to save work there, not to hide anything.
    """

    def __init__(
        self, state: StateDirectory, *, threads: int | None = None, retry_for: float = PATIENCE
    ) -> None:
        """For this package; apps call `Device.open` or `Device.enroll`."""
        self._state = state
        self._threads = threads
        self._connection = Connection(state, retry_for)
        self._lock = threading.Lock()  # of _models
        self._models: Loaded | None = None
        self._pushing = threading.Lock()

    @classmethod
    def open(
        cls,
        state_dir: str | os.PathLike[str] | None = None,
        *,
        threads: int | None = None,
        retry_for: float = PATIENCE,
    ) -> Device:
        """Use a state directory (default: that of the commands); nothing is read or sent yet.

        One that was never enrolled does for `embed` with a bundle's directory; what needs the
        server raises StateError then.
        `threads`: of the model; default: as measured on this machine. `retry_for`: seconds to wait
        for a server that is away.
        """
        return cls(_find_state(state_dir), threads=threads, retry_for=retry_for)

    @classmethod
    def enroll(
        cls,
        server: str,
        token: str,
        *,
        state_dir: str | os.PathLike[str] | None = None,
        name: str | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        pin: str | None = None,
        replace: bool = False,
        threads: int | None = None,
        retry_for: float | None = None,
    ) -> Device:
        """Make this machine known to a server by an enrolment token; then as `open`.

        `name`: what the server calls it, default the host name. A server with its own certificate
        needs `ca_file`, its authority's, or `pin`, the fingerprint of either. `retry_for`: seconds
        to wait for a server that is away, here (default 10) and as of `open`. Raises StateError:
        enrolled already and not `replace`; RefusedError: the server refuses or is not reached.
        """
        from splitfrozen_edge.identity.enrolling import enroll_device

        state = _find_state(state_dir)
        enroll_device(
            state,
            server,
            token,
            name=name or platform.node(),
            ca_file=None if ca_file is None else Path(ca_file).resolve(),
            pin=pin,
            replace_old=replace,
            retry_for=_ENROL_PATIENCE if retry_for is None else retry_for,
            warn=_LOG.warning,
        )
        later = PATIENCE if retry_for is None else retry_for
        return cls(state, threads=threads, retry_for=later)

    def bundle(self, wanted: BundleLike | None = None) -> Bundle:
        """A bundle by directory or id (downloaded from the server if it is not here).

        Without `wanted` the one that this device used last. Raises ManifestError, StateError,
        RefusedError.
        """
        return self._loaded().bundle(wanted)

    def embed(
        self, texts: Iterable[str], *, bundle: BundleLike | None = None
    ) -> list[NDArray[np.float32]]:
        """Activations at the cut: for every text, in order, an array [tokens, d] of float32.

        Nothing is sent. Texts beyond the bundle's `max_length` are truncated; special tokens
        count. Raises DataError for texts that give no tokens, and what `bundle` raises.
        """
        require_list(texts)
        loaded = self._loaded()
        return loaded.embedder(loaded.bundle(bundle)).embed(texts)

    def push(
        self,
        rows: Iterable[Mapping[str, Any]],
        *,
        dataset: str,
        bundle: BundleLike | None = None,
        task: str | None = None,
        labels: Sequence[str] = (),
        strict: bool = False,
        on_bad_row: Callable[[DataError], None] | None = None,
    ) -> PushReport:
        """Bring rows into a dataset, each exactly once; the iterable is read as it is sent.

        Rows have the keys of a data file: text and label, prompt and completion, messages, text.
        `dataset`: name or id; one that does not exist is made, open, for which `bundle` is needed.
        `task`: classification or causal_lm, if the keys do not tell. `labels`: names of the labels
        0, 1, … `strict`: rows that would be truncated are bad. `on_bad_row` is told of bad rows,
        which are skipped; without it the first one ends the push with DataError.

        Returns when the server has everything but what it refused for good, which the report
        tells. Raises RefusedError (what was computed waits in the outbox; the next push sends it),
        DataError, StateError, ManifestError, QuantizeError.
        """
        from splitfrozen_edge.app.pushing import push

        require_list(rows, "rows")
        require_list(labels, "labels")
        if bundle is not None:
            bundle = self.bundle(bundle)
        with self._pushing:
            return push(
                rows,
                {"dataset": dataset, "task": task, "labels": tuple(labels), "strict": strict},
                bundle,
                self._state,
                self._loaded(),
                self._connection,
                warn=_LOG.warning,
                on_bad_row=on_bad_row,
            )

    def predict(
        self, texts: Iterable[str], *, model: str, bundle: BundleLike | None = None
    ) -> list[Prediction]:
        """Classify texts with a model of the server (`ft:…`), in order: label and scores.

        The first blocks run here, the rest there. Raises DataError, RefusedError, StateError,
        ManifestError, QuantizeError.
        """
        from splitfrozen_edge.app.inference import predict

        require_list(texts)
        found = list(texts)
        return predict(found, model, bundle, self._loaded(), self._connection, _LOG.warning)

    def generate(
        self,
        prompt: str | Sequence[Mapping[str, str]],
        *,
        model: str,
        max_tokens: int = 256,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
        bundle: BundleLike | None = None,
    ) -> Iterator[str]:
        """What a language model of the server writes, piece by piece.

        `prompt`: a text to continue, or the messages (`role`, `content`) of a chat to answer.
        Token ids and the device's keys and values stay here. `temperature` 0 is greedy; the same
        `seed` gives the same text; `stop`: texts that end it. Errors come with the first piece, as
        from `predict`; close the iterator to end early.
        """
        from splitfrozen.errors import DataError
        from splitfrozen_edge.app.inference import generate

        require_list(stop)
        if max_tokens < 1:
            raise DataError("max_tokens must be at least 1")
        return generate(
            prompt,
            model,
            bundle,
            self._loaded(),
            self._connection,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            stop=stop,
        )

    def status(self) -> dict[str, Any]:
        """What `splitfrozen-edge status --format json` prints; the network is not asked."""
        from splitfrozen_edge.status import read_status

        return read_status(self._state)

    @property
    def outbox(self) -> Outbox:
        """What waits on this device for the server."""
        return Outbox(self._state)

    def close(self) -> None:
        """End what other threads wait for with StateError, and close the connections.

        What was computed stays in the outbox; the next push sends it.
        """
        self._connection.close()

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Device {self._state.path}>"

    def _loaded(self) -> Loaded:
        from splitfrozen_edge.app.loaded import Loaded

        with self._lock:
            self._connection.check_open()
            if self._models is None:
                self._models = Loaded(self._state, self._connection, self._threads)
            return self._models


def _find_state(wanted: str | os.PathLike[str] | None) -> StateDirectory:
    from splitfrozen_edge.options import DEFAULT_STATE

    return StateDirectory(Path(wanted or DEFAULT_STATE).expanduser())
