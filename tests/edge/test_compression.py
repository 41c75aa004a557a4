"""Bodies travel compressed where that is smaller and possible."""

from __future__ import annotations

import os
import sys

import pytest
import zstandard

from splitfrozen_edge.http.compression import compress


def test_what_compresses_travels_as_zstd_that_says_its_size() -> None:
    body = bytes(range(64)) * 1000
    packed, encoding = compress(body)
    assert encoding == "zstd"
    assert len(packed) < len(body)
    assert zstandard.frame_content_size(packed) == len(body)
    assert zstandard.ZstdDecompressor().decompress(packed) == body


def test_what_does_not_compress_travels_as_it_is() -> None:
    body = os.urandom(1000)
    assert compress(body) == (body, None)


def test_without_the_library_bodies_travel_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("backports", "backports.zstd", "compression", "compression.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    assert compress(b"a" * 1000) == (b"a" * 1000, None)
