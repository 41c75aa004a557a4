"""All checks in order: what is fast first, then what runs, then what waits for a network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as defaulted
from pathlib import Path

from splitfrozen_edge.checkup.doctor.findings import Finding, fail
from splitfrozen_edge.checkup.doctor.machine import check_clock, check_machine
from splitfrozen_edge.checkup.doctor.network import check_network, check_proxy, server_of
from splitfrozen_edge.checkup.doctor.readings import Machine, read_machine
from splitfrozen_edge.checkup.doctor.runtime import try_runtime
from splitfrozen_edge.checkup.doctor.runtime_words import judge_runtime
from splitfrozen_edge.checkup.doctor.state import (
    bundle_size,
    check_bundle,
    check_state,
    find_bundles,
    newest_change,
    read_enrolment,
)
from splitfrozen_edge.state import Enrolment, StateDirectory


@dataclass(frozen=True)
class Examination:
    """What to look at, and with what."""

    state: StateDirectory
    bundle: str | None = None  # directory or id; None: all that this device has
    launcher: Sequence[str] = ()  # put before Python where it cannot start itself
    offline: bool = False  # ask nobody on the network
    seconds: float = 10.0  # patience with the server
    proxies: Mapping[str, str] = defaulted(default_factory=dict)  # scheme -> URL
    machine: Callable[[], Machine] = read_machine
    now: Callable[[], float] = time.time  # this device's clock


def examine(wanted: Examination) -> Iterator[Finding]:
    """Yield each finding as soon as it is known."""
    machine = wanted.machine()
    bundles = find_bundles(wanted.state, wanted.bundle)
    needed = max(map(bundle_size, bundles), default=0)
    yield from check_machine(machine, needed)
    yield check_clock(machine, wanted.now(), newest_change(wanted.state.path))
    yield from check_state(wanted.state, needed)
    enrolment, finding = read_enrolment(wanted.state)
    yield finding
    whole: list[Path] = []
    for directory in bundles:
        found, finding = check_bundle(directory)
        yield finding
        if found is not None:
            whole.append(directory)
    trial = try_runtime(whole[0] if whole else None, wanted.launcher)
    yield judge_runtime(trial, machine.machine)
    if enrolment is not None and not wanted.offline:
        yield from _check_server(wanted, enrolment)


def _check_server(wanted: Examination, enrolment: Enrolment) -> Iterator[Finding]:
    server = server_of(enrolment)
    if server is None:
        found = "the enrolled server is neither http://HOST:PORT nor https://…"
        yield fail("address", found, "splitfrozen-edge enroll --force --server URL --token …")
        return
    proxy = check_proxy(wanted.proxies, server)
    if proxy is not None:
        yield proxy
    yield from check_network(server, seconds=wanted.seconds, now=wanted.now)
