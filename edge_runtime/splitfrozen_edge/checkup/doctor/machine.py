"""What the readings of a computer mean for the edge runtime. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from splitfrozen_edge.checkup.doctor.findings import Finding, fail, ok, size, warn
from splitfrozen_edge.checkup.doctor.readings import Machine

_WHEELS = {  # where ONNX Runtime has wheels: system -> machines
    "Linux": ("x86_64", "aarch64"),
    "Darwin": ("arm64",),
    "Windows": ("AMD64", "ARM64"),
}
_NEWEST_PYTHON = (3, 14)  # with wheels when this was written
_GLIBC = (2, 28)  # of the wheels' manylinux tag
_CLIENT = 130e6  # bytes of a running client besides the weights
_LITTLE = 1.5e9  # bytes of memory below which swap in memory pays
_EARLIEST = 1767225600  # 2026-01-01: no device that runs this lives before it
_HOT = 80.0  # degrees Celsius: a Pi slows down from here
_BITS_64 = "install the 64-bit image of Raspberry Pi OS on the card (docs/raspberry-pi.md)"


def check_machine(machine: Machine, bundle_bytes: int) -> Iterator[Finding]:
    """Everything about the computer but its clock and disk, the fastest first."""
    yield check_python(machine)
    yield check_architecture(machine)
    yield check_cpu(machine)
    yield check_memory(machine, bundle_bytes)
    yield check_swap(machine)
    if machine.throttled is not None or machine.temperature is not None:
        yield check_power(machine)


def check_python(machine: Machine) -> Finding:
    name = ".".join(map(str, machine.python))
    if machine.python[:2] > _NEWEST_PYTHON:
        newest = ".".join(map(str, _NEWEST_PYTHON))
        advice = f"if ONNX Runtime does not install, use Python 3.11 to {newest}"
        return warn("python", f"{name}: newer than what ONNX Runtime had wheels for", advice)
    return ok("python", name)


def check_architecture(machine: Machine) -> Finding:
    """Whether wheels exist at all: on nothing else can pip install the runtime."""
    where = f"{machine.system} on {machine.machine}, {machine.bits} bit"
    if machine.bits == 32:
        if machine.machine in ("aarch64", "x86_64"):
            found = f"32-bit programs on a 64-bit kernel ({machine.machine})"
            return fail("architecture", f"{found}; ONNX Runtime has no 32-bit wheels", _BITS_64)
        advice = _BITS_64
        if machine.machine.startswith("armv6"):
            advice = "this board is 32-bit only (Pi 1, Pi Zero): use a Pi Zero 2, 3, 4 or 5"
        return fail("architecture", f"{where}: ONNX Runtime has no 32-bit wheels", advice)
    if machine.machine not in _WHEELS.get(machine.system, ()):
        advice = "use 64-bit Linux (x86_64, aarch64), macOS on Apple silicon, or Windows"
        return fail("architecture", f"{where}: ONNX Runtime has no wheel for it", advice)
    if machine.system == "Linux":
        return _check_glibc(machine, where)
    return ok("architecture", where)


def _check_glibc(machine: Machine, where: str) -> Finding:
    if machine.glibc is None:
        found = f"{where}, without glibc (Alpine and other musl systems): no wheels"
        return fail("architecture", found, "use Debian, Ubuntu, Fedora or Raspberry Pi OS")
    version = ".".join(map(str, machine.glibc))
    if machine.glibc < _GLIBC:
        found = f"{where}, glibc {version}: the wheels need {'.'.join(map(str, _GLIBC))}"
        return fail("architecture", found, "use Debian 12, Raspberry Pi OS 12 or newer")
    return ok("architecture", f"{where}, glibc {version}")


def check_cpu(machine: Machine) -> Finding:
    """What the processor's instructions mean for int8."""
    features = machine.cpu_features
    board = f"{machine.board}: " if machine.board else ""
    if not features:
        return ok("cpu", f"{board}its features are not listed here")
    if machine.machine in ("aarch64", "arm64"):
        if "i8mm" in features:
            return ok("cpu", f"{board}int8 matrix products (i8mm): int8 is fastest")
        if "asimddp" in features:
            return ok("cpu", f"{board}int8 dot products (asimddp), as Pi 5 has: int8 is fast")
        found = f"{board}no int8 dot products (Cortex-A53, A72: Pi 3, Pi 4)"
        advice = "int8 works, with less gain; splitfrozen-edge bench shows what this board does"
        return ok("cpu", found, advice)
    if features & {"avx512_vnni", "avx_vnni"}:
        return ok("cpu", f"{board}int8 products (VNNI): int8 is fastest")
    if "avx2" in features:
        advice = "export the bundle with --reduce-range, or as int8-hq"
        found = f"{board}AVX2 without VNNI: sums of int8 products can saturate and lose precision"
        return warn("cpu", found, advice)
    return warn("cpu", f"{board}no AVX2: int8 is slow", "use a processor of this decade if you can")


def check_memory(machine: Machine, bundle_bytes: int) -> Finding:
    """Available memory against a bundle: its weights are mapped, so too little slows, not ends."""
    available = machine.memory.get("MemAvailable")
    if available is None:
        return ok("memory", "the system does not say")
    need = _CLIENT + bundle_bytes
    found = f"{size(available)} available; a push needs about {size(need)}"
    if available < _CLIENT:
        advice = "stop other programs, or use a board with more memory"
        return fail("memory", found, advice)
    if available < need:
        advice = "stop other programs, or export a smaller bundle (--precision int4, a lower cut)"
        return warn("memory", found, advice)
    return ok("memory", found)


def check_swap(machine: Machine) -> Finding:
    total = machine.memory.get("MemTotal")
    if total is not None and total < _LITTLE and not machine.swaps:
        advice = "sudo apt install zram-tools: compressed swap in memory, no wear of the card"
        return warn("swap", f"{size(total)} of memory and no swap", advice)
    on_card = [name for name in machine.swaps if "zram" not in name]
    if on_card and machine.board.startswith("Raspberry Pi"):
        advice = "zram-tools instead of dphys-swapfile spares the memory card"
        return ok("swap", f"on {', '.join(on_card)}", advice)
    return ok("swap", ", ".join(machine.swaps) or "none, and memory enough")


def check_power(machine: Machine) -> Finding:
    """A Pi that slows itself down: under-voltage (bits 0, 16), heat (1-3, 17-19)."""
    bits = machine.throttled or 0
    heat = "" if machine.temperature is None else f"{machine.temperature:.0f} °C"
    supply = "use the board's own power supply and a short cable"
    if bits & 1:
        return warn("power", "under-voltage now: the board slows down and may corrupt data", supply)
    if bits & 0b1110 or (machine.temperature or 0) >= _HOT:
        advice = "give it a heat sink or a fan, or use --pause-above-temp"
        return warn("power", f"slowed down by heat now {heat}".rstrip(), advice)
    if bits & 1 << 16:
        return warn("power", "there was under-voltage since the start", supply)
    if bits & 0b1110 << 16:
        advice = "give it a heat sink or a fan, or use --pause-above-temp"
        return warn("power", "it was slowed down by heat since the start", advice)
    return ok("power", heat or "no under-voltage, not throttled")


def check_clock(machine: Machine, now: float, newest: float | None) -> Finding:
    """The clock by itself. `now` and `newest`, the youngest file of the device, in Unix seconds."""
    date = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M UTC")
    wait = (
        "a Pi has no clock of its own: connect it to a network, then sudo timedatectl set-ntp true"
    )
    if now < _EARLIEST:
        return fail("clock", f"{date} is in the past: no certificate is valid yet", wait)
    if newest is not None and newest > now + 60:
        return fail("clock", f"{date} is before this device last worked: the clock went back", wait)
    if machine.clock_synchronised is False:
        return warn("clock", f"{date}, not kept right by a time server", wait)
    return ok("clock", date)
