"""How many threads: measured once within a budget, remembered, never a reason to fail."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from splitfrozen import Bundle, read_bundle
from splitfrozen_edge.model import opening
from splitfrozen_edge.model.cores import cpu_quota, default_threads
from splitfrozen_edge.model.opening import choose_threads, open_session
from splitfrozen_edge.model.threads import ThreadChoices, candidates, fewest, measure
from tests.edge.products_bundle import write_products_bundle


class Clock:
    """Time that passes only when a batch runs."""

    def __init__(self) -> None:
        self.now = 0.0
        self.prepared: list[int] = []

    def __call__(self) -> float:
        return self.now

    def prepare(self, seconds: dict[int, float]) -> Callable[[int], Callable[[], object]]:
        def make(threads: int) -> Callable[[], object]:
            self.prepared.append(threads)

            def run() -> None:
                self.now += seconds[threads]

            return run

        return make


@pytest.mark.parametrize(
    ("cores", "wanted"),
    [(1, (1,)), (2, (2, 1)), (3, (3, 2, 1)), (4, (4, 2, 1)), (64, (4, 2, 1))],
)
def test_one_two_four_up_to_the_cores(cores: int, wanted: tuple[int, ...]) -> None:
    assert candidates(cores) == wanted


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [
        ({1: 0.1, 2: 0.06, 4: 0.04}, 4),
        ({1: 0.1, 2: 0.06, 4: 0.058}, 2),  # two more cores for 3 percent
        ({1: 0.1, 2: 0.095, 4: 0.2}, 1),
        ({4: 0.2}, 4),
    ],
)
def test_more_threads_must_pay(seconds: dict[int, float], wanted: int) -> None:
    assert fewest(seconds) == wanted


def test_the_fastest_of_a_few_runs_counts() -> None:
    clock = Clock()
    seconds = {4: 0.05, 2: 0.08, 1: 0.1}
    found = measure(clock.prepare(seconds), (4, 2, 1), clock=clock)
    assert found == pytest.approx(seconds)
    assert clock.now == pytest.approx(4 * sum(seconds.values()))


def test_a_slow_device_stops_within_its_budget() -> None:
    clock = Clock()
    found = measure(clock.prepare({4: 0.9, 2: 1.5, 1: 3.0}), (4, 2, 1), budget=2.0, clock=clock)
    assert found == {4: pytest.approx(0.9)}
    assert clock.prepared == [4]
    assert clock.now <= 2.0 + 0.9


def test_a_measurement_can_be_interrupted() -> None:
    stop = threading.Event()
    clock = Clock()
    runs = 0

    def prepare(threads: int) -> Callable[[], object]:
        def run() -> None:
            nonlocal runs
            runs += 1
            stop.set()

        return run

    assert measure(prepare, (4, 2, 1), stop=stop, clock=clock) == {}
    assert runs == 1


def test_choices_are_remembered_and_damage_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "new" / "threads.json"
    ThreadChoices(path).put("a", 2, {1: 0.1, 2: 0.05})
    assert ThreadChoices(path).get("a") == 2
    assert json.loads(path.read_text())["a"]["milliseconds"] == {"1": 100.0, "2": 50.0}
    for damage in ("{", "[]", '{"a": 3}', '{"a": {"threads": 0}}', '{"a": {"threads": 99}}'):
        path.write_text(damage)
        assert ThreadChoices(path).get("a") is None
    ThreadChoices(path).put("b", 1, {1: 0.1})
    assert ThreadChoices(path).get("b") == 1


def test_only_the_newest_choices_are_kept(tmp_path: Path) -> None:
    choices = ThreadChoices(tmp_path / "threads.json")
    for number in range(12):
        choices.put(str(number), 1, {1: 0.1})
    assert [choices.get(str(number)) for number in range(12)] == [None] * 4 + [1] * 8


def test_a_file_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ThreadChoices(tmp_path / "file" / "threads.json").put("a", 1, {1: 0.1})


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return read_bundle(write_products_bundle(tmp_path_factory.mktemp("b") / "int8", "int8"))


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "usable_cores", lambda: 2)


@pytest.mark.usefixtures("two_cores")
def test_a_bundle_is_measured_at_its_first_start_only(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = choose_threads(bundle, tmp_path)
    assert first in (1, 2)
    (entry,) = json.loads((tmp_path / "threads.json").read_text()).values()
    assert set(entry["milliseconds"]) == {"1", "2"}
    monkeypatch.setattr(opening, "measure", lambda *rest, **more: pytest.fail("measured again"))
    assert choose_threads(bundle, tmp_path) == first
    open_session(bundle, tmp_path, wire="fp32")


@pytest.mark.usefixtures("two_cores")
def test_an_interrupted_measurement_is_not_remembered(tmp_path: Path, bundle: Bundle) -> None:
    stop = threading.Event()
    stop.set()
    assert choose_threads(bundle, tmp_path, stop=stop) == default_threads()
    assert not (tmp_path / "threads.json").exists()


def test_asking_for_threads_measures_nothing(tmp_path: Path, bundle: Bundle) -> None:
    open_session(bundle, tmp_path, threads=1, wire="fp32", memory="normal")
    assert not (tmp_path / "threads.json").exists()


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({}, None),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"a/b/cpu.max": "50000 100000", "cpu.max": "200000 100000"}, 0.5),
        ({"a/cpu.max": "25000 100000", "a/b/cpu.max": "max 100000"}, 0.25),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3.0),
        ({"cpu.max": "garbage"}, None),
    ],
)
def test_the_quota_of_a_control_group_is_read(
    tmp_path: Path, files: dict[str, str], wanted: float | None
) -> None:
    own = tmp_path / "own"
    own.write_text("12:cpu:/\n0::/a/b\n")
    root = tmp_path / "cgroup"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    assert cpu_quota(root, own) == wanted
