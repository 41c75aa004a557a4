"""How a trial of the runtime in a process of its own ended, in words. Pure."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass

from splitfrozen_edge.checkup.doctor.findings import Finding, fail, ok, warn

KNOWN_GOOD = "1.31.1"  # its own tests ran on Cortex-A72 and A76 (docs/results.md)
_REINSTALL = f"pip install --force-reinstall 'onnxruntime=={KNOWN_GOOD}'"
_STEPS = {  # last finished -> what was tried next
    "start": "numpy",
    "numpy": "ONNX Runtime",
    "import": "a tiny model",
    "run": "what else is compiled (tokenizers, PyNaCl, zstd)",
    "libraries": "the bundle",
}


@dataclass(frozen=True)
class Trial:
    """What a trial left: `reached` is its last finished step."""

    reached: str  # start | numpy | import | run | libraries | bundle
    versions: dict[str, str]  # library -> version
    code: int | None = None  # exit status, negative for a signal; None: it never ended
    error: str = ""  # the end of what it said
    cannot_start: str = ""  # why there was no process at all


def judge_runtime(trial: Trial, machine: str) -> Finding:
    """`machine` is the kernel's architecture."""
    if trial.cannot_start:
        return _cannot_start(trial.cannot_start)
    version = trial.versions.get("onnxruntime", "")
    name = f"ONNX Runtime {version}".rstrip()
    if trial.code == 0:
        model = "the bundle's model" if trial.reached == "bundle" else "a tiny model"
        return ok("runtime", f"{name} runs {model}")
    step = _STEPS.get(trial.reached, "the bundle")
    if trial.code is None:
        advice = "the board may be too slow or out of memory: stop other programs, then try again"
        return fail("runtime", f"{name}: {step} took too long", advice)
    if trial.code < 0:
        return _killed(-trial.code, step, trial.versions, machine)
    return _raised(trial.error, step)


def _cannot_start(why: str) -> Finding:
    if "Exec format error" in why or "[Errno 8]" in why:
        found = "not tried: the kernel cannot start this Python a second time (an emulator?)"
        advice = "--launcher 'qemu-aarch64 -L ROOT' names what starts it, or register binfmt_misc"
        return warn("runtime", found, advice)
    return fail("runtime", f"no second Python process: {why}", "free memory, or repair this Python")


def _killed(number: int, step: str, versions: dict[str, str], machine: str) -> Finding:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    version = versions.get("onnxruntime")
    if number == signal.SIGILL:
        found = f"{step} uses an instruction that this processor does not have ({name})"
        if machine in ("aarch64", "arm64"):
            old = f"; {version} is installed" if version else ""
            advice = f"known of ONNX Runtime 1.21 on Pi 3 and 4{old}: {_REINSTALL}"
            return fail("runtime", found, advice)
        return fail("runtime", found, f"use a newer processor, or another version: {_REINSTALL}")
    if number == signal.SIGKILL:
        advice = (
            "out of memory, most likely: stop other programs, add zram, or use a smaller bundle"
        )
        return fail("runtime", f"{step}: the system killed the process ({name})", advice)
    if number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT):
        found = f"{step} crashes this Python ({name})"
        advice = f"{_REINSTALL}; a damaged card does this too: check it, or use a new one"
        return fail("runtime", found, advice)
    return fail("runtime", f"{step}: ended by {name}", _REINSTALL)


def _raised(error: str, step: str) -> Finding:
    said = error.strip().splitlines()[-1] if error.strip() else "no word of why"
    if found := re.search(r"(GLIBC(?:XX)?_[\d.]+)' not found", error):
        text = f"{step} needs {found[1]}, and this system's C libraries are older"
        return fail("runtime", text, "use Debian 12, Raspberry Pi OS 12 or newer")
    if "ELFCLASS" in error or "wrong architecture" in error:
        text = f"{step} is installed for another architecture"
        advice = "the environment was copied from another machine: make it anew on this one"
        return fail("runtime", text, advice)
    if found := re.search(r"No module named '([\w.]+)'", error):
        text = f"{found[1]} is not installed"
        advice = (
            "pip install 'splitfrozen[edge]'; if pip finds no matching distribution, there is no "
            "wheel for this Python and architecture: 64-bit Linux and Python 3.11 to 3.14 have one"
        )
        return fail("runtime", text, advice)
    if found := re.search(r"(lib[\w.+-]+\.so[\d.]*): cannot open shared object file", error):
        advice = (
            f"install the package with {found[1]}; Debian: sudo apt install libstdc++6 libgomp1"
        )
        return fail("runtime", f"{step} needs {found[1]}, which is not here", advice)
    return fail("runtime", f"{step} fails: {said[:300]}", _REINSTALL)
