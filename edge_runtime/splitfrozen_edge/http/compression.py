"""Content encodings for uploads. zstandard is optional: without it bodies travel as they are."""

from __future__ import annotations

from importlib.util import find_spec

_LEVEL = 1  # higher levels cost CPU and gain little on quantized activations


def compress(body: bytes) -> tuple[bytes, str | None]:
    """(bytes to send, Content-Encoding): zstd where that is smaller, else the body and None."""
    if find_spec("zstandard") is None:
        return body, None
    import zstandard

    packed = zstandard.ZstdCompressor(level=_LEVEL).compress(body)
    return (packed, "zstd") if len(packed) < len(body) else (body, None)
