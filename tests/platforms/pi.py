"""One emulated Raspberry Pi that runs the installed edge wheel."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.emulation import arm


@dataclass
class Pi:
    """An emulated board with its own state directory; `program` runs on its Python."""

    cpu: str
    state: Path
    environ: Mapping[str, str]
    program: Sequence[str | Path] = field(default=("-m", "splitfrozen_edge"))
    python: Path | None = None  # of a virtual environment; None: Debian's

    @property
    def launcher(self) -> list[str]:
        """What starts arm64 programs: the emulator with its options."""
        return [str(part) for part in arm.command(self.cpu)[:-1]]

    def command(self, *arguments: object) -> list[str]:
        python = self.python or arm.command(self.cpu)[-1]
        return [*self.launcher, *map(str, (python, *self.program, *arguments))]

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**self.environ, "SPLITFROZEN_EDGE_HOME": str(self.state)},
        )

    def run(self, *arguments: object) -> str:
        """What a command says on standard output; AssertionError when it fails."""
        with self.start(*arguments) as process:
            said, complained = process.communicate(timeout=400)
        if process.returncode:
            raise AssertionError(f"{arguments}: {process.returncode}\n{said}{complained}")
        return said

    def json(self, *arguments: object) -> Any:
        return json.loads(self.run(*arguments, "--format", "json"))

    def examine(self, *arguments: object) -> dict[str, dict[str, str]]:
        """What the doctor finds, by check, when it can start a second process."""
        document = self.json("doctor", "--launcher", shlex.join(self.launcher), *arguments)
        return {row["check"]: row for row in document["checks"]}
