"""The way to the server: the round trip of a small request. Bulk is measured by real pushes only.

Sending megabytes to measure a line would cost the user's volume and the server's disk.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from splitfrozen_edge.http.client import Client

_REQUESTS = 5


def round_trip(client: Client) -> float:
    """Median milliseconds of asking for the version, the connection being open."""
    client.call("GET", "/version")
    times = []
    for _ in range(_REQUESTS):
        started = time.perf_counter()
        client.call("GET", "/version")
        times.append(time.perf_counter() - started)
    return round(statistics.median(times) * 1000, 2)
