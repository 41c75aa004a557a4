"""Split generation: activations in, one token out, the upper half's keys and values kept between.

Requests come from many threads; one thread of its own runs the model, in turns with training.
Single tokens that wait for the same model at the same moment run as one batch, so that streams
share the weights' way through memory. A batch has one adapter; mixing adapters would change
`_goes_along` and `ServedModel.forward` only.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from splitfrozen.errors import RefusedError
from splitfrozen.wire import decode, digest
from splitfrozen_server.identifiers import new_id
from splitfrozen_server.worker.caches import SessionCache
from splitfrozen_server.worker.sampling import choose
from splitfrozen_server.worker.served import ServedModel, ServedModels
from splitfrozen_server.worker.sessions import (
    Document,
    Limits,
    Opening,
    Session,
    SessionTable,
    Step,
    check_step,
)
from splitfrozen_server.worker.turns import Turns

BATCH = 16  # sessions in one forward pass
PADDING = 1024  # tokens of padding that a batch may have in any case; else as many as are real


@dataclass(eq=False)
class _Open:
    """Wanted: a session."""

    opening: Opening
    answer: Future[Document]


@dataclass(eq=False)
class _Work:
    """Wanted: a step of a session."""

    session: Session
    step: Step
    hidden: Tensor  # float32 [1, new, d]
    answer: Future[Document]

    @property
    def new(self) -> int:
        return int(self.hidden.shape[1])


class Generator:
    """The worker's split sessions."""

    def __init__(
        self, turns: Turns, limits: Limits, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._turns = turns
        self._table = SessionTable(limits, clock)
        self._models = ServedModels()
        self._waiting: list[_Open | _Work] = []
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="generation", daemon=True).start()

    @property
    def sessions(self) -> int:
        with self._changed:
            return len(self._table)

    def open(self, opening: Opening) -> Future[Document]:
        """Open a session; loads its model if need be."""
        answer: Future[Document] = Future()
        with self._changed:
            self._waiting.append(_Open(opening, answer))
            self._changed.notify_all()
        return answer

    def step(self, session_id: str, owner: str, sequence: int, body: bytes) -> Future[Document]:
        """Append a body's tokens to a session and choose the next one.

        Raises WireError, or RefusedError: `session_lost`, `out_of_order`, `dataset_mismatch`,
        `bad_lengths`, `unavailable`; the future raises `not_finite` and what loading raises.
        """
        step = Step(sequence, digest(body))
        with self._changed:
            session = self._table.find(session_id, owner)
            if (known := session.repeated(step)) is not None:
                self._table.touch(session)
                return known
        shard = decode(body)
        check_step(session, shard)  # before its numbers take four times the memory
        hidden = torch.tensor(shard.activations()).unsqueeze(0)
        with self._changed:
            session = self._table.find(session_id, owner)
            if (known := session.repeated(step)) is not None:
                return known
            self._table.reserve(session, shard.tokens)
            work = _Work(session, step, hidden, Future())
            session.working = (step, work.answer)
            self._waiting.append(work)
            self._changed.notify_all()
        return work.answer

    def close(self, session_id: str, owner: str) -> None:
        """Drop a session. RefusedError `not_found`."""
        with self._changed:
            self._table.remove(session_id, owner)
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait(self._table.next_expiry())
                    self._table.expire()
            with self._turns.request():
                batch = self._take()  # only now: more may have come while the turn was another's
                self._serve(batch)

    def _take(self) -> Sequence[_Open | _Work]:
        """The request that waits longest, and the single tokens that can go with it."""
        with self._changed:
            batch = self._waiting[:1]
            for one in self._waiting[1:]:
                if len(batch) < BATCH and _goes_along(batch, one):
                    batch.append(one)
            self._waiting = [one for one in self._waiting if one not in batch]
        return batch

    def _serve(self, batch: Sequence[_Open | _Work]) -> None:
        first = batch[0]
        try:
            if isinstance(first, _Open):
                first.answer.set_result(self._open(first.opening))
            else:
                self._compute([one for one in batch if isinstance(one, _Work)])
        except Exception as error:
            for one in batch:
                self._fail(one, error)

    def _open(self, opening: Opening) -> Document:
        model = self._models.get(opening.ref)
        session = Session(
            id=new_id("sess_"),
            opening=opening,
            max_positions=self._room(model, opening.max_positions),
            eos=frozenset(model.eos),
            token_bytes=model.token_bytes,
            cache=SessionCache(model.plan),
            used_at=0.0,
        )
        with self._changed:
            self._table.expire()
            self._table.add(session)
            self._table.touch(session)
        return {
            "id": session.id,
            "max_positions": session.max_positions,
            "eos_token_ids": model.eos,
            "idle_timeout": self._table.limits.idle,
        }

    def _room(self, model: ServedModel, claimed: int) -> int:
        """Tokens of a session: the model's positions, or fewer if memory holds no more."""
        cache = SessionCache(model.plan)
        found = claimed
        while found > 1 and cache.bytes_with(found, model.token_bytes) > self._table.limits.bytes:
            found //= 2
        return found

    def _compute(self, batch: Sequence[_Work]) -> None:
        ref = batch[0].session.opening.ref
        model = self._models.get(ref)
        hidden = torch.cat([work.hidden for work in batch])
        logits = model.forward(ref.adapter, hidden, [work.session.cache for work in batch])
        scores = logits.double().cpu().numpy()
        for work, row in zip(batch, scores, strict=True):
            try:
                document = self._choose(work, row)
            except RefusedError as error:
                self._fail(work, error)
                continue
            with self._changed:
                work.session.cache.commit(work.new)
                work.session.last = (work.step, document)
                self._release(work.session)
            work.answer.set_result(document)

    def _choose(self, work: _Work, scores: Any) -> Document:
        session = work.session
        position = session.cache.tokens + work.new
        choice = choose(scores, session.opening.sampling, position)
        reason = None
        if choice.token in session.eos:
            reason = "stop"
        elif position >= session.max_positions:
            reason = "length"
        return {**choice.to_json(), "position": position, "finish_reason": reason}

    def _fail(self, work: _Open | _Work, error: Exception) -> None:
        if work.answer.done():
            return
        if isinstance(work, _Work):
            with self._changed:
                self._release(work.session)
        work.answer.set_exception(error)

    def _release(self, session: Session) -> None:
        session.working = None
        self._table.settle(session)
        self._table.touch(session)


def _goes_along(batch: Sequence[_Open | _Work], other: _Open | _Work) -> bool:
    """Whether `other` may run with `batch`: single tokens, the same model, little padding.

    The keys of a batch are joined at the length of its longest session. Without a bound, one long
    session among short ones would take many times the memory that sessions are allowed.
    """
    works = [one for one in (*batch, other) if isinstance(one, _Work) and one.new == 1]
    if len(works) <= len(batch) or len({work.session.opening.ref for work in works}) > 1:
        return False
    lengths = [work.session.cache.tokens for work in works]
    return len(lengths) * max(lengths) <= 2 * sum(lengths) + PADDING
