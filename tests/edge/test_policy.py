"""When the device works: rules over readings, readers over real files, and what is stored."""

from __future__ import annotations

import json
import threading
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from splitfrozen_edge.policy.gate import PolicyGate
from splitfrozen_edge.policy.quiet import QuietHours
from splitfrozen_edge.policy.rate import TokenBucket, rest_after
from splitfrozen_edge.policy.readings import (
    Readers,
    Readings,
    default_interface,
    metered_devices,
    read_power,
    read_temperature,
)
from splitfrozen_edge.policy.rules import Policy, Rules
from splitfrozen_edge.policy.stored import load_policy, read_policy, store_policy
from splitfrozen_edge.state import StateError

NOON = datetime(2026, 6, 1, 12)


def write(root: Path, **files: str) -> Path:
    """Files of a tree; __ stands for / in a name."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def codes(policy: Policy, readings: Readings) -> list[str]:
    return [reason.code for reason in Rules(policy).judge(readings)[0]]


@pytest.mark.parametrize(("metered", "expected"), [(True, ["metered"]), (False, []), (None, [])])
def test_only_unmetered_holds_uploads_of_a_metered_network(
    metered: bool | None, expected: list[str]
) -> None:
    policy = Policy(only_unmetered=True)
    reasons, warnings = Rules(policy).judge(Readings(NOON, metered=metered, interface="wlan0"))
    assert [reason.code for reason in reasons] == expected
    assert all(reason.blocks == ("upload",) for reason in reasons)
    assert bool(warnings) is (metered is None)


@pytest.mark.parametrize(("powered", "expected"), [(False, ["on_battery"]), (True, []), (None, [])])
def test_only_charging_holds_everything_on_battery(
    powered: bool | None, expected: list[str]
) -> None:
    assert codes(Policy(only_charging=True), Readings(NOON, powered=powered)) == expected


def test_heat_stops_computing_until_it_is_five_degrees_cooler() -> None:
    rules = Rules(Policy(pause_above_temp=70))
    held = []
    for degrees in (69, 70, 71, 69, 66, 65.1, 65, 69, 70, 71):
        reasons, _ = rules.judge(Readings(NOON, temperature=degrees))
        held.append(bool(reasons))
    assert held == [False, False, True, True, True, True, False, False, False, True]


def test_a_machine_without_sensors_is_told_so_and_never_held() -> None:
    reasons, warnings = Rules(Policy(pause_above_temp=70)).judge(Readings(NOON))
    assert (reasons, len(warnings)) == ([], 1)


@pytest.mark.parametrize(
    ("hours", "now", "until"),
    [
        ("22:00-06:30", "2026-06-01T21:59", None),
        ("22:00-06:30", "2026-06-01T22:00", "2026-06-02T06:30"),
        ("22:00-06:30", "2026-06-02T00:00", "2026-06-02T06:30"),
        ("22:00-06:30", "2026-06-02T06:29", "2026-06-02T06:30"),
        ("22:00-06:30", "2026-06-02T06:30", None),
        ("09:00-17:00", "2026-06-01T09:00", "2026-06-01T17:00"),
        ("09:00-17:00", "2026-06-01T17:00", None),
        ("09:00-17:00", "2026-06-01T08:59", None),
        ("00:00-23:59", "2026-06-01T00:00", "2026-06-01T23:59"),
        ("22:00-00:00", "2026-06-01T23:59", "2026-06-02T00:00"),
        ("22:00-00:00", "2026-06-02T00:00", None),
    ],
)
def test_quiet_hours_go_by_the_clock_also_over_midnight(
    hours: str, now: str, until: str | None
) -> None:
    policy = Policy(quiet_hours=QuietHours.parse(hours))
    reasons, _ = Rules(policy).judge(Readings(datetime.fromisoformat(now)))
    assert [reason.until for reason in reasons] == ([until] if until else [])


@pytest.mark.parametrize("start", ["2026-03-29T00:00", "2026-10-25T00:00"])
def test_quiet_hours_hold_by_the_wall_clock_when_it_jumps(start: str) -> None:
    """Berlin, the night of a change: 02:30 comes never or twice; the hours end at 06:00."""
    zone = ZoneInfo("Europe/Berlin")
    hours = QuietHours.parse("22:00-06:00")
    utc = datetime.fromisoformat(start).replace(tzinfo=zone).astimezone(ZoneInfo("UTC"))
    for minutes in range(0, 600, 10):
        local = (utc + timedelta(minutes=minutes)).astimezone(zone).replace(tzinfo=None)
        assert hours.holds(local) is (local.hour < 6)
        if hours.holds(local):
            assert hours.until(local).hour == 6


@pytest.mark.parametrize("text", ["", "8-9", "24:00-01:00", "10:00", "10:00-10:00", "10:60-11:00"])
def test_quiet_hours_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(StateError, match="quiet_hours"):
        QuietHours.parse(text)


SUPPLY = "sys__class__power_supply__"


@pytest.mark.parametrize(
    ("files", "powered"),
    [
        ({}, True),
        ({"AC__type": "Mains", "AC__online": "1"}, True),
        ({"AC__type": "Mains", "AC__online": "0", "BAT0__type": "Battery",
          "BAT0__status": "Discharging"}, False),
        ({"AC__type": "Mains", "AC__online": "1", "BAT0__type": "Battery",
          "BAT0__status": "Discharging"}, True),
        ({"BAT0__type": "Battery", "BAT0__status": "Charging"}, True),
        ({"BAT0__type": "Battery", "BAT0__status": "Full"}, True),
        ({"BAT0__type": "Battery", "BAT0__status": "Unknown"}, False),
        ({"usb__type": "USB", "usb__online": "1", "BAT0__type": "Battery",
          "BAT0__status": "Discharging"}, True),
        ({"mouse__type": "Battery", "mouse__scope": "Device",
          "mouse__status": "Discharging"}, True),
        ({"BAT0__type": "Battery"}, False),
    ],
)  # fmt: skip
def test_power_is_read_off_the_power_supply_class(
    tmp_path: Path, files: dict[str, str], powered: bool
) -> None:
    root = write(tmp_path, **{SUPPLY + name: text + "\n" for name, text in files.items()})
    assert read_power(root) is powered


def test_the_hottest_sensor_counts_and_broken_ones_do_not(tmp_path: Path) -> None:
    assert read_temperature(tmp_path) is None
    write(
        tmp_path,
        sys__class__thermal__thermal_zone0__temp="48312\n",
        sys__class__thermal__thermal_zone1__temp="nonsense\n",
        sys__class__hwmon__hwmon0__temp1_input="61000\n",
        sys__class__hwmon__hwmon1__temp1_input="6553500\n",
    )
    assert read_temperature(tmp_path) == 61.0


ROUTES = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
down0\t00000000\t0101A8C0\t0002\t0\t0\t1\t00000000\t0\t0\t0
eth0\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
"""


def test_the_default_route_of_least_metric_is_the_way_out(tmp_path: Path) -> None:
    assert default_interface(tmp_path) is None
    assert default_interface(write(tmp_path, proc__net__route=ROUTES)) == "eth0"


NMCLI = """GENERAL.DEVICE:wlan0
GENERAL.METERED:yes (guessed)

GENERAL.DEVICE:eth0
GENERAL.METERED:no

GENERAL.DEVICE:lo
GENERAL.METERED:unknown
"""


def test_what_network_manager_says_is_understood() -> None:
    assert metered_devices(NMCLI) == {"wlan0": True, "eth0": False, "lo": None}
    assert metered_devices("garbage\n:\nGENERAL.METERED:yes") == {}


@pytest.mark.parametrize(
    ("said", "names", "metered"),
    [
        (NMCLI, (), False),
        (NMCLI.replace("METERED:no", "METERED:yes"), (), True),
        (NMCLI, ("eth0",), True),
        (NMCLI.replace("METERED:no", "METERED:unknown"), (), None),
        (None, (), None),
        (None, ("eth0",), True),
        (None, ("wwan0",), False),
    ],
)
def test_named_interfaces_go_before_network_manager(
    tmp_path: Path, said: str | None, names: tuple[str, ...], metered: bool | None
) -> None:
    write(tmp_path, proc__net__route=ROUTES)
    readers = Readers(tmp_path, metered_interfaces=names, ask=lambda: said)
    found = readers.read(metered=True, power=False, temperature=False)
    assert (found.metered, found.interface) == (metered, "eth0")


class Time:
    """A clock that a wait moves on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(("rate", "size", "chunk"), [(1000, 50_000, 16_384), (10, 200, 7)])
def test_uploads_keep_the_rate_but_for_one_burst(rate: int, size: int, chunk: int) -> None:
    clock = Time()
    bucket = TokenBucket(rate, clock.wait, clock)
    sent = 0
    while sent < size:
        bucket.take(min(chunk, size - sent))
        sent += chunk
    assert clock.now == pytest.approx(size / rate - 1)
    clock.now += 100
    before = clock.now
    bucket.take(2 * rate)
    assert clock.now - before == pytest.approx(1)  # a rest saves up one second, not a hundred


def test_what_is_taken_at_one_moment_waits_in_line() -> None:
    waits: list[float] = []
    bucket = TokenBucket(1000, waits.append, lambda: 0.0)  # no time passes: as four threads at once
    for _ in range(4):
        bucket.take(1000)
    assert waits == [1, 2, 3]


@pytest.mark.parametrize(("share", "rest"), [(1.0, 0), (0.5, 2), (0.25, 6)])
def test_a_share_of_the_processor_is_slept_off(share: float, rest: float) -> None:
    assert rest_after(2.0, share) == pytest.approx(rest)


class Machine:
    """A processor whose batches take as long as they say."""

    def __init__(self) -> None:
        self.clock = Time()
        self.cpu = 0.0

    def compute(self, seconds: float, *, idle: float = 0.0) -> None:
        self.cpu += seconds
        self.clock.now += seconds + idle


class StopThatMovesTheClock(threading.Event):
    def __init__(self, clock: Time) -> None:
        super().__init__()
        self._clock = clock

    def wait(self, timeout: float | None = None) -> bool:
        self._clock.wait(timeout or 0)
        return self.is_set()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("idle", [0.0, 0.3])
def test_the_gate_keeps_the_share_on_average(tmp_path: Path, share: float, idle: float) -> None:
    machine = Machine()
    gate = PolicyGate(
        Policy(cpu_share=share),
        Readers(tmp_path),
        StopThatMovesTheClock(machine.clock),
        clock=machine.clock,
        cpu=lambda: machine.cpu,
    )
    for _ in range(100):
        gate.before_batch()
        machine.compute(1.0, idle=idle)
    gate.before_batch()
    assert machine.cpu / machine.clock.now == pytest.approx(min(share, 1 / (1 + idle)))


def test_the_gate_holds_until_the_machine_is_cool_and_tells_why(tmp_path: Path) -> None:
    zone = "sys__class__thermal__thermal_zone0__temp"
    write(tmp_path, **{zone: "90000"})
    clock = Time()
    told: list[str] = []

    def hold(reasons: list[object]) -> None:
        told.extend(str(reason) for reason in reasons)
        write(tmp_path, **{zone: "60000"})

    stop = StopThatMovesTheClock(clock)
    gate = PolicyGate(
        Policy(pause_above_temp=70), Readers(tmp_path), stop, clock=clock, on_hold=hold
    )
    gate.before_batch()
    assert len(told) == 1
    assert 0 < clock.now <= 30
    stop.set()
    write(tmp_path, **{zone: "90000"})
    clock.now += 100
    gate.before_batch()  # a stop goes before everything


def test_a_policy_is_stored_and_read_as_it_was(tmp_path: Path) -> None:
    policy = Policy(
        only_unmetered=True,
        metered_interfaces=("wwan0",),
        only_charging=True,
        pause_above_temp=70.5,
        max_rate=125_000,
        cpu_share=0.5,
        quiet_hours=QuietHours.parse("22:00-06:30"),
    )
    assert load_policy(tmp_path) == Policy()
    store_policy(tmp_path, policy)
    assert load_policy(tmp_path) == policy


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("only_unmetered", "yes"),
        ("only_charging", 1),
        ("metered_interfaces", "wlan0"),
        ("metered_interfaces", [""]),
        ("pause_above_temp", "hot"),
        ("pause_above_temp", True),
        ("pause_above_temp", 1000),
        ("max_rate", 0),
        ("cpu_share", 0),
        ("cpu_share", 1.1),
        ("quiet_hours", 7),
        ("quiet_hours", "7-8"),
        ("quite_hours", "22:00-06:30"),
    ],
)
def test_a_wrong_policy_is_refused_by_the_name_of_the_field(
    tmp_path: Path, field: str, value: object
) -> None:
    with pytest.raises(StateError, match=field):
        read_policy({field: value})
    (tmp_path / "policy.json").write_text(json.dumps({field: value}))
    with pytest.raises(StateError, match=rf"policy\.json: .*{field}"):
        load_policy(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "null"])
def test_a_policy_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "policy.json").write_text(text)
    with pytest.raises(StateError, match=r"policy\.json"):
        load_policy(tmp_path)
