"""`bench`: times, memory and link of a bundle, for people and for the planner."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from splitfrozen_edge.checkup.bench.blocks import BlockTimes, block_times, split_run
from splitfrozen_edge.checkup.bench.speed import fit_shapes, measure_speed
from splitfrozen_edge.cli import main
from splitfrozen_edge.http.uplink import read_uplink, remember_uplink
from splitfrozen_edge.state import Enrolment, StateDirectory
from tests.edge.products_bundle import write_products_bundle
from tests.edge.protocol_server import DEVICE_TOKEN, ProtocolServer

TABLE = [
    ("Gather", 1.0),
    ("MatMulIntegerToFloat", 2.0),
    ("Attention", 3.0),
    ("MatMulIntegerToFloat", 4.0),
    ("Add", 0.5),
    ("MatMulIntegerToFloat", 5.0),
    ("MatMulIntegerToFloat", 6.0),
    ("Add", 0.25),
    ("Round", 0.25),
]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_products_bundle(tmp_path_factory.mktemp("b") / "int8", "int8")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("home")
    done = run("--state-dir", home, "--bundle", bundle, "--seconds", "0.1", "--threads", "1",
               "--format", "json")  # fmt: skip
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_it_measures_the_three_shapes(found: dict[str, Any]) -> None:
    shapes = [(row["examples"], row["tokens"]) for row in found["batches"]]
    assert shapes == [(1, 16), (1, 32), (8, 32)]  # this bundle takes 32 tokens
    for row in found["batches"]:
        rate = row["examples"] * row["tokens"] / (row["milliseconds"] / 1000)
        assert row["tokens_per_second"] == pytest.approx(rate, rel=0.05)


def test_every_block_has_its_time(found: dict[str, Any]) -> None:
    blocks = found["blocks"]
    assert len(blocks["block_ms"]) == len(blocks["block_cpu_seconds"]) == 2
    assert all(value > 0 for value in blocks["block_ms"])
    assert "last product" in blocks["method"]


def test_memory_is_that_of_a_process_per_profile(found: dict[str, Any]) -> None:
    assert [row["profile"] for row in found["memory"].values()] == ["packed", "mapped"]
    for row in found["memory"].values():
        assert 10 < row["anon_mb"] < row["rss_mb"] < 500


def test_what_is_unknown_is_said(found: dict[str, Any]) -> None:
    assert found["uplink_bytes_per_second"] is None
    assert found["round_trip_ms"] is None


def test_a_person_gets_tables_and_nothing_is_uploaded_unasked(
    bundle: Path, state: StateDirectory, server: ProtocolServer
) -> None:
    remember_uplink(state.path, 3_000_000, 2.0)
    done = run("--state-dir", state.path, "--bundle", bundle, "--seconds", "0.1")
    assert done.exit_code == 0
    parts = ("precision int8", "tokens/s", "8 x 32", "block 1", "memory low", "1.50 MB/s")
    for part in (*parts, "round trip"):
        assert part in done.output
    assert not server.bodies("PUT")


def test_a_profile_fits_what_the_server_takes(found: dict[str, Any]) -> None:
    deep = {**found, "blocks": {**found["blocks"], "block_ms": [123.456] * 80}}
    deep["blocks"]["block_cpu_seconds"] = [0.12345] * 80
    assert len(json.dumps({"profile": deep})) <= 4096


def test_the_profile_is_uploaded_when_asked(
    bundle: Path, state: StateDirectory, server: ProtocolServer, found: dict[str, Any]
) -> None:
    options = ("--state-dir", state.path, "--bundle", bundle, "--seconds", "0.1")
    assert run(*options, "--upload").exit_code == 0
    (sent,) = [seen for seen in server.requests if seen.method == "PUT"]
    assert sent.path == "/v1/devices/self/profile"
    profile = json.loads(sent.body)["profile"]
    assert profile["bundle"] == found["bundle"]
    assert profile["round_trip_ms"] > 0


def test_a_server_that_is_away_is_a_warning_only(tmp_path: Path, bundle: Path) -> None:
    state = StateDirectory(tmp_path)
    state.store_enrolment(Enrolment("http://127.0.0.1:9", "dev_1", "pi-1", DEVICE_TOKEN))
    done = run("--state-dir", tmp_path, "--bundle", bundle, "--seconds", "0.1")
    assert done.exit_code == 0
    assert "the server was not asked" in done.stderr


@pytest.mark.parametrize("wanted", [(), ("--bundle", "0" * 64)])
def test_without_a_bundle_it_says_what_to_do(tmp_path: Path, wanted: tuple[str, ...]) -> None:
    done = run("--state-dir", tmp_path, *wanted)
    assert done.exit_code == 2
    assert "--bundle" in done.output


def test_a_block_ends_with_its_last_product() -> None:
    assert split_run(TABLE, 2) == BlockTimes(1.0, (9.0, 11.5), 0.5, True)
    assert split_run(TABLE, 4).blocks == (2.0, 7.0, 5.5, 6.0)


def test_products_that_do_not_divide_give_the_mean() -> None:
    assert split_run(TABLE, 3) == BlockTimes(0.0, (22.0 / 3,) * 3, 0.0, False)
    assert split_run([("Gather", 1.0)], 1).even is False


def test_the_first_run_of_a_profile_is_not_counted() -> None:
    events: list[dict[str, Any]] = [{"cat": "Session", "name": "session_initialization"}]
    for number, scale in enumerate((100, 1, 3)):
        start = number * 1_000_000
        for place, (operator, milliseconds) in enumerate(TABLE):
            node = {"cat": "Node", "name": "n_kernel_time", "ts": start + place * 1000}
            args = {"op_name": operator}
            events.append({**node, "dur": milliseconds * 1000 * scale, "args": args})
        run = {"cat": "Session", "name": "model_run", "ts": start, "dur": 900_000}
        events.append(run)
    found = block_times(events, 2)
    assert found is not None
    assert found.blocks == (18.0, 23.0)  # between 1 and 3 times
    assert block_times([], 2) is None


def test_shapes_are_no_longer_than_the_bundle_allows() -> None:
    assert fit_shapes(512) == [(1, 16), (1, 128), (8, 128)]
    assert fit_shapes(16) == [(1, 16), (8, 16)]


def test_speed_is_the_median_of_what_fits_into_the_time() -> None:
    now, spent = [0.0], iter([9.0, 0.1, 0.3, 0.2, 0.2, 0.2, 0.2])

    def batch() -> None:
        now[0] += next(spent)

    found = measure_speed(2, 10, batch, 9.7, wall=lambda: now[0], cpu=lambda: 2 * now[0])
    assert (found.runs, found.milliseconds, found.cpu_seconds) == (4, 200.0, 0.4)
    assert found.tokens_per_second == 100.0


def test_the_uplink_is_remembered_from_pushes_that_tell_something(tmp_path: Path) -> None:
    remember_uplink(tmp_path, 1000, 0.1)
    assert read_uplink(tmp_path) is None
    remember_uplink(tmp_path, 1_000_000, 4.0)
    found = read_uplink(tmp_path)
    assert found is not None
    assert found.bytes_per_second == 250_000
    (tmp_path / "uplink.json").write_text("{}")
    assert read_uplink(tmp_path) is None
    remember_uplink(tmp_path / "missing", 1_000_000, 4.0)  # no directory: no error
