"""The split sessions of a worker: who owns them, what they answered last, which one has to go.

Pure bookkeeping: no model, no thread, no clock of its own. Not safe to call from two threads at
once; `generation.py` holds a lock around every call.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from splitfrozen.errors import RefusedError
from splitfrozen.wire import Shard
from splitfrozen_server.admission import Published, check_bundle
from splitfrozen_server.worker.caches import SessionCache
from splitfrozen_server.worker.sampling import Sampling
from splitfrozen_server.worker.served import ModelRef

Document = dict[str, Any]  # the JSON of an answer


@dataclass(frozen=True)
class Limits:
    """What all sessions together may take."""

    bytes: int  # of keys and values
    count: int = 256
    idle: float = 600.0  # seconds without a step after which a session is dropped

    @property
    def of_one_owner(self) -> int:
        """Sessions of one owner: a device that opens one after the other crowds out its own."""
        return max(8, self.count // 4)


@dataclass(frozen=True)
class Opening:
    """What a session is opened with, as the API checked it."""

    owner: str  # device, or admins of a tenant
    ref: ModelRef
    bundle: str  # id
    published: Published  # what its bundle can have made; max_length is the step limit
    max_positions: int
    sampling: Sampling


@dataclass(frozen=True)
class Step:
    """A numbered step of a session and the digest of its body."""

    sequence: int
    digest: str


@dataclass(eq=False)
class Session:
    """One stream of tokens."""

    id: str
    opening: Opening
    max_positions: int
    eos: frozenset[int]
    token_bytes: list[int]  # of each block's cache
    cache: SessionCache
    used_at: float
    bytes: int = 0  # of the cache, with what the step at work will add
    last: tuple[Step, Document] | None = None
    working: tuple[Step, Future[Document]] | None = field(default=None, repr=False)

    def repeated(self, step: Step) -> Future[Document] | None:
        """The answer to a step that was sent before, None for the next new one.

        Raises RefusedError `out_of_order` for any other.
        """
        if self.working is not None and self.working[0] == step:
            return self.working[1]
        if self.last is not None and self.last[0] == step:
            answered: Future[Document] = Future()
            answered.set_result(self.last[1])
            return answered
        done = 0 if self.last is None else self.last[0].sequence
        if self.working is None and step.sequence == done + 1:
            return None
        if step.sequence == done:
            problem = f"step {done} was answered for another body"
        elif self.working is not None:
            problem = f"step {self.working[0].sequence} is still at work"
        else:
            problem = f"step {step.sequence} does not follow step {done}"
        raise RefusedError(
            "out_of_order", problem, param="sequence", details={"expected": done + 1}
        )


class SessionTable:
    """All sessions, the one that was used longest ago first."""

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self.limits = limits
        self._clock = clock
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def bytes(self) -> int:
        return sum(session.bytes for session in self._sessions.values())

    def add(self, session: Session) -> None:
        """Take a session in; the one that was used longest ago makes place for it.

        Raises RefusedError `unavailable` when all others are at work.
        """
        owner = session.opening.owner
        own = [one for one in self._sessions.values() if one.opening.owner == owner]
        if len(own) >= self.limits.of_one_owner:
            self._evict(own)
        elif len(self._sessions) >= self.limits.count:
            self._evict(self._sessions.values())
        self._sessions[session.id] = session

    def find(self, session_id: str, owner: str) -> Session:
        """The owner's session. RefusedError `session_lost`."""
        self.expire()
        session = self._sessions.get(session_id)
        if session is None or session.opening.owner != owner:
            raise RefusedError("session_lost", "there is no such session any more: open another")
        return session

    def touch(self, session: Session) -> None:
        """Mark as used, if it is still there."""
        session.used_at = self._clock()
        if session.id in self._sessions:
            self._sessions.move_to_end(session.id)

    def remove(self, session_id: str, owner: str) -> None:
        """Drop the owner's session. RefusedError `not_found`."""
        self.expire()
        session = self._sessions.get(session_id)
        if session is None or session.opening.owner != owner:
            raise RefusedError("not_found", "there is no such session", param="session")
        del self._sessions[session_id]

    def reserve(self, session: Session, new: int) -> None:
        """Set aside what `new` more tokens take; sessions used longest ago make place.

        Raises RefusedError `unavailable` when all others are at work.
        """
        wanted = session.cache.bytes_with(new, session.token_bytes)
        while self.bytes - session.bytes + wanted > self.limits.bytes:
            self._evict(one for one in self._sessions.values() if one is not session)
        session.bytes = wanted
        self.touch(session)

    def settle(self, session: Session) -> None:
        """Count what the session's cache really takes, after a step that worked or failed."""
        session.bytes = session.cache.bytes_with(0, session.token_bytes)

    def expire(self) -> None:
        """Drop the sessions that nobody has used for the idle time."""
        oldest = self._clock() - self.limits.idle
        for session in list(self._idle()):
            if session.used_at <= oldest:
                del self._sessions[session.id]

    def next_expiry(self) -> float | None:
        """Seconds until the next session may expire; None without sessions."""
        first = next(self._idle(), None)
        if first is None:
            return None
        return max(0.0, first.used_at + self.limits.idle - self._clock())

    def _idle(self) -> Iterator[Session]:
        return (session for session in self._sessions.values() if session.working is None)

    def _evict(self, candidates: Iterable[Session]) -> None:
        """Drop the one of `candidates` that was used longest ago and is not at work."""
        victim = next((one for one in candidates if one.working is None), None)
        if victim is None:
            raise RefusedError("unavailable", "all memory of sessions is in use; try again")
        del self._sessions[victim.id]


def check_step(session: Session, shard: Shard) -> None:
    """Refuse a shard that cannot be the session's next tokens.

    RefusedError: `dataset_mismatch`, `bad_lengths`.
    """
    opening = session.opening
    if shard.task != "inference":
        raise RefusedError("dataset_mismatch", f"task is {shard.task!r}, not 'inference'")
    if shard.bundle != opening.bundle:
        raise RefusedError(
            "dataset_mismatch",
            "the session was opened with another bundle than the shard's",
            param="bundle",
        )
    if shard.examples != 1:
        raise RefusedError(
            "bad_lengths", f"a step takes one example, not {shard.examples}", param="lengths"
        )
    check_bundle(shard, opening.published)
    if (total := session.cache.tokens + shard.tokens) > session.max_positions:
        raise RefusedError(
            "bad_lengths",
            f"the session would have {total} tokens; it has room for {session.max_positions}",
            param="lengths",
        )
