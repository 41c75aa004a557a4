"""Ids and times of stored objects."""

from __future__ import annotations

import secrets
import time


def new_id(prefix: str) -> str:
    """A random id such as `ds_9f86d081884c7d659a2feaa0`; the prefix ends in its separator."""
    return prefix + secrets.token_hex(12)


def now() -> int:
    """Unix time in seconds, as OpenAI's objects carry it."""
    return int(time.time())
