"""Where the time of a token goes when a device and a server generate it together.

    python -m benchmarks.split_generation                         gpt2 shape, cut 4, int8
    python -m benchmarks.split_generation --model DIR --cut 2     any decoder with a tokenizer

Starts a real server on the loopback, publishes a bundle, enrols a device and runs
`splitfrozen-edge generate` after one run that warms everything up. The device's time is that of
its graph; the server's is that of its API and worker, by its own /metrics; what is left of a step
is the way: compression, HTTP on both sides and the loopback. A real network adds its round trip.
Device and server share this machine's cores, but never work at the same time. A gpt2 shape has
random weights and, without --tokenizer, cannot be fed a text; speed does not depend on either.

The last line is one JSON object.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.shapes import SHAPES, write_shape
from benchmarks.walkthrough.children import Children
from benchmarks.walkthrough.commands import Server, command_path, export_bundle
from splitfrozen.manifest import MANIFEST_NAME

NAME = "measured"


@dataclass(frozen=True)
class Asked:
    """What is generated."""

    prompt: str
    tokens: int
    threads: int
    rounds: int


@click.command()
@click.option("--model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--model-shape", type=click.Choice(list(SHAPES)), default="gpt2", show_default=True)
@click.option(
    "--bundle",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Exported already; if omitted, int8 of --model and --cut.",
)
@click.option("--tokenizer", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--cut", type=click.IntRange(1), default=4, show_default=True)
@click.option("--words", type=click.IntRange(1), default=120, show_default=True)
@click.option("--tokens", type=click.IntRange(2), default=64, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
def split_generation(
    model: Path | None,
    model_shape: str,
    bundle: Path | None,
    tokenizer: Path | None,
    cut: int,
    words: int,
    tokens: int,
    threads: int,
    rounds: int,
) -> None:
    """Measure the shares of device, way and server in a prefill and in a token."""
    prompt = " ".join(("the", "red", "bird", "and")[place % 4] for place in range(words))
    asked = Asked(prompt, tokens, threads, rounds)
    with tempfile.TemporaryDirectory(prefix="splitfrozen-split-") as scratch:
        directory = Path(scratch)
        source = model or write_shape(model_shape, directory / "model")
        if tokenizer is not None:
            shutil.copy(tokenizer, source / "tokenizer.json")
        with Children(directory / "logs", directory) as children:
            if bundle is None:
                bundle = directory / "bundle"
                export_bundle(children, str(source), cut, bundle, lambda line: None)
            server = Server.start(children, directory / "state")
            measured = _measure(children, server, source, bundle, asked)
            found: dict[str, Any] = {"model": str(model or model_shape), "threads": threads}
            manifest = json.loads((bundle / MANIFEST_NAME).read_bytes())
            found |= {name: manifest[name] for name in ("cut", "precision")}
            found |= measured
    for name, value in found.items():
        click.echo(f"{name:24} {value}")
    click.echo(json.dumps(found))


def _measure(
    children: Children, server: Server, source: Path, bundle: Path, asked: Asked
) -> dict[str, Any]:
    server.manage("models", "add", NAME, str(source))
    server.manage("bundles", "add", str(bundle))
    token = server.manage("tokens", "create", "--role", "enrol")["token"]
    edge = [command_path("splitfrozen-edge")]
    home = ["--state-dir", str(server.data_dir.with_name("edge"))]
    where = ["--server", server.url, "--token", token, "--name", "pi"]
    children.run("enroll", [*edge, "enroll", *home, *where])
    command = [*edge, "generate", *home, "--model", NAME, "--bundle", str(bundle)]
    command += ["--prompt", asked.prompt, "--threads", str(asked.threads), "--seed", "1"]
    command += ["--max-tokens", str(asked.tokens), "--format", "json"]
    runs = []
    for _ in range(asked.rounds + 1):
        before = _served(server.url)
        document = json.loads(children.run("generate", command))
        after = _served(server.url)
        runs.append(shares(document, after[0] - before[0], after[1] - before[1]))
    return {name: statistics.median(run[name] for run in runs[1:]) for name in runs[0]}


def shares(document: dict[str, Any], served: float, count: float) -> dict[str, float]:
    """Milliseconds; `served`: the server's seconds for all `count` steps, prefill included."""
    timing = document["timing"]
    steps = timing["steps"]
    wait = timing["step_wait"] + timing["prefill_wait"]
    way = (wait - served) / count
    of_server = timing["step_wait"] / steps - way
    device = timing["step_device"] / steps
    token = device + timing["step_wait"] / steps
    milliseconds = {
        "prompt_tokens": document["usage"]["prompt_tokens"],
        "prefill_device_ms": 1e3 * timing["prefill_device"],
        "prefill_wait_ms": 1e3 * timing["prefill_wait"],
        "token_ms": 1e3 * token,
        "token_device_ms": 1e3 * device,
        "token_way_ms": 1e3 * way,
        "token_server_ms": 1e3 * of_server,
        "device_share": device / token,
        "way_share": way / token,
        "server_share": of_server / token,
    }
    return {name: round(value, 3) for name, value in milliseconds.items()}


def _served(url: str) -> tuple[float, float]:
    """(seconds, requests) of all steps so far."""
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    found = {}
    for kind in ("sum", "count"):
        start = f"splitfrozen_request_seconds_{kind}{{"
        values = [line.split()[-1] for line in lines if line.startswith(start) and "/steps" in line]
        found[kind] = sum(map(float, values))
    return found["sum"], found["count"]


if __name__ == "__main__":
    split_generation()
