"""The commands of docs/raspberry-pi.md, and who can try them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "raspberry-pi.md"
BOARD = "tried on the emulated board"
SERVER = "tried on the server"
NOT = "not tried: "
_BLOCK = re.compile(r"<!-- ([^>]+) -->\n```\n(.*?)```", re.DOTALL)
_OWN = re.compile(r"splitfrozen-(edge|server)((?: +[^\s`|;,]+)+)")


@dataclass(frozen=True)
class Block:
    """A fenced block of commands; `mark` says who tries it, or why nobody does."""

    mark: str
    lines: tuple[str, ...]

    @property
    def commands(self) -> list[list[str]]:
        return [shlex.split(line) for line in self.lines]


def read_blocks() -> list[Block]:
    """All marked blocks, in the order of the page."""
    found = _BLOCK.findall(PAGE.read_text("utf-8"))
    return [Block(mark, tuple(filter(None, text.splitlines()))) for mark, text in found]


def fences() -> int:
    """How many blocks of commands the page has, marked or not."""
    return len(re.findall(r"^```\n(?!\n)(?=[^`]+^```)", PAGE.read_text("utf-8"), re.MULTILINE))


def own_commands() -> list[tuple[str, list[str]]]:
    """Our own programs wherever the page names a command of theirs: (program, words)."""
    found = [(f"splitfrozen-{name}", rest.split()) for name, rest in _OWN.findall(PAGE.read_text())]
    return [(program, words) for program, words in found if words[0].isalpha()]
