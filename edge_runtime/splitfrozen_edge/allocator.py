"""Freed memory back to the system. The C library keeps it otherwise, for ever in a daemon.

Parsing gpt2's tokenizer.json leaves 30 MB that nobody uses again; so does a push behind itself.
"""

from __future__ import annotations

import sys


def give_back() -> None:
    """Return what is free to the system, where the C library can (glibc); never an error."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return  # another C library
