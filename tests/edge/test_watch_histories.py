"""Random histories of writers, rotations and crashes: every row that stood there, exactly once."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.edge.watched import Watching, append, line

TEXTS = st.sampled_from(["a", "b", "c", "a rather long text " * 9])
STEPS = st.one_of(
    st.tuples(st.just("append"), st.lists(TEXTS, min_size=1, max_size=4)),
    st.tuples(st.just("half"), TEXTS),
    st.tuples(st.sampled_from(["poll", "crash", "rename", "copy", "cut", "replace", "delete"])),
)


class World:
    """One growing file, its rotated copies, a watcher, and what must be known in the end."""

    def __init__(self, root: Path, *, visible: bool) -> None:
        self.folder = root / "in"
        self.folder.mkdir()
        self.path = self.folder / "app.jsonl"
        self.watching = Watching(root, self.folder if visible else self.path, max_rows=3)
        self._visible = visible  # whether a rotated file is itself watched
        self._names = itertools.count(1)
        self._content: list[str] = []  # whole lines of app.jsonl
        self._expected: Counter[str] = Counter()
        self._ticks = itertools.count(1)
        self._unknown = not visible  # whether a rotation would take away what nobody ever saw
        self._rest = ""  # of a half-written line

    def step(self, name: str, *arguments: object) -> None:
        """Do one thing; another name of it is a method."""
        if name not in ("poll", "crash", "append", "half"):
            self._finish_line()
            if self._unknown or name in ("cut", "replace", "delete"):
                self.poll()  # what vanishes before anybody looks cannot be known
            if not self.path.exists():
                return
        getattr(self, f"{name}")(*arguments)
        if self.path.exists():
            # Two writes of one tick of the file system's clock look alike; a day apart they do not.
            os.utime(self.path, (0, next(self._ticks) * 86400))

    def append(self, texts: list[str]) -> None:
        """Whole lines."""
        self._finish_line()
        append(self.path, *texts)
        self._add(*texts)

    def half(self, text: str) -> None:
        """The beginning of a line; the next writing finishes it."""
        self._finish_line()
        whole = line(text)
        with self.path.open("a") as stream:
            stream.write(whole[: len(whole) // 2])
        self._rest = whole[len(whole) // 2 :]
        self._content.append(text)

    def poll(self) -> None:
        """The watcher looks."""
        self.watching.poll()
        whole_lines = len(self._content) - bool(self._rest)
        self._unknown = not self._visible and not whole_lines

    def crash(self) -> None:
        """The watcher dies between the outbox and the ledger."""
        self.watching.poll(lose=True)
        self.watching.crash()

    def rename(self) -> None:
        """Rotation by rename."""
        self.path.rename(self._rotated())
        self._begin_anew()

    def copy(self) -> None:
        """Rotation by copy and truncate."""
        shutil.copy(self.path, self._rotated())
        os.truncate(self.path, 0)
        self._begin_anew()

    def cut(self) -> None:
        """Truncated without a copy."""
        os.truncate(self.path, 0)
        self._begin_anew()

    def replace(self) -> None:
        """An editor's way: a new file with the old rows and one more."""
        texts = ["b", *self._content, "a"]
        append(self.folder / ".new", *texts).rename(self.path)
        self._begin_anew()
        self._add(*texts)

    def delete(self) -> None:
        """Gone."""
        self.path.unlink()
        self._begin_anew()

    def check(self) -> None:
        """Everything is known exactly once."""
        self._finish_line()
        self.poll()
        assert self.watching.outbox.texts() == self._expected
        self.watching.ledger.close()

    def _rotated(self) -> Path:
        name = f"old-{next(self._names)}.jsonl"
        return self.folder / (name if self._visible else f"{name}.gone")

    def _add(self, *texts: str) -> None:
        self._content += texts
        for text, count in Counter(self._content).items():
            self._expected[text] = max(self._expected[text], count)

    def _finish_line(self) -> None:
        if self._rest:
            with self.path.open("a") as stream:
                stream.write(self._rest)
            self._rest = ""
            self._add()
            os.utime(self.path, (0, next(self._ticks) * 86400))

    def _begin_anew(self) -> None:
        self._content = []
        self._unknown = not self._visible


@pytest.mark.parametrize("visible", [True, False])
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(STEPS, max_size=25))
def test_every_row_is_known_exactly_once(steps: list[tuple[object, ...]], visible: bool) -> None:
    with tempfile.TemporaryDirectory() as root:
        world = World(Path(root), visible=visible)
        for name, *arguments in steps:
            world.step(str(name), *arguments)
        world.check()
