"""The id of an example: stable on its device, meaningless to anyone without the device's key.

The key never leaves the device, so a server cannot test whether a guessed text is in a dataset
by hashing it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

ID_SIZE = 16  # bytes


def example_id(key: bytes, dataset: str, example: Mapping[str, Any], occurrence: int) -> bytes:
    """First 16 bytes of HMAC-SHA-256(key; dataset, canonical example, occurrence) (SPEC 2.5).

    `example` is the row as normalised by the device, with text as it was read: keys sorted,
    no spaces, UTF-8. `occurrence` counts equal rows of one push from 0, so that a text that is
    there twice is two examples.
    """
    text = json.dumps(example, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    message = "\x00".join((dataset, text, str(occurrence))).encode("utf-8", "surrogatepass")
    return hmac.new(key, message, hashlib.sha256).digest()[:ID_SIZE]
