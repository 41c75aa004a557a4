"""Peak memory of `splitfrozen-export`, and what it reads, on models whose upper part is holes.

`python -m benchmarks.export_memory --shape llama-3.1-8b --cut 2` writes the model (or takes
`--model DIR` of an earlier run with the same shape and cut), empties the page cache of its files,
exports in a process of its own, and reports:

- the peak resident memory of that process, as the kernel counts it (`ru_maxrss`), with all that
  it imports, against the fp32 size of the device segment;
- which pages of the weight files are in the page cache afterwards (`mincore`): they were read.
  Pages that hold no byte of the device segment and of no header were read for nothing. The kernel
  reads a little ahead of what it is asked for, so a few hundred KB of them are nobody's fault.

The last line is one JSON object.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from benchmarks.sparse_model import SHAPES, Place, read_places, write_sparse_model

FP32_OVER_BF16 = 2
LIMITS = {"llama-3.1-8b": (1.5, 700.0), "llama-3.2-1b": (1.0, 400.0)}  # times the segment, + MB
_EXPORT = "from splitfrozen_export.cli import main; main()"
_PAGE = mmap.PAGESIZE
_SAMPLE_SECONDS = 0.05


@dataclass
class Run:
    """One export, from outside."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_mb: float = 0.0
    steps: dict[str, tuple[float, float]] = field(default_factory=dict)  # name -> seconds, peak MB


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), required=True)
@click.option("--cut", type=click.IntRange(min=1), required=True)
@click.option("--precision", default="int8", show_default=True)
@click.option("--model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--threads", default=1, show_default=True)
@click.argument("more", nargs=-1, type=click.UNPROCESSED)
def main(
    shape: str, cut: int, precision: str, model: Path | None, threads: int, more: tuple[str, ...]
) -> None:
    """Measure one export; what follows `--` goes to splitfrozen-export."""
    with _model(shape, cut, model) as (directory, places):
        forget_files(directory, places)
        with tempfile.TemporaryDirectory(prefix="splitfrozen-memory-") as output:
            arguments = ["--model", str(directory), "--cut", str(cut), "--precision", precision]
            bundle = Path(output) / "bundle"
            run = export([*arguments, "--output", str(bundle), *more], threads)
            size = sum(path.stat().st_size for path in bundle.iterdir())
        read, outside = read_bytes(directory, places)
    segment = sum(place.size for place in places if place.segment) * FP32_OVER_BF16
    result = _result(shape, segment, run, read, outside)
    for name, (seconds, peak) in run.steps.items():
        click.echo(f"{seconds:8.1f} s  {peak:8.0f} MB  {name}")
    click.echo(
        json.dumps(
            {
                "shape": shape,
                "cut": cut,
                "precision": precision,
                **result,
                "bundle_mb": round(size / 1e6, 1),
            }
        )
    )


def export(arguments: Sequence[str], threads: int) -> Run:
    """Run splitfrozen-export to its end. Raises RuntimeError with what it said when it fails."""
    run, said = Run(), [(time.monotonic(), "starting")]
    process = subprocess.Popen(
        [sys.executable, "-c", _EXPORT, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    begin = time.monotonic()
    lines: list[str] = []
    listener = threading.Thread(target=_listen, args=(process.stderr, said, lines))
    listener.start()
    while True:
        _sample(process.pid, said, run)
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        time.sleep(_SAMPLE_SECONDS)
    listener.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"splitfrozen-export failed ({process.returncode}):\n{''.join(lines)}")
    run.seconds = time.monotonic() - begin
    run.cpu_seconds = usage.ru_utime + usage.ru_stime
    run.peak_mb = usage.ru_maxrss * 1024 / 1e6  # Linux counts in KiB
    return run


def read_bytes(directory: Path, places: Sequence[Place]) -> tuple[int, int]:
    """Bytes of the weight files in the page cache: all, and those on pages without the segment."""
    resident = outside = 0
    for file in sorted({place.file for place in places}):
        pages = _resident_pages(directory / file)
        meant = bytearray(len(pages))
        mine = [place for place in places if place.file == file]
        header = (0, min(place.start for place in mine))
        spans = [(p.start, p.start + p.size) for p in mine if p.segment]
        for begin, end in (header, *spans):
            first, last = begin // _PAGE, -(-end // _PAGE)
            meant[first:last] = b"\1" * (last - first)
        resident += sum(pages) * _PAGE
        outside += sum(r and not m for r, m in zip(pages, meant, strict=True)) * _PAGE
    return resident, outside


def _resident_pages(path: Path) -> bytes:
    """One byte, 0 or 1, for each page of a file: whether it is in the page cache."""
    libc = ctypes.CDLL(None, use_errno=True)
    size = path.stat().st_size
    answer = (ctypes.c_ubyte * -(-size // _PAGE))()
    with path.open("r+b") as file, mmap.mmap(file.fileno(), size) as mapped:
        view = ctypes.c_char.from_buffer(mapped)
        address = ctypes.c_void_p(ctypes.addressof(view))
        failed = libc.mincore(address, ctypes.c_size_t(size), answer)
        del view
    if failed:
        raise OSError(ctypes.get_errno(), "mincore")
    return bytes(page & 1 for page in answer)


def forget_files(directory: Path, places: Sequence[Place]) -> None:
    """Drop the weight files from the page cache, so that what is there later was read."""
    for file in {place.file for place in places}:
        with (directory / file).open("r+b") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    _, outside = read_bytes(directory, places)
    if outside:
        raise RuntimeError(f"{outside} bytes of {directory} stay in the page cache")


@contextmanager
def _model(shape: str, cut: int, known: Path | None) -> Iterator[tuple[Path, list[Place]]]:
    if known is not None:
        yield known, read_places(known, cut)
        return
    with tempfile.TemporaryDirectory(prefix="splitfrozen-sparse-") as directory:
        model = Path(directory) / "model"
        yield model, write_sparse_model(shape, cut, model)


def _listen(stream: Any, said: list[tuple[float, str]], lines: list[str]) -> None:
    for line in stream:
        lines.append(line)
        plain = re.sub(r"[\d.]+ ?%?|\s+", " ", line).strip()[:60]
        if plain and plain != said[-1][1]:
            said.append((time.monotonic(), plain))


def _sample(pid: int, said: list[tuple[float, str]], run: Run) -> None:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    if found is not None:
        since, name = said[-1]
        _, peak = run.steps.get(name, (0.0, 0.0))
        now = time.monotonic()
        run.steps[name] = (now - since, max(peak, int(found[1]) * 1024 / 1e6))


def _result(shape: str, segment: int, run: Run, read: int, outside: int) -> dict[str, Any]:
    factor, extra = LIMITS[shape]
    segment_mb = segment / 1e6
    limit = factor * segment_mb + extra
    return {
        "peak_mb": round(run.peak_mb),
        "segment_fp32_mb": round(segment_mb),
        "peak_over_segment_mb": round(run.peak_mb - segment_mb),
        "limit_mb": round(limit),
        "within_limit": run.peak_mb <= limit,
        "read_mb": round(read / 1e6, 1),
        "read_outside_segment_mb": round(outside / 1e6, 3),
        "seconds": round(run.seconds, 1),
        "cpu_seconds": round(run.cpu_seconds, 1),
    }


if __name__ == "__main__":
    main()
