"""Calls that run side by side and stop together: when one fails, the commands of all are ended."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from benchmarks.walkthrough.children import Children

P = ParamSpec("P")
T = TypeVar("T")


class Crew:
    """A thread pool over commands of `children`; an error inside the `with` ends the commands."""

    def __init__(self, children: Children, at_once: int) -> None:
        self._children = children
        self._pool = ThreadPoolExecutor(at_once)

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, error: object, *_rest: object) -> None:
        if error is not None:
            self._children.end()  # or the pool would wait for them
        self._pool.shutdown(wait=True, cancel_futures=error is not None)

    def submit(self, call: Callable[P, T], /, *arguments: P.args, **options: P.kwargs) -> Future[T]:
        """Start a call; its result or exception is the future's."""
        return self._pool.submit(call, *arguments, **options)
