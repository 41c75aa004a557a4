"""What `status` knows. Reads the state directory only; asks nobody on the network."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from splitfrozen_edge.daemon.joined import joined_document, load_joined
from splitfrozen_edge.daemon.nowfile import read_now
from splitfrozen_edge.policy.stored import load_policy, policy_document
from splitfrozen_edge.state import StateDirectory, StateError
from splitfrozen_edge.watching.overview import read_watches

_DAEMON = ("running", "pid", "started_at", "updated_at", "last_heartbeat", "last_upload")


def read_status(state: StateDirectory) -> dict[str, Any]:
    """Device, server as last known, daemon, datasets, watched files, policy, bundles.

    JSON-ready, without the token. Sizes in bytes, times in seconds since 1970 or None.
    """
    device = None
    if state.is_enrolled():
        enrolment = state.enrolment()
        device = {"id": enrolment.device, "name": enrolment.name, "server": enrolment.server}
    now = read_now(state.path)
    datasets, bundles = _read_outbox(state)
    return {
        "state_dir": str(state.path),
        "device": device,
        "server": None if now is None else now.get("server"),
        "daemon": None if now is None else _daemon(now),
        "joined": [joined_document(item) for item in load_joined(state.path)],
        "following": [] if now is None else now.get("datasets", []),
        "queued_bytes": sum(item["queued_bytes"] for item in datasets),
        "datasets": datasets,
        "watched": [asdict(item) for item in read_watches(state.path / "watch.sqlite3")],
        "policy": _read_policy(state),
        "bundles": bundles,
    }


def _daemon(now: dict[str, Any]) -> dict[str, Any]:
    """One that does not run waits for nothing."""
    found = {name: now.get(name) for name in _DAEMON}
    running = bool(now["running"])
    return found | {
        "ended_at": now.get("ended_at"),
        "reasons": now.get("reasons", []) if running else [],
        "warnings": now.get("warnings", []) if running else [],
    }


def _read_policy(state: StateDirectory) -> dict[str, Any]:
    """The stored policy, or what is wrong with it: status is what one looks at then."""
    try:
        return policy_document(load_policy(state.path))
    except StateError as error:
        return {"error": str(error)}


def _read_outbox(state: StateDirectory) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    if not (state.path / "outbox.sqlite3").exists():
        return [], []
    outbox = state.outbox()
    try:
        datasets = [asdict(item) for item in outbox.datasets()]
        bundles = [
            {"id": known, "directory": str(path), "bytes": _size(path)}
            for known, path in outbox.bundles()
        ]
    finally:
        outbox.close()
    return datasets, bundles


def _size(directory: Path) -> int | None:
    """Of the files of a bundle; None if it is gone."""
    try:
        with os.scandir(directory) as entries:
            return sum(entry.stat().st_size for entry in entries if entry.is_file())
    except OSError:
        return None
