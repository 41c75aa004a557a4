"""`generate`."""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from splitfrozen_edge.commands.generation import (
    Ask,
    ended_line,
    generation_options,
    open_generation,
)
from splitfrozen_edge.options import find_state, format_option, state_option

if TYPE_CHECKING:
    from splitfrozen_edge.inference.generate import Generation
    from splitfrozen_edge.inference.split_text import SplitText


@click.command(short_help="Continue a text together with the server.")
@state_option
@click.option("--prompt", metavar="TEXT", help="The text to continue.")
@click.option(
    "--prompt-file",
    type=click.File("r", encoding="utf-8"),
    help="Where the text is; - is standard input, which is also read without either flag.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    help="Tokens of the answer, at most.",
)
@click.option("--stop", multiple=True, metavar="TEXT", help="End before this; may be repeated.")
@click.option(
    "--logprobs",
    type=click.IntRange(0, 20),
    default=0,
    show_default=True,
    help="With --format json: likeliest alternatives listed for every token.",
)
@generation_options
@format_option
@click.pass_context
def generate(
    context: click.Context,
    /,
    *,
    state_dir: Path | None,
    prompt: str | None,
    prompt_file: TextIO | None,
    max_tokens: int,
    stop: tuple[str, ...],
    form: str,
    **rest: Any,
) -> None:
    """Continue a text: the first blocks run here, the rest on the server. Tokens appear as they
    come; what is printed begins where the prompt ends. A prompt from a file loses its last line
    break.

    No token of the prompt leaves this device, its activations do: whoever runs the server can
    reconstruct the prompt from them. The server draws the tokens of the answer.

    A broken connection or a restarted server does not show: the text goes on where it was. Ctrl-C
    ends it and deletes the session on the server.
    """
    from splitfrozen_edge.inference.generate import Generation

    ask = Ask(**rest)
    if ask.logprobs and form != "json":
        raise click.UsageError("--logprobs needs --format json")
    begin = _read_prompt(prompt, prompt_file)
    state = find_state(context, state_dir)
    with open_generation(ask, state, threading.Event()) as (text, writer):
        ids = writer.encode_prompt(begin)
        generation = Generation(text, ids, writer.decode, max_tokens=max_tokens, stop=stop)
        if form == "json":
            answer = "".join(generation)
            click.echo(json.dumps(_document(ask, text, len(ids), answer, generation)))
            return
        with ended_line() as shown:
            for piece in generation:
                shown(piece)


def _read_prompt(prompt: str | None, file: TextIO | None) -> str:
    if prompt is not None and file is not None:
        raise click.UsageError("say either --prompt or --prompt-file")
    if prompt is not None:
        return prompt
    if file is None and sys.stdin.isatty():
        raise click.UsageError("say --prompt or --prompt-file, or pipe the prompt in")
    stream = click.open_file("-", encoding="utf-8") if file is None else file
    try:
        return str(stream.read()).removesuffix("\n")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"the prompt is not UTF-8: {error}") from None


def _document(
    ask: Ask, text: SplitText, prompt_tokens: int, answer: str, generation: Generation
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "model": ask.model,
        "text": answer,
        "finish_reason": generation.finish_reason,
        "seed": text.seed,
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": len(generation.steps)},
        "timing": asdict(text.timing),
    }
    if ask.logprobs:
        found["tokens"] = [
            {
                "token": step.token,
                "logprob": step.logprob,
                "top_logprobs": [asdict(item) for item in step.alternatives],
            }
            for step in generation.steps
        ]
    return found
