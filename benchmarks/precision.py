"""What each precision costs, on real weights and held-out text: one table for each model.

    python -m benchmarks.precision                        MiniLM cut 4, and stories260K cut 2
    python -m benchmarks.precision --model DIR --cut 3    any model

The last line is one JSON object. Exit codes: 0 measured, 2 wrong usage or missing input.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from benchmarks.real_inputs import RealInputError, data_root
from splitfrozen.errors import SplitFrozenError

_COLUMNS = (
    "profile",
    "MB",
    "error",
    "worst token",
    "least cosine",
    "gradient cosine",
    "over the wire",
)


@click.command()
@click.option("--model", help="Hub id or directory.  [default: MiniLM, and stories260K]")
@click.option("--cut", type=click.IntRange(1), help="Blocks on the device; goes with --model.")
@click.option(
    "--data-root",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder with data/ and models/.  [default: SPLITFROZEN_TEST_DATA, or ../shared]",
)
@click.option("--quick", is_flag=True, help="Fewer texts, no variants.")
def precision(model: str | None, cut: int | None, data_root: Path | None, quick: bool) -> None:
    """Measure every precision of the device segment."""
    if (model is None) != (cut is None):
        raise click.UsageError("--model and --cut go together")
    from benchmarks.fidelity.subjects import choose_models

    found: dict[str, Any] = {}
    for name, blocks in choose_models(model, cut, data_root):
        found[f"{Path(name).name} cut {blocks}"] = _measure(name, blocks, data_root, quick)
    click.echo(json.dumps({"quick": quick, "models": found}))


def _measure(model: str, cut: int, option: Path | None, quick: bool) -> dict[str, Any]:
    from benchmarks.fidelity.profiles import Bench
    from benchmarks.fidelity.subjects import choose_texts
    from splitfrozen_export.split import resolve_model

    source = resolve_model(model)
    texts = choose_texts(source, data_root(option), quick=quick)
    tokens = sum(map(len, texts.held_out))
    click.echo(
        f"\n{Path(model).name} cut {cut}: {len(texts.held_out)} held-out texts of "
        f"{texts.name}, {tokens} tokens; calibrated on {len(texts.calibration)} others\n"
    )
    click.echo(_line([*_COLUMNS, *(f"gap {name[:11]}" for name in texts.windows)]))
    rows = []
    with tempfile.TemporaryDirectory(prefix="splitfrozen-precision-") as directory:
        for row in Bench(source, cut, texts).measure(Path(directory), quick=quick):
            rows.append(asdict(row))
            click.echo(_line(_cells(rows[-1])))
    return {"texts": texts.name, "tokens": tokens, "profiles": rows}


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        row["profile"],
        f"{row['megabytes']:.1f}",
        f"{row['relative_error']:.4f}",
        f"{row['worst_token']:.4f}",
        f"{row['cosine_min']:.5f}",
        f"{row['gradient_cosine']:.5f}",
        f"{row['wire_gradient_cosine']:.5f}",
        *(f"{gap:+.4f}" for gap in row["loss_gap"].values()),
    ]


def _line(cells: Sequence[str]) -> str:
    first, *others = cells
    return f"{first:20}" + "".join(f"{cell:>17}" for cell in others)


def main() -> None:
    """Run the command and leave with a documented exit code."""
    try:
        precision.main(standalone_mode=False)
    except (RealInputError, SplitFrozenError, FileNotFoundError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(2)


if __name__ == "__main__":
    main()
