"""Watching a job from the command line: live events through dropped connections; the download."""

from __future__ import annotations

import io
import json
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from splitfrozen_server.client import ServerClient, UnreachableError

ENDED = ("succeeded", "failed", "cancelled")
RETRIES = 20  # attempts in a row without a single event
PAUSE = 1.0  # seconds between attempts


def follow(
    client: ServerClient, job_id: str, show: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Show every event until the job ends and return the job.

    A connection that breaks is taken up again after the last event seen.
    """
    last, failures = "", 0
    while True:
        try:
            for event in _stream(client, job_id, last):
                show(event)
                last, failures = event["id"], 0
            job: dict[str, Any] = client.get(f"/v1/fine_tuning/jobs/{job_id}")
            if job["status"] in ENDED:
                return job
        except UnreachableError:
            failures += 1
            if failures > RETRIES:
                raise
        time.sleep(PAUSE)


def print_json(event: dict[str, Any]) -> None:
    """One event as one line of JSON."""
    click.echo(json.dumps(event, ensure_ascii=False))


def print_text(*, err: bool = False) -> Callable[[dict[str, Any]], None]:
    """Prints one event as a line with its time, to standard output or error."""

    def show(event: dict[str, Any]) -> None:
        clock = time.strftime("%H:%M:%S", time.localtime(event["created_at"]))
        click.echo(f"{clock}  {event['message']}", err=err)

    return show


def download_adapter(client: ServerClient, job: dict[str, Any], output: Path) -> list[str]:
    """Unpack the job's adapter into `output` and return the names of its files."""
    files = [client.get(f"/v1/files/{file_id}") for file_id in job["result_files"]]
    (packed,) = [file for file in files if file["purpose"] == "adapter"]
    with client.stream(f"/v1/files/{packed['id']}/content") as answer:
        content = answer.read()
    output.mkdir(parents=True, exist_ok=True)
    names = []
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        for member in archive.getmembers():
            name = Path(member.name).name  # plain files only, whatever the archive says
            file = archive.extractfile(member)
            if file is not None and name == member.name:
                (output / name).write_bytes(file.read())
                names.append(name)
    return names


def _stream(client: ServerClient, job_id: str, last: str) -> Iterator[dict[str, Any]]:
    headers = {"Accept": "text/event-stream"}
    if last:
        headers["Last-Event-ID"] = last
    with client.stream(f"/v1/fine_tuning/jobs/{job_id}/events", headers=headers) as answer:
        yield from _parse(answer.iter_lines())


def _parse(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Server-sent events -> their data; comments (signs of life) are skipped."""
    data: list[str] = []
    for line in lines:
        if line.startswith("data:"):
            data.append(line.removeprefix("data:").removeprefix(" "))
        elif not line and data:
            yield json.loads("\n".join(data))
            data = []
