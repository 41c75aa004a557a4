"""How fast shards left this device: kept by real pushes, read by `bench`. Sends nothing itself."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

_LEAST = 256 * 1024  # bytes; less says more about latency than about the uplink
_NAME = "uplink.json"


@dataclass(frozen=True)
class Uplink:
    """The last push that sent enough: content bytes, and the seconds until they were answered."""

    bytes: int
    seconds: float
    measured_at: int  # Unix seconds

    @property
    def bytes_per_second(self) -> float:
        """As a push sees it: the server's work on a shard counts as sending."""
        return self.bytes / self.seconds


def remember_uplink(home: Path, sent: int, seconds: float) -> None:
    """Keep what a push saw, if it sent enough to tell; a full disk is no error here."""
    if sent < _LEAST or seconds <= 0:
        return
    text = json.dumps(asdict(Uplink(sent, round(seconds, 3), int(time.time())))) + "\n"
    part = home / (_NAME + ".part")
    try:
        part.write_text(text, "utf-8")
        part.replace(home / _NAME)
    except OSError:
        return


def read_uplink(home: Path) -> Uplink | None:
    """What the last large enough push saw; None if there was none."""
    try:
        found = json.loads((home / _NAME).read_text("utf-8"))
        uplink = Uplink(int(found["bytes"]), float(found["seconds"]), int(found["measured_at"]))
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return uplink if uplink.bytes > 0 and uplink.seconds > 0 else None
