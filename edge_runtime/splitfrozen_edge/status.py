"""What `status` shows. Reads the state directory only; asks nobody on the network."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from splitfrozen_edge.state import StateDirectory


def read_status(state: StateDirectory) -> dict[str, Any]:
    """Device, datasets with their counts, bundles; JSON-ready, without the token."""
    device = None
    if state.is_enrolled():
        enrolment = state.enrolment()
        device = {"id": enrolment.device, "name": enrolment.name, "server": enrolment.server}
    if not (state.path / "outbox.sqlite3").exists():
        return _document(state, device, [], [])
    outbox = state.outbox()
    try:
        datasets = [asdict(item) for item in outbox.datasets()]
        bundles = [{"id": known, "directory": str(path)} for known, path in outbox.bundles()]
    finally:
        outbox.close()
    return _document(state, device, datasets, bundles)


def _document(
    state: StateDirectory,
    device: dict[str, str] | None,
    datasets: list[dict[str, Any]],
    bundles: list[dict[str, str]],
) -> dict[str, Any]:
    return {
        "state_dir": str(state.path),
        "device": device,
        "queued_bytes": sum(item["queued_bytes"] for item in datasets),
        "datasets": datasets,
        "bundles": bundles,
    }


def status_lines(status: dict[str, Any]) -> list[str]:
    """For a person."""
    device = status["device"]
    who = f"{device['name']} ({device['id']}) at {device['server']}" if device else "not enrolled"
    lines = [f"device   {who}", f"state    {status['state_dir']}"]
    for item in status["datasets"]:
        waiting = f"{item['queued_examples']} examples wait in {item['queued_shards']} shards"
        size = f"{item['queued_bytes'] / 1e6:.1f} MB"
        lines.append(f"dataset  {item['name']}: {item['done_examples']} sent, {waiting} ({size})")
    lines += [f"bundle   {item['id'][:12]}…  {item['directory']}" for item in status["bundles"]]
    return lines
