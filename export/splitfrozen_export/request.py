"""What a user can ask the exporter for, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from splitfrozen.errors import SplitFrozenError
from splitfrozen.manifest import MANIFEST_NAME, Manifest
from splitfrozen_export.bundle import KIND, RECORD, check_target

AUTO = "auto"  # in `keep_fp`: the layers that calibration finds hard


@dataclass(frozen=True)
class Request:
    """What to export and how."""

    model: str  # Hub id or directory
    cut: int  # blocks on the device; 0 with `whole`, which cuts nothing
    output: Path  # directory of the bundle
    precision: str = "int8"
    wire: str = "int8"
    revision: str | None = None
    trust_remote_code: bool = False
    max_length: int | None = None  # tokens; None: 512 or what the model has
    max_error: float | None = None  # relative; None: the precision's own limit
    opset: int | None = None  # None: the newest that works
    prove: str = "auto"  # twin: a random twin only; full: the weights too; auto: if they fit
    eval_text: Path | None = None  # one text a line; None: built-in sentences
    force: bool = False  # replace a bundle
    embedding: str | None = None  # precision of the embedding tables; None: what goes with it
    calibrate: Path | None = None  # JSON lines whose texts show what activations look like
    keep_fp: tuple[str, ...] = ()  # layers that stay fp32: names, patterns, AUTO
    reduce_range: bool = False  # 7-bit weights, for x86 without VNNI
    target: str = "cpu"  # what the graph's operators must run on: cpu, web
    generation: bool = True  # of a decoder also the graph that takes past keys and values
    eval: Path | None = None  # plain text on which a decoder's loss is measured
    max_loss_gap: float | None = None  # nats per token; None: the precision's own limit
    dry_run: bool = False  # plan only: read no weight, write nothing
    whole: bool = False  # all blocks and the head: a model that needs no server
    segment: str = "device"  # which half: device, server
    adapter: Path | None = None  # LoRA to merge into the whole model or the server half


@dataclass(frozen=True)
class Result:
    """A written bundle."""

    directory: Path
    id: str  # SHA-256 of its manifest, hex
    manifest: Manifest


def check_request(request: Request) -> None:
    """Refuse wishes that do not go together.

    Raises SplitFrozenError `invalid_request` naming both options and what to do.
    """
    for name, wrong, reason in _conflicts(request):
        if wrong:
            raise SplitFrozenError("invalid_request", reason, param=name)


def check_output(request: Request) -> None:
    """Refuse an output that is taken; errors as those of `check_target`."""
    home = request.whole or request.segment == "server"
    check_target(
        request.output,
        force=request.force,
        marker=RECORD if home else MANIFEST_NAME,
        kind=KIND if home else "bundle",
        recover=not request.dry_run,
    )


def _conflicts(request: Request) -> list[tuple[str, bool, str]]:
    server = request.segment == "server"
    home = request.whole or server
    int8 = request.precision == "int8"
    fp32 = request.precision == "fp32"
    return [
        (
            "cut",
            request.cut < 1 and not request.whole,
            "--cut says how many blocks run on the device: give it, or --whole for a model that "
            "needs no server",
        ),
        (
            "segment",
            request.whole and server,
            "--whole writes all blocks, --segment server the upper ones: give one of the two",
        ),
        (
            "adapter",
            request.adapter is not None and not home,
            "--adapter changes only the blocks above the cut, which a device bundle does not "
            "hold: give it with --whole or --segment server",
        ),
        (
            "calibrate",
            request.calibrate is not None and fp32,
            "--calibrate makes coded products more exact, and with --precision fp32 none is coded",
        ),
        (
            "reduce_range",
            request.reduce_range and not int8,
            "--reduce-range is about the integer products of --precision int8; "
            f"{request.precision} has none",
        ),
        (
            "keep_fp",
            bool(request.keep_fp) and fp32,
            "--keep-fp keeps layers in fp32, and with --precision fp32 all of them are",
        ),
        (
            "keep_fp",
            AUTO in request.keep_fp and request.calibrate is None,
            "--keep-fp auto finds the layers with outliers in texts: give --calibrate FILE.jsonl",
        ),
        (
            "max_loss_gap",
            request.max_loss_gap is not None and request.eval is None,
            "--max-loss-gap limits what --eval FILE measures: give both",
        ),
    ]
