"""Answers to devices, between two training steps: label probabilities here, tokens beside.

HTTP on the worker's unix socket, from a thread of its own. The API has authenticated the caller
and checked the shard before it comes here.
"""

from __future__ import annotations

import os
import socket
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from splitfrozen.errors import RefusedError
from splitfrozen.wire import Shard, decode
from splitfrozen_export.split import enable_lora_dropout, resolve_model, run_segment
from splitfrozen_server.worker.answers import answered
from splitfrozen_server.worker.batch import shard_batches
from splitfrozen_server.worker.generation import Generator
from splitfrozen_server.worker.generation_routes import session_routes
from splitfrozen_server.worker.model import AdaptedModel, build, restore_adapter
from splitfrozen_server.worker.packed import read_adapter
from splitfrozen_server.worker.sessions import Limits
from splitfrozen_server.worker.turns import Turns

LOADED = 2  # adapters kept in memory, each with its own server segment
BATCH = 32  # examples in one forward pass


@dataclass(frozen=True)
class AdapterRef:
    """Which adapter is asked for, and the base model under it."""

    path: str  # packed adapter
    base: str  # directory of the base model
    trust_remote_code: bool


@dataclass(frozen=True)
class Loaded:
    """An adapter in memory."""

    adapted: AdaptedModel
    labels: list[str]


class Classifier:
    """Keeps the adapters that were asked last."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._loaded: OrderedDict[AdapterRef, Loaded] = OrderedDict()
        self._loading = threading.Lock()  # two requests for one adapter load it once

    def classify(self, ref: AdapterRef, shard: Shard) -> dict[str, Any]:
        """Label names, and for every example of the shard their probabilities."""
        loaded = self._load(ref)
        model = loaded.adapted.model
        device = next(model.parameters()).device
        found: list[list[float]] = [[]] * shard.examples
        for rows, batch in shard_batches(shard, BATCH):
            batch = batch.to(device)
            with self._turns.request(), torch.inference_mode():
                logits = run_segment(model, batch.hidden, batch.mask)
                scores = logits.double().softmax(-1).cpu()
            if not torch.isfinite(scores).all():  # JSON has no word for it
                raise RefusedError("not_finite", "the model's scores for the shard are not finite")
            probabilities = scores.tolist()
            for row, values in zip(rows, probabilities, strict=True):
                found[row] = values
        return {"labels": loaded.labels, "probabilities": found}

    def _load(self, ref: AdapterRef) -> Loaded:
        with self._loading:
            if ref not in self._loaded:
                while len(self._loaded) >= LOADED:  # first, or memory must hold one more
                    self._loaded.popitem(last=False)
                with self._turns.request():  # loading draws random numbers, as training does
                    self._loaded[ref] = load_adapter(ref)
            self._loaded.move_to_end(ref)
            return self._loaded[ref]


def load_adapter(ref: AdapterRef) -> Loaded:
    """Load the server segment and put a packed adapter's weights into it."""
    packed = read_adapter(Path(ref.path))
    adapted = build(
        resolve_model(ref.base, trust_remote_code=ref.trust_remote_code),
        packed.cut,
        packed.task,
        num_labels=len(packed.labels) or None,
        lora=packed.lora,
        seed=0,
    )
    restore_adapter(adapted.model, packed.tensors)
    enable_lora_dropout(adapted.model, enabled=False)
    return Loaded(adapted, packed.labels)


def create_inference_app(turns: Turns, limits: Limits) -> Starlette:
    """The app on the worker socket; `limits` are those of split sessions."""
    classifier = Classifier(turns)

    async def probabilities(request: Request) -> Any:
        query = request.query_params
        ref = AdapterRef(query["adapter"], query["base"], query["trust_remote_code"] == "1")
        body = await request.body()
        return await run_in_threadpool(lambda: classifier.classify(ref, decode(body)))

    async def classify(request: Request) -> JSONResponse:
        return await answered(probabilities(request))

    async def health(request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    return Starlette(
        routes=[
            Route("/classifications", classify, methods=["POST"]),
            Route("/health", health),
            *session_routes(Generator(turns, limits)),
        ]
    )


def serve_in_thread(path: Path, turns: Turns, limits: Limits) -> threading.Thread:
    """Listen on a unix socket that only this user may use; never returns while it serves."""
    listener = _listen(path)
    config = uvicorn.Config(
        create_inference_app(turns, limits), log_level="warning", lifespan="off", access_log=False
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listener]}, name="inference", daemon=True
    )
    thread.start()
    return thread


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    os.chmod(path, 0o600)
    return listener
