"""The pure parts of the footprint benchmark, and that it can weigh a real environment."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from benchmarks.edge_footprint import PARTS, TARGETS, find_missed
from benchmarks.footprint.clean import INSTALLERS, total, weigh
from benchmarks.footprint.process import (
    ProcessError,
    cpu_seconds,
    parse_cpu,
    parse_rollup,
    watch,
)
from benchmarks.footprint.rows import LABELS, write_rows


def write_package(site: Path, name: str, size: int) -> None:
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (site / f"{name}.py").write_bytes(os.urandom(size))
    files = (f"{name}.py,,", f"{info.name}/METADATA,,", f"{info.name}/RECORD,,")
    (info / "RECORD").write_text("\n".join(files) + "\n")


def test_packages_are_weighed_by_what_they_take_on_the_disk(tmp_path: Path) -> None:
    for name, size in (("small", 10), ("large", 3_000_000), ("pip", 9_000_000)):
        write_package(tmp_path, name, size)
    found = weigh(tmp_path)
    assert list(found) == ["large", "small"]
    assert 3.0 <= found["large"] < 3.1
    assert found["small"] < 0.1
    (tmp_path / "left-over").write_bytes(os.urandom(1_000_000))
    assert 4.0 <= total(tmp_path, found) < 4.2  # without pip, with what no package names
    assert "pip" in INSTALLERS


def test_memory_is_read_as_the_kernel_writes_it() -> None:
    text = "00400000-7ffc5 ---p 00000000 00:00 0   [rollup]\nRss:   8 kB\nAnonymous:    4 kB\n"
    assert parse_rollup(text) == {"Rss": 8192, "Anonymous": 4096}


def test_cpu_time_is_read_behind_any_name() -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    stat = f"1 (a b) c) S 0 0 0 0 0 0 0 0 0 0 {3 * ticks} {ticks} 0 0"
    assert parse_cpu(stat) == 4.0
    assert cpu_seconds(os.getpid()) > 0


def test_a_process_is_observed_to_its_end() -> None:
    code = "x = bytearray(b'1') * 60_000_000; import time; time.sleep(0.3); print(len(x))"
    seen = watch([sys.executable, "-c", code], memory=True)
    assert seen.output == "60000000\n"
    assert 60_000_000 < seen.anonymous <= seen.rss
    assert seen.wall_seconds >= 0.3
    assert seen.cpu_seconds > 0
    assert seen.looks > 3


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(ProcessError, match=r"ended with 1: (.|\n)*no such thing"):
        watch([sys.executable, "-c", "raise SystemExit('no such thing')"])


def test_rows_are_the_same_for_the_same_seed_and_all_different(tmp_path: Path) -> None:
    one = write_rows(tmp_path / "1", 200, words=(3, 9), seed=1).read_text()
    assert one == write_rows(tmp_path / "2", 200, words=(3, 9), seed=1).read_text()
    assert one != write_rows(tmp_path / "3", 200, words=(3, 9), seed=2).read_text()
    rows = [json.loads(line) for line in one.splitlines()]
    assert len({row["text"] for row in rows}) == 200
    assert {row["label"] for row in rows} == set(LABELS)
    assert {len(row["text"].split()) for row in rows} == set(range(4, 11))


def test_only_what_was_measured_can_miss_its_target() -> None:
    assert find_missed({}) == {}
    assert find_missed({"site_mb": 1.0, "idle_cpu": None, "first_start_s": 99.0}) == {}
    assert find_missed({"site_mb": TARGETS["site_mb"] + 1}) == {"site_mb": TARGETS["site_mb"] + 1}
    assert len(PARTS) == len(set(PARTS))
