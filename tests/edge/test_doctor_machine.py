"""What the doctor makes of a computer: boards, processors, memory, power, clock."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from splitfrozen_edge.checkup.doctor.findings import Finding
from splitfrozen_edge.checkup.doctor.machine import check_clock, check_machine
from splitfrozen_edge.checkup.doctor.readings import Machine, parse_cpu_features, read_machine

PI_5 = Machine(
    "Linux", "aarch64", 64, (3, 11, 2), (2, 36), "Raspberry Pi 5 Model B Rev 1.0",
    frozenset({"asimd", "asimddp"}), {"MemTotal": 8 << 30, "MemAvailable": 7 << 30},
    ("/dev/zram0",), True, 0, 48.0,
)  # fmt: skip


def on(machine: Machine, check: str, bundle_bytes: int = 0) -> Finding:
    return next(item for item in check_machine(machine, bundle_bytes) if item.check == check)


def test_a_good_pi_has_nothing_to_complain_about() -> None:
    assert {item.status for item in check_machine(PI_5, 60_000_000)} == {"ok"}


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        (replace(PI_5, bits=32), "32-bit programs on a 64-bit kernel"),
        (replace(PI_5, bits=32, machine="armv7l"), "no 32-bit wheels"),
        (replace(PI_5, bits=32, machine="armv6l"), "no 32-bit wheels"),
        (replace(PI_5, glibc=(2, 27)), "glibc 2.27"),
        (replace(PI_5, glibc=None), "without glibc"),
        (replace(PI_5, machine="riscv64"), "no wheel"),
        (replace(PI_5, system="Darwin", machine="x86_64"), "no wheel"),
    ],
)
def test_machines_without_a_wheel(machine: Machine, words: str) -> None:
    found = on(machine, "architecture")
    assert found.status == "fail"
    assert words in found.found
    assert found.advice


@pytest.mark.parametrize(
    ("machine", "features", "status", "words"),
    [
        ("aarch64", "asimd", "ok", "no int8 dot products"),
        ("aarch64", "asimd asimddp", "ok", "asimddp"),
        ("aarch64", "asimd asimddp i8mm", "ok", "i8mm"),
        ("x86_64", "avx2 avx_vnni", "ok", "VNNI"),
        ("x86_64", "avx2", "warn", "saturate"),
        ("x86_64", "sse4_2", "warn", "no AVX2"),
        ("aarch64", "", "ok", "not listed"),
    ],
)
def test_what_a_processor_means_for_int8(
    machine: str, features: str, status: str, words: str
) -> None:
    found = on(replace(PI_5, machine=machine, cpu_features=frozenset(features.split())), "cpu")
    assert found.status == status
    assert words in found.found


def test_memory_against_the_bundle() -> None:
    little = replace(PI_5, memory={"MemTotal": 512 << 20, "MemAvailable": 180 << 20}, swaps=())
    assert on(little, "memory", 50_000_000).status == "ok"
    assert on(little, "memory", 500_000_000).status == "warn"
    assert on(replace(little, memory={"MemAvailable": 60 << 20}), "memory").status == "fail"
    assert "zram" in on(little, "swap").advice
    assert "dphys-swapfile" in on(replace(PI_5, swaps=("/var/swap",)), "swap").advice


@pytest.mark.parametrize(
    ("bits", "heat", "status", "words"),
    [
        (0, 45.0, "ok", "45 °C"),
        (0x50005, 60.0, "warn", "under-voltage now"),
        (0x50000, 60.0, "warn", "there was under-voltage"),
        (0xE0008, 84.0, "warn", "slowed down by heat now"),
        (0x80000, 50.0, "warn", "was slowed down by heat"),
        (None, 85.0, "warn", "heat now 85"),
    ],
)
def test_power_and_heat(bits: int | None, heat: float, status: str, words: str) -> None:
    found = on(replace(PI_5, throttled=bits, temperature=heat), "power")
    assert found.status == status
    assert words in found.found


def test_the_clock_by_itself() -> None:
    now = 1_800_000_000.0
    assert check_clock(PI_5, now, now - 5).status == "ok"
    assert check_clock(PI_5, 3600.0, None).status == "fail"
    back = check_clock(PI_5, now, now + 86400)
    assert back.status == "fail"
    assert "went back" in back.found
    unkept = check_clock(replace(PI_5, clock_synchronised=False), now, None)
    assert unkept.status == "warn"
    assert "set-ntp" in unkept.advice


def test_a_pi_is_read_from_proc_and_sys(tmp_path: Path) -> None:
    def put(name: str, text: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    put("proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\0")
    put("proc/cpuinfo", "processor\t: 0\nFeatures\t: fp asimd crc32 cpuid\n" * 4)
    put("proc/meminfo", "MemTotal:        3885444 kB\nMemAvailable:    3400000 kB\nHugePages: 0\n")
    put("proc/swaps", "Filename\tType\tSize\n/var/swap file 102396 0 -2\n")
    put("sys/devices/platform/soc/soc:firmware/get_throttled", "50005\n")
    put("sys/class/thermal/thermal_zone0/temp", "61342\n")
    found = read_machine(tmp_path)
    assert found.board == "Raspberry Pi 4 Model B Rev 1.4"
    assert found.cpu_features == {"fp", "asimd", "crc32", "cpuid"}
    assert found.memory["MemTotal"] == 3885444 * 1024
    assert found.swaps == ("/var/swap",)
    assert found.throttled == 0x50005
    assert found.temperature == 61.342


def test_a_feature_counts_when_every_core_has_it() -> None:
    assert parse_cpu_features("Features : a b\n\nFeatures : a\n") == {"a"}
    assert parse_cpu_features("") == frozenset()
