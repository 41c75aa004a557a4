"""What the server's half of split generation costs: latency of a token, streams at once.

    python -m benchmarks.split_steps                         gpt2 shape, cut 4
    python -m benchmarks.split_steps --model DIR --cut 2     any decoder

A real server with its worker on this machine; steps over HTTP as a device sends them, int8 on the
wire. The device's own work is left out of the steps (they carry random activations: speed does not
depend on them), and counted in the first token, whose activations the torch device segment makes.

- `step_ms`: one token of one stream behind the prompt, from request to answer, median;
- `tokens_s_1`, `tokens_s_N`: tokens a second of one stream and of N at once;
- `first_token_ms`: a prompt through the device segment and one step, against
  `whole_first_token_ms`: the same prompt through the whole model in one process.

The last line is one JSON object.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import httpx
import numpy as np
import torch

from benchmarks.shapes import SHAPES, write_shape
from benchmarks.walkthrough.children import Children
from benchmarks.walkthrough.commands import Server, command_path
from splitfrozen.quantize import encode_hidden
from splitfrozen.wire import Shard, encode
from splitfrozen_export.split import (
    ModelSource,
    load_device_segment,
    load_whole_model,
    resolve_model,
)

SESSIONS = "/v1/split/sessions"
PATIENCE = 120.0  # seconds until the worker answers for the first time


@click.command()
@click.option("--model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--model-shape", type=click.Choice(list(SHAPES)), default="gpt2", show_default=True)
@click.option("--cut", type=click.IntRange(1), default=4, show_default=True)
@click.option("--streams", type=click.IntRange(2), default=8, show_default=True)
@click.option("--prompt", type=click.IntRange(1, 512), default=128, show_default=True)
@click.option("--tokens", type=click.IntRange(2), default=48, show_default=True, help="A stream.")
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True)
@click.option("--threads", type=click.IntRange(1), help="Of this process; default: torch's choice.")
def split_steps(
    model: Path | None,
    model_shape: str,
    cut: int,
    streams: int,
    prompt: int,
    tokens: int,
    rounds: int,
    threads: int | None,
) -> None:
    """Measure steps, streams and the first token."""
    if threads is not None:
        torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory(prefix="splitfrozen-steps-") as scratch:
        directory = Path(scratch)
        source = resolve_model((model or write_shape(model_shape, directory / "model")).absolute())
        with Children(directory / "logs", directory) as children:
            client = Client(_serve(children, source.path, cut, directory), source, cut)
            found: dict[str, Any] = {
                "model": model_shape if model is None else str(model),
                "cut": cut,
                "streams": streams,
                "prompt": prompt,
                "threads": torch.get_num_threads(),
                **measure_first_token(client, source, cut, prompt, rounds),
                **measure_streams(client, streams, prompt, tokens),
            }
    for name, value in found.items():
        click.echo(f"  {name:24} {value}")
    click.echo(json.dumps(found))


class Client:
    """A device's requests to a server with one bundle."""

    def __init__(self, server: Server, source: ModelSource, cut: int) -> None:
        token = (server.data_dir / "admin.token").read_text().strip()
        (bundle,) = server.manage("bundles", "list")
        self._bundle = str(bundle["id"])
        self._width = int(source.config.get_text_config().hidden_size)
        self._cut = cut
        self._http = httpx.Client(
            base_url=server.url, headers={"Authorization": f"Bearer {token}"}, timeout=PATIENCE
        )

    def open(self) -> str:
        """Open a session, once the worker is there."""
        body = {"model": "base", "bundle": self._bundle, "seed": 0}
        end = time.monotonic() + PATIENCE
        while (answer := self._http.post(SESSIONS, json=body)).status_code == 503:
            if time.monotonic() > end:
                break
            time.sleep(0.2)
        answer.raise_for_status()
        return str(answer.json()["id"])

    def close(self, session: str) -> None:
        self._http.delete(f"{SESSIONS}/{session}").raise_for_status()

    def step(self, session: str, sequence: int, hidden: np.ndarray[Any, Any]) -> None:
        """Send float32 [tokens, d] and wait for the token."""
        codes, scale = encode_hidden("int8", hidden)
        lengths = np.array([len(hidden)], np.int32)
        shard = Shard(self._bundle, "", self._cut, "int8", "inference", codes, lengths, scale)
        answer = self._http.post(
            f"{SESSIONS}/{session}/steps", params={"sequence": sequence}, content=encode(shard)
        )
        answer.raise_for_status()

    def random(self, tokens: int) -> np.ndarray[Any, Any]:
        """Activations of as many tokens."""
        return np.random.default_rng(tokens).standard_normal((tokens, self._width), np.float32)


def measure_first_token(
    client: Client, source: ModelSource, cut: int, prompt: int, rounds: int
) -> dict[str, float]:
    """Milliseconds to the first token of a prompt: split, and by the whole model."""
    device = load_device_segment(source, cut)
    whole = load_whole_model(source, "causal_lm")
    ids = torch.randint(0, int(source.config.get_text_config().vocab_size), (1, prompt))
    mask = torch.ones_like(ids)

    def split() -> None:
        hidden = np.ascontiguousarray(device(ids, mask)[0].numpy())
        client.step(session, 1, hidden)

    def at_once() -> None:
        whole(input_ids=ids, attention_mask=mask, logits_to_keep=1).logits[0, -1].argmax().item()

    times: dict[str, list[float]] = {"first_token_ms": [], "whole_first_token_ms": []}
    with torch.inference_mode():
        for _ in range(rounds + 1):
            session = client.open()
            for name, work in (("first_token_ms", split), ("whole_first_token_ms", at_once)):
                times[name].append(_milliseconds(work))
            client.close(session)
    medians = {name: statistics.median(each[1:]) for name, each in times.items()}  # one to warm up
    ratio = medians["first_token_ms"] / medians["whole_first_token_ms"]
    return {name: round(value, 1) for name, value in medians.items()} | {
        "first_token_vs_whole": round(ratio, 2)
    }


def measure_streams(client: Client, streams: int, prompt: int, tokens: int) -> dict[str, float]:
    """Latency of a step and tokens a second, of one stream and of several at once."""
    one = client.random(1)
    alone, *rest = (client.open() for _ in range(streams + 1))
    for session in (alone, *rest):
        client.step(session, 1, client.random(prompt))
    numbers = range(2, tokens + 2)
    steps: list[float] = []

    def stream(session: str) -> None:
        for number in numbers:
            began = time.perf_counter()
            client.step(session, number, one)
            steps.append(1000 * (time.perf_counter() - began))

    of_one = 1000 * tokens / _milliseconds(lambda: stream(alone))
    median = statistics.median(steps)
    crew = [threading.Thread(target=stream, args=(session,)) for session in rest]

    def together() -> None:
        for thread in crew:
            thread.start()
        for thread in crew:
            thread.join()

    of_all = 1000 * streams * tokens / _milliseconds(together)
    return {
        "step_ms": round(median, 2),
        "tokens_s_1": round(of_one, 1),
        f"tokens_s_{streams}": round(of_all, 1),
        "streams_vs_one": round(of_all / of_one, 2),
    }


def _serve(children: Children, source: Path, cut: int, directory: Path) -> Server:
    bundle = directory / "bundle"
    command = [command_path("splitfrozen-export"), "--model", str(source), "--cut", str(cut)]
    children.run("export", [*command, "--precision", "fp32", "--output", str(bundle)])
    server = Server.start(children, directory / "state")
    server.manage("models", "add", "base", str(source))
    server.manage("bundles", "add", str(bundle))
    return server


def _milliseconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)


if __name__ == "__main__":
    split_steps()
