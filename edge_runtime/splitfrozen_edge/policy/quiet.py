"""Quiet hours of the local day: 22:00-06:30. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, time, timedelta

from splitfrozen_edge.state import StateError

_FORM = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


@dataclass(frozen=True)
class QuietHours:
    """From one time of the day to another, over midnight if the second is earlier.

    The wall's clock decides: on the day on which it jumps, the hours are an hour longer or shorter.
    """

    start: time
    end: time

    @classmethod
    def parse(cls, text: str) -> QuietHours:
        """Read HH:MM-HH:MM; StateError if it is something else or no time at all."""
        found = _FORM.fullmatch(text.strip())
        if found is None:
            raise StateError(f"quiet_hours is HH:MM-HH:MM, such as 22:00-06:30; not {text!r}")
        numbers = [int(part) for part in found.groups()]
        start, end = time(numbers[0], numbers[1]), time(numbers[2], numbers[3])
        if start == end:
            raise StateError(f"quiet_hours {text} begin and end at the same time")
        return cls(start, end)

    def holds(self, now: datetime) -> bool:
        """Whether `now`, local, is in them; the end is not."""
        clock = now.time()
        if self.start < self.end:
            return self.start <= clock < self.end
        return clock >= self.start or clock < self.end

    def until(self, now: datetime) -> datetime:
        """When the hours that hold at `now` end, by the local clock."""
        end = now.replace(
            hour=self.end.hour, minute=self.end.minute, second=0, microsecond=0, fold=0
        )
        return end if end > now else end + timedelta(days=1)

    def __str__(self) -> str:
        return f"{self.start:%H:%M}-{self.end:%H:%M}"
