"""What `bench` found, for people. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any


def bench_lines(found: dict[str, Any]) -> list[str]:
    """A few short tables."""
    return [*_head(found), *_batches(found), *_blocks(found), *_memory(found), *_link(found)]


def _head(found: dict[str, Any]) -> Iterator[str]:
    model = f"{found['base_model']}, blocks 0..{found['cut'] - 1}, precision {found['precision']}"
    yield f"bundle    {model} ({found['bundle'][:12]}…)"
    yield f"device    {found['processor']} ({found['machine']}), {found['cores']} cores"
    yield f"runtime   {found['runtime']}, threads {found['threads']}"
    yield f"profile   {found['profile']} ({found['profile_reason']})"


def _batches(found: dict[str, Any]) -> Iterator[str]:
    yield ""
    yield "batch          ms       CPU s    tokens/s"
    for row in found["batches"]:
        shape = f"{row['examples']} x {row['tokens']}"
        numbers = f"{row['milliseconds']:9.1f} {row['cpu_seconds']:11.4f}"
        yield f"{shape:<8}{numbers} {row['tokens_per_second']:11.0f}"


def _blocks(found: dict[str, Any]) -> Iterator[str]:
    blocks = found["blocks"]
    if blocks is None:
        return
    yield ""
    yield f"part of 1 x {blocks['tokens']}   ms       CPU s    ({blocks['method']})"
    yield f"{'embedding':<11}{blocks['before_ms']:9.2f}"
    pairs = zip(blocks["block_ms"], blocks["block_cpu_seconds"], strict=True)
    for number, (milliseconds, cpu) in enumerate(pairs):
        yield f"{f'block {number}':<11}{milliseconds:9.2f} {cpu:11.4f}"
    yield f"{'wire codec':<11}{blocks['after_ms']:9.2f}"


def _memory(found: dict[str, Any]) -> Iterator[str]:
    yield ""
    for memory, row in found["memory"].items():
        if "error" in row:
            yield f"memory {memory:<7} not measured: {row['error']}"
            continue
        sizes = f"{row['rss_mb']:.0f} MB, of which private {row['anon_mb']:.0f} MB"
        yield f"memory {memory:<7} {sizes} ({row['profile']})"


def _link(found: dict[str, Any]) -> Iterator[str]:
    if found.get("round_trip_ms") is not None:
        yield f"server         round trip {found['round_trip_ms']:.1f} ms"
    speed = found["uplink_bytes_per_second"]
    if speed is None:
        yield "uplink         not known: pushes measure it (this command sends no bulk)"
    else:
        day = datetime.fromtimestamp(found["uplink_measured_at"], UTC).strftime("%Y-%m-%d %H:%M")
        yield f"uplink         {speed / 1e6:.2f} MB/s in the last larger push ({day} UTC)"
    if found["temperature_after"] is not None:
        before, after = found["temperature_before"], found["temperature_after"]
        yield f"temperature    {before:.1f} °C before, {after:.1f} °C after"
