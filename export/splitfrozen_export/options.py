"""The options of splitfrozen-export, in the groups in which its help shows them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from splitfrozen.manifest import PRECISIONS

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


class SectionOption(click.Option):
    """An option that belongs under a heading of the help page."""

    def __init__(self, *arguments: Any, section: str, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.section = section


class SectionedCommand(click.Command):
    """A command whose help lists its options under their headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one list per heading, in the order of first appearance."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                heading = getattr(parameter, "section", "Other")
                sections.setdefault(heading, []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def export_options(command: Decorated) -> Decorated:
    """All options of the export but --help and --version."""
    for option in reversed((*_WHAT, *_PRECISION, *_CHECKS, *_HOME, *_RUN)):
        command = option(command)
    return command


def _option(section: str, *names: str, **attributes: Any) -> Callable[[Decorated], Decorated]:
    return click.option(*names, cls=SectionOption, section=section, **attributes)


_WHAT = (
    _option(
        "Model and bundle",
        "--model",
        required=True,
        metavar="MODEL",
        help="Hub id or directory of a model.",
    ),
    _option(
        "Model and bundle",
        "--cut",
        type=click.IntRange(min=1),
        help="Blocks that run on the device.  [required, but for --whole]",
    ),
    _option(
        "Model and bundle",
        "--output",
        required=True,
        metavar="DIRECTORY",
        type=click.Path(path_type=Path, file_okay=False),
        help="Where the bundle goes; it must not exist yet.",
    ),
    _option("Model and bundle", "--force", is_flag=True, help="Replace a bundle that is there."),
    _option("Model and bundle", "--revision", help="Branch, tag or commit on the Hub."),
    _option(
        "Model and bundle",
        "--trust-remote-code",
        is_flag=True,
        help="Run modelling code that comes with the model.",
    ),
    _option(
        "Model and bundle",
        "--max-length",
        type=click.IntRange(min=1),
        help="Tokens of an example at most.  [default: 512, or what the model has]",
    ),
    _option(
        "Model and bundle",
        "--wire",
        type=click.Choice(["fp32", "bf16", "int8"]),
        default="int8",
        show_default=True,
        help="How activations travel. int8: one scale per 64 channels.",
    ),
    _option(
        "Model and bundle",
        "--no-generation",
        "generation",
        flag_value=False,
        default=True,
        help="Leave out the graph that answers token by token over the same weights; only "
        "decoders have one.",
    ),
    _option(
        "Model and bundle",
        "--opset",
        type=click.IntRange(min=18),
        help="ONNX operator set.  [default: 23, else 20; 23 needs ONNX Runtime 1.24 on the device]",
    ),
    _option(
        "Model and bundle",
        "--target",
        type=click.Choice(["cpu", "web"]),
        default="cpu",
        show_default=True,
        help="Where the graph must be fast. The same graph is fastest in both, so web changes "
        "nothing today.",
    ),
)

_PRECISION = (
    _option(
        "Precision",
        "--precision",
        type=click.Choice(PRECISIONS),
        default="int8",
        show_default=True,
        help="Arithmetic on the device. int8: fastest, a quarter of the size. int8-hq: closest "
        "to fp32, slower. int4: smaller, 4 bits in attention. int4-all: smallest, least exact.",
    ),
    _option(
        "Precision",
        "--embedding",
        type=click.Choice(["fp32", "int8", "int4"]),
        help="Embedding tables, often half of the file.  [default: what goes with the precision]",
    ),
    _option(
        "Precision",
        "--calibrate",
        type=_FILE,
        metavar="FILE.jsonl",
        help="Make the coded layers more exact: smooth outliers that show up in these rows (text, "
        "or prompt and completion). A few dozen typical ones are enough.",
    ),
    _option(
        "Precision",
        "--keep-fp",
        multiple=True,
        metavar="LAYER",
        help="Keep this layer in fp32, for example h.0.mlp.c_proj or '*.c_proj'; repeatable. "
        "auto: those that --calibrate finds hard.",
    ),
    _option(
        "Precision",
        "--reduce-range",
        is_flag=True,
        help="7-bit weights, for old x86 devices whose int8 products saturate (no VNNI).",
    ),
)

_CHECKS = (
    _option(
        "Checks",
        "--prove",
        type=click.Choice(["auto", "full", "twin"]),
        default="auto",
        show_default=True,
        help="Prove the cut on a random twin only, on the full weights too, or (auto) if they are "
        "small.",
    ),
    _option(
        "Checks",
        "--eval-text",
        type=_FILE,
        metavar="FILE",
        help="Compare graph and torch on these texts, one a line; of many, on 8 spread over the "
        "file.  [default: built-in sentences]",
    ),
    _option(
        "Checks",
        "--eval",
        type=_FILE,
        metavar="FILE",
        help="Measure on this text how much of a decoder's loss the precision costs, in the device "
        "segment or the whole model.",
    ),
    _option(
        "Checks",
        "--max-error",
        type=click.FloatRange(min=0),
        metavar="ERROR",
        help="Relative error of the activations, or of the logits, that is accepted.  "
        "[default: by precision, int8 0.08]",
    ),
    _option(
        "Checks",
        "--max-loss-gap",
        type=click.FloatRange(min=0),
        metavar="NATS",
        help="Loss per token that --eval may find lost.  [default: by precision]",
    ),
)

_HOME = (
    _option(
        "Instead of a device bundle",
        "--whole",
        is_flag=True,
        help="Write the complete model, which then needs no server.",
    ),
    _option(
        "Instead of a device bundle",
        "--segment",
        type=click.Choice(["device", "server"]),
        default="device",
        show_default=True,
        help="server: write the blocks above the cut and the head.",
    ),
    _option(
        "Instead of a device bundle",
        "--adapter",
        type=click.Path(path_type=Path, file_okay=False, exists=True),
        metavar="DIRECTORY",
        help="Merge this trained LoRA adapter into what --whole or --segment server writes.",
    ),
)

_RUN = (
    _option(
        "Other",
        "--dry-run",
        is_flag=True,
        help="Say what would be made, how large, and stop; no weights are read or downloaded.",
    ),
    _option(
        "Other",
        "--format",
        "output_format",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="Summary for a person, or one JSON object.",
    ),
)
