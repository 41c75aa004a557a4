"""Writes the generated parts of the documents: `python -m scripts.docs [--check]`.

A generated part stands between two comment lines that name this file. What is generated: the table
of error codes in the SPEC, the help of every command in docs/cli.md. What is only checked: that the
tree in the README names what exists, and every top-level folder.
"""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click

from splitfrozen.errors import CODES

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = {  # program -> module and the click command in it
    "splitfrozen-export": ("splitfrozen_export.cli", "export_command"),
    "splitfrozen-bundle": ("splitfrozen_export.tools.cli", "bundle_command"),
    "splitfrozen-edge": ("splitfrozen_edge.cli", "main"),
    "splitfrozen-server": ("splitfrozen_server.cli", "cli"),
}


def code_table() -> str:
    rows = ["| code | status | retryable | meaning |", "|---|---|---|---|"]
    for entry in CODES.values():
        retry = "yes" if entry.retryable else "no"
        rows.append(f"| `{entry.code}` | {entry.status} | {retry} | {entry.meaning} |")
    return "\n".join(rows)


def command_help() -> str:
    parts: list[str] = []
    for program, (module, name) in COMMANDS.items():
        command = getattr(importlib.import_module(module), name)
        parts.extend(_help_of(command, program))
    return "\n".join(parts)


def _help_of(command: click.Command, path: str) -> list[str]:
    context = click.Context(command, info_name=path, max_content_width=100, terminal_width=100)
    text = command.get_help(context).rstrip()
    found = [f"## {path}", "", "```", text, "```", ""]
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                found.extend(_help_of(child, f"{path} {name}"))
    return found


PARTS: dict[str, tuple[str, Callable[[], str]]] = {
    "codes": ("protocol/SPEC.md", code_table),
    "help": ("docs/cli.md", command_help),
}


def render(name: str) -> tuple[Path, str]:
    """The file of a part with the part written anew."""
    file, make = PARTS[name]
    path = ROOT / file
    pattern = re.compile(rf"(<!-- {name}: begin[^\n]*-->\n).*?(<!-- {name}: end -->)", re.DOTALL)
    text, count = pattern.subn(lambda m: f"{m[1]}{make()}\n{m[2]}", path.read_text())
    if count != 1:
        raise SystemExit(f"{file} needs the marks of the part {name!r} exactly once")
    return path, text


def tree_faults() -> list[str]:
    """Lines of the README's tree that name nothing, and tracked folders that it does not name."""
    readme = (ROOT / "README.md").read_text()
    block = re.search(r"<!-- tree -->\n```\n(.*?)```", readme, re.DOTALL)
    if block is None:
        return ["README.md has no <!-- tree --> block"]
    named = {line.split()[0].rstrip("/") for line in block[1].splitlines() if line.strip()}
    listing = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    folders = {f.split("/")[0] for f in listing if "/" in f} - {".ci"}
    faults = [f"README tree names {n}, which does not exist" for n in sorted(named) if absent(n)]
    return faults + [f"README tree lacks {name}/" for name in sorted(folders - named)]


def absent(name: str) -> bool:
    return not (ROOT / name).exists()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail on a difference")
    check = parser.parse_args().check
    faults = tree_faults()
    for name in PARTS:
        path, text = render(name)
        if path.read_text() == text:
            continue
        if check:
            faults.append(f"{path.relative_to(ROOT)} is out of date: run make docs")
        else:
            path.write_text(text)
            print(f"wrote {path.relative_to(ROOT)}")
    for fault in faults:
        print(fault, file=sys.stderr)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
