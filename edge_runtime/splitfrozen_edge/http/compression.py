"""Content encodings for uploads. zstd is optional: without it bodies travel as they are.

It is the standard library's from Python 3.14, the same code from a small package before that.
"""

from __future__ import annotations

import sys

_LEVEL = 1  # higher levels cost CPU and gain little on quantized activations


def compress(body: bytes) -> tuple[bytes, str | None]:
    """(bytes to send, Content-Encoding): zstd where that is smaller, else the body and None."""
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError:  # also a Python that was built without it
        return body, None
    packed = zstd.compress(body, _LEVEL)
    return (packed, "zstd") if len(packed) < len(body) else (body, None)
