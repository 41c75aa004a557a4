"""From the bytes of a request to a shard, trusting nothing they say about themselves. Pure.

Knows encodings, limits and the shard profile; does not know bundles, datasets or files.
"""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass

import zstandard

from splitfrozen.errors import RefusedError, WireError
from splitfrozen.wire import Shard, decode, digest

ENCODINGS = ("zstd", "gzip", "identity")
_FREE = 1 << 20  # bytes that any body may grow to, whatever its ratio
_PIECE = 1 << 16  # bytes decompressed at once
_WINDOW = 1 << 23  # bytes; what zstd level 1..19 needs for bodies within the limit


@dataclass(frozen=True)
class Limits:
    """What a body may become."""

    max_body: int  # bytes, uncompressed
    max_ratio: int  # uncompressed per compressed byte, above 1 MiB

    def of(self, compressed: int) -> int:
        """The most bytes that `compressed` bytes may grow to."""
        return min(self.max_body, max(_FREE, self.max_ratio * compressed))

    @property
    def max_wire(self) -> int:
        """The most bytes on the wire: incompressible content grows a little."""
        return self.max_body + self.max_body // 64 + 1024


def check_encoding(encoding: str) -> None:
    """Refuse a Content-Encoding that no reader here knows."""
    if encoding not in ENCODINGS:
        raise WireError(
            "bad_encoding",
            f"Content-Encoding {encoding[:40]!r} is not one of {', '.join(ENCODINGS)}",
            param="Content-Encoding",
        )


def decode_body(
    raw: bytes, encoding: str, limits: Limits, expected: str | None
) -> tuple[bytes, Shard]:
    """Decompress, compare with the `expected` SHA-256 (None: do not), decode.

    Returns the uncompressed body and its shard. Raises WireError, or RefusedError
    `digest_mismatch`.
    """
    body = decompress(raw, encoding, limits)
    if expected is not None and (found := digest(body)) != expected:
        raise RefusedError(
            "digest_mismatch", f"the body has SHA-256 {found[:12]}…, the URL says {expected[:12]}…"
        )
    return body, decode(body)


def decompress(raw: bytes, encoding: str, limits: Limits) -> bytes:
    """Undo the Content-Encoding; never makes more bytes than the limits allow."""
    check_encoding(encoding)
    limit = limits.of(len(raw))
    if encoding == "identity":
        if len(raw) > limits.max_body:
            raise _too_large(limits.max_body)
        return raw
    return _unzstd(raw, limit) if encoding == "zstd" else _gunzip(raw, limit)


def _unzstd(raw: bytes, limit: int) -> bytes:
    """One zstd frame. Its declared size is ignored: the output is counted while it comes."""
    engine = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
    try:
        _count(engine, raw, limit)
        frame = engine.decompressobj()  # safe now: the frame is known to stay below the limit
        body = frame.decompress(raw)
    except zstandard.ZstdError as error:
        raise WireError("bad_encoding", f"the body is not zstd: {error}") from None
    if not frame.eof:
        raise WireError("bad_encoding", "the zstd frame ends too early")
    if frame.unused_data:
        raise WireError("bad_encoding", "bytes follow the zstd frame")
    return body


def _count(engine: zstandard.ZstdDecompressor, raw: bytes, limit: int) -> None:
    """Decompress in pieces and forget them; WireError as soon as there are too many bytes."""
    total = 0
    with engine.stream_reader(io.BytesIO(raw), read_across_frames=False) as reader:
        while piece := reader.read(_PIECE):
            total += len(piece)
            if total > limit:
                raise _too_large(limit)


def _gunzip(raw: bytes, limit: int) -> bytes:
    engine = zlib.decompressobj(wbits=31)
    try:
        body = engine.decompress(raw, limit + 1)
    except zlib.error as error:
        raise WireError("bad_encoding", f"the body is not gzip: {error}") from None
    if len(body) > limit:
        raise _too_large(limit)
    if not engine.eof:
        raise WireError("bad_encoding", "the gzip stream ends too early")
    if engine.unused_data:
        raise WireError("bad_encoding", "bytes follow the gzip stream")
    return body


def _too_large(limit: int) -> WireError:
    return WireError("too_large", f"the decompressed body exceeds {limit} bytes")
