"""The version of the protocol that this package speaks (SPEC 1). Imports nothing."""

from __future__ import annotations

PROTOCOL = "1"
