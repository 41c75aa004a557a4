"""What the rules look at, read off the system. Every reader takes the root of its files.

None means that nothing on this machine tells: the rules say what follows from that.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

_ASK = ("nmcli", "-t", "-f", "GENERAL.DEVICE,GENERAL.METERED", "device", "show")
_PLUGGED = {"Mains", "USB", "Wireless"}
_HOTTEST = 200.0  # degrees Celsius; a sensor that says more is broken


@dataclass(frozen=True)
class Readings:
    """One look at the machine."""

    time: datetime  # local
    metered: bool | None = None  # whether uploads cost money
    powered: bool | None = None  # by mains, or charging
    temperature: float | None = None  # degrees Celsius, the hottest sensor
    interface: str | None = None  # of the default route


class Readers:
    """Reads this machine, or a folder that looks like one."""

    def __init__(
        self,
        root: Path = Path("/"),
        *,
        metered_interfaces: Sequence[str] = (),
        clock: Callable[[], datetime] = datetime.now,
        ask: Callable[[], str | None] | None = None,
    ) -> None:
        """`ask`: what NetworkManager says of its devices; None if it is not there."""
        self._root = root
        self._metered = frozenset(metered_interfaces)
        self._clock = clock
        self._ask = ask or _ask_network_manager

    def with_metered(self, interfaces: Sequence[str]) -> Readers:
        """The same machine, with other interfaces known to cost money."""
        return Readers(self._root, metered_interfaces=interfaces, clock=self._clock, ask=self._ask)

    def read(self, *, metered: bool, power: bool, temperature: bool) -> Readings:
        """Read what a policy needs and nothing else: a look at the network starts a process."""
        interface = default_interface(self._root) if metered else None
        return Readings(
            time=self._clock(),
            metered=self._read_metered(interface) if metered else None,
            powered=read_power(self._root) if power else None,
            temperature=read_temperature(self._root) if temperature else None,
            interface=interface,
        )

    def _read_metered(self, interface: str | None) -> bool | None:
        if interface is not None and interface in self._metered:
            return True
        said = self._ask()
        if said is not None and interface is not None:
            found = metered_devices(said).get(interface)
            if found is not None:
                return found
        # Whoever lists the metered interfaces says with that that the others are not.
        return False if self._metered and interface is not None else None


def default_interface(root: Path) -> str | None:
    """Name of the interface that leads to the Internet: the default route of least metric."""
    try:
        lines = (root / "proc/net/route").read_text().splitlines()[1:]
    except OSError:
        return None
    found = []
    for line in lines:
        columns = line.split()
        # Interface Destination Gateway Flags RefCnt Use Metric Mask; flag 1: the route is up
        default = len(columns) >= 8 and columns[1] == columns[7] == "00000000"
        if default and int(columns[3], 16) & 1:
            found.append((int(columns[6]), columns[0]))
    return min(found)[1] if found else None


def metered_devices(said: str) -> dict[str, bool | None]:
    """Device -> metered or not, of nmcli's terse answer; None where it does not know.

    "yes (guessed)", which a phone's hotspot gets, is a yes; "no (guessed)" is a no.
    """
    found: dict[str, bool | None] = {}
    device = ""
    for line in said.splitlines():
        field, _, value = line.partition(":")
        if field == "GENERAL.DEVICE":
            device = value
        elif field == "GENERAL.METERED" and device:
            word = value.partition(" ")[0]
            found[device] = {"yes": True, "no": False}.get(word)
    return found


def read_power(root: Path) -> bool | None:
    """Whether the machine runs on mains or charges; True without any battery, as a Pi is."""
    supplies = sorted((root / "sys/class/power_supply").glob("*"))
    batteries = plugs = False
    for supply in supplies:
        kind = _word(supply / "type")
        # A mouse's battery has scope Device and says nothing about this machine.
        if kind == "Battery" and _word(supply / "scope") != "Device":
            batteries = True
            if _word(supply / "status") in ("Charging", "Full", "Not charging"):
                return True
        elif kind in _PLUGGED and _word(supply / "online") == "1":
            plugs = True
    return plugs or not batteries


def read_temperature(root: Path) -> float | None:
    """The hottest sensor in degrees Celsius; None if the machine has none."""
    folder = root / "sys/class"
    sensors = [*folder.glob("thermal/thermal_zone*/temp"), *folder.glob("hwmon/hwmon*/temp*_input")]
    found = [value / 1000 for path in sensors if (value := _number(path)) is not None]
    sane = [degrees for degrees in found if -50 < degrees < _HOTTEST]
    return max(sane) if sane else None


def _word(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    try:
        return int(_word(path))
    except ValueError:
        return None


def _ask_network_manager() -> str | None:
    if shutil.which("nmcli") is None:
        return None
    try:
        done = subprocess.run(_ASK, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
