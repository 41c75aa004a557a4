"""Runs a program with the system calls and the memory protection that the unit leaves it.

`under_unit.py NAMES PROGRAM …`: NAMES is a file with one allowed system call per line. What systemd
does before it starts a service, done with the library that it uses.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path

_ERRNO = 0x00050000  # SCMP_ACT_ERRNO
_ALLOW = 0x7FFF0000  # SCMP_ACT_ALLOW
_SET_MDWE, _REFUSE_EXEC_GAIN = 65, 1  # prctl; Linux 6.3 and newer


def main(names: Path, program: list[str]) -> None:
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p,
    ]  # fmt: skip
    library.seccomp_load.argtypes = [ctypes.c_void_p]
    context = library.seccomp_init(_ERRNO | errno.EPERM)
    allowed = 0
    for name in names.read_text().split():
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # some belong to other architectures
            allowed += library.seccomp_rule_add_array(context, _ALLOW, number, 0, None) == 0
    if allowed < 100:
        sys.exit(f"only {allowed} system calls are known by name: libseccomp is too old")
    ctypes.CDLL(None).prctl(_SET_MDWE, _REFUSE_EXEC_GAIN, 0, 0, 0)
    if library.seccomp_load(context):
        sys.exit("the kernel takes no system call filter")
    os.execv(program[0], program)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
