"""What the worker says over the control socket; worker/control_client.py is the other side."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class LeaseRequest(BaseModel):
    worker: str


class Held(BaseModel):
    """Every message about a job proves that its sender still holds it."""

    lease: str


class Start(Held):
    record: dict[str, Any]


class Admission(Held):
    step: int
    sequence: int
    sealed: bool


class Event(BaseModel):
    key: str
    type: str
    level: str
    message: str
    data: dict[str, Any]
    created_at: float


class Progress(BaseModel):
    steps_completed: int = 0
    total_steps: int | None = None
    trained_tokens: int = 0
    waiting: bool = False  # all that may be trained is: more data, or the seal, must come


class Report(Held):
    events: list[Event]
    progress: Progress | None = None


class PublishedCheckpoint(Held):
    step: int
    name: str
    metrics: dict[str, Any]


class Finish(Held):
    path: str  # of the packed adapter
    sha256: str
    result: dict[str, Any]


class Failure(BaseModel):
    code: str
    message: str
    param: str | None


class Fail(Held):
    error: Failure


class Release(Held):
    idle_sequence: int | None = None
