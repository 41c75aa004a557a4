"""Policy and readings -> the reasons why the device waits. Pure, but for what it remembers."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from splitfrozen_edge.policy.quiet import QuietHours
from splitfrozen_edge.policy.readings import Readings

COOL_BY = 5.0  # degrees below the limit at which work goes on
COMPUTE, UPLOAD = "compute", "upload"


@dataclass(frozen=True)
class Policy:
    """What the user allows; the default allows everything."""

    only_unmetered: bool = False
    metered_interfaces: tuple[str, ...] = ()  # names whose traffic costs money
    only_charging: bool = False
    pause_above_temp: float | None = None  # degrees Celsius
    max_rate: int | None = None  # bytes/s of uploads
    cpu_share: float = 1.0  # of one core's time while computing
    quiet_hours: QuietHours | None = None

    @property
    def needs_readings(self) -> bool:
        """Whether any rule looks at the machine."""
        hot = self.pause_above_temp is not None
        return self.only_unmetered or self.only_charging or hot or self.quiet_hours is not None


@dataclass(frozen=True)
class Reason:
    """Why something waits."""

    code: str  # metered | on_battery | too_hot | quiet_hours
    message: str  # for a person
    blocks: tuple[str, ...]  # of: compute, upload
    until: str | None = None  # local time, ISO 8601, where it is known

    def document(self) -> dict[str, object]:
        """JSON-ready."""
        return asdict(self) | {"blocks": list(self.blocks)}


class Rules:
    """One policy, judged again and again; remembers whether the machine is still cooling down."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._cooling = False

    def judge(self, readings: Readings) -> tuple[list[Reason], list[str]]:
        """(reasons to wait, warnings: what a rule could not find out)."""
        found = [self._network(readings), self._power(readings), self._quiet(readings)]
        reasons = [reason for reason in [*found, self._heat(readings)] if reason is not None]
        return reasons, list(self._warnings(readings))

    def _network(self, readings: Readings) -> Reason | None:
        if not self.policy.only_unmetered or not readings.metered:
            return None
        message = f"the network ({readings.interface}) is metered; nothing is sent over it"
        return Reason("metered", message, (UPLOAD,))

    def _power(self, readings: Readings) -> Reason | None:
        if not self.policy.only_charging or readings.powered is not False:
            return None
        return Reason("on_battery", "the machine runs on its battery", (COMPUTE, UPLOAD))

    def _quiet(self, readings: Readings) -> Reason | None:
        hours = self.policy.quiet_hours
        if hours is None or not hours.holds(readings.time):
            return None
        until = hours.until(readings.time).isoformat(timespec="minutes")
        return Reason("quiet_hours", f"quiet hours are {hours}", (COMPUTE, UPLOAD), until)

    def _heat(self, readings: Readings) -> Reason | None:
        limit, degrees = self.policy.pause_above_temp, readings.temperature
        if limit is None or degrees is None:
            self._cooling = False
            return None
        self._cooling = degrees > (limit - COOL_BY if self._cooling else limit)
        if not self._cooling:
            return None
        message = f"{degrees:.0f} °C is too hot; goes on at {limit - COOL_BY:.0f} °C"
        return Reason("too_hot", message, (COMPUTE,))

    def _warnings(self, readings: Readings) -> list[str]:
        found = []
        if self.policy.only_unmetered and readings.metered is None:
            found.append(
                "only-unmetered: nothing tells whether the network is metered, so it counts as "
                "unmetered; name what costs money with --metered-interface"
            )
        if self.policy.pause_above_temp is not None and readings.temperature is None:
            found.append("pause-above-temp: this machine has no temperature sensor")
        return found
