"""Upload a bundle to a server, file by file (SPEC 4.7). Knows what to send, not how."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from splitfrozen.bundle import read_bundle
from splitfrozen.errors import RefusedError
from splitfrozen.manifest import MANIFEST_NAME
from splitfrozen_export.tools.server import ServerConnection
from splitfrozen_export.words import megabytes

STEPS = ("Checking the bundle", "Asking the server", "Sending files", "Publishing")
_ROUNDS = 3  # another process may finish or give up the same upload meanwhile

OnStep = Callable[[str], None]
OnPart = Callable[[int, int], None]


def publish_bundle(
    directory: Path, server: ServerConnection, on_step: OnStep, on_part: OnPart
) -> dict[str, Any]:
    """Verify, upload what the server lacks, publish. Sends no file that has arrived before.

    Returns the published bundle with `sent` (bytes), `new` (False: it was published before) and
    the server's `bundle_key`. Raises ManifestError for a broken bundle, RefusedError.
    """
    on_step(STEPS[0])
    bundle = read_bundle(directory)
    raw = (directory / MANIFEST_NAME).read_bytes()
    place = f"/v1/bundles/{bundle.id}"
    on_step(STEPS[1])
    sent, new = 0, False
    for attempt in range(_ROUNDS):
        state = server.put(f"{place}/files/{MANIFEST_NAME}", raw)
        if not _field(state, "published", bool, server):
            new = True
            try:
                on_step(STEPS[2])
                sent += _send(directory, _missing(state, server), place, server, on_part)
                on_step(STEPS[3])
            except RefusedError as error:
                if error.code != "not_found" or attempt == _ROUNDS - 1:
                    raise
                continue
        published = server.post(f"{place}/publish")
        break
    key = server.get("/version").get("bundle_key")
    for name in ("id", "base_model", "cut", "precision"):
        _field(published, name, object, server)
    return {**published, "new": new, "sent": sent, "server": server.server, "bundle_key": key}


def published_lines(found: dict[str, Any]) -> list[str]:
    """For a person."""
    did = "Published" if found["new"] else "Published before"
    return [
        f"{did}: {found['id']}",
        f"{found['base_model']}, cut {found['cut']}, {found['precision']}, on {found['server']}; "
        f"{megabytes(found['sent'])} sent",
        f"Signed with the server's key {found['bundle_key']}",
        "",
        f"Next: splitfrozen-server datasets create NAME --task classification --bundle "
        f"{found['id']}",
    ]


def _send(
    directory: Path, names: list[str], place: str, server: ServerConnection, on_part: OnPart
) -> int:
    """Send some files; returns their bytes."""
    total = sum((directory / name).stat().st_size for name in names)
    done = 0
    for name in names:
        before = done
        report = partial(_report, on_part, before, total)
        server.put_file(f"{place}/files/{name}", directory / name, report)
        done += (directory / name).stat().st_size
    return done


def _missing(state: dict[str, Any], server: ServerConnection) -> list[str]:
    names = _field(state, "missing", list, server)
    return [str(name) for name in names]


def _field(answer: dict[str, Any], name: str, kind: type, server: ServerConnection) -> Any:
    """A field of an answer; whoever answers without it speaks another protocol."""
    if name not in answer or not isinstance(answer[name], kind):
        raise RefusedError(
            "invalid_request", f"{server.server} is no SplitFrozen server: its answer lacks {name}"
        )
    return answer[name]


def _report(on_part: OnPart, before: int, total: int, sent: int) -> None:
    on_part(before + sent, total)
