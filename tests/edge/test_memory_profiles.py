"""Memory profiles: chosen for a reason, never at the price of other activations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from splitfrozen import Bundle, read_bundle
from splitfrozen.graph import DEVICE_GRAPH, HIDDEN
from splitfrozen_edge.model.memory import available_memory, want_low, why_packed
from splitfrozen_edge.model.opening import open_session, plan_graph
from splitfrozen_edge.model.session import DeviceSession
from splitfrozen_edge.model.threads import typical_ids
from tests.edge.products_bundle import write_products_bundle

PRECISIONS = ("fp32", "int8", "int8-hq")
MB = 1_000_000


@pytest.fixture(scope="module", params=PRECISIONS)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    directory = tmp_path_factory.mktemp("products") / request.param
    return read_bundle(write_products_bundle(directory, request.param))


def activations(session: DeviceSession) -> bytes:
    found = b""
    for batch, tokens in ((1, 1), (1, 5), (3, 7), (4, 32)):
        ids = typical_ids(60, tokens, batch)
        found += session.run(ids, np.ones_like(ids))[HIDDEN].tobytes()
    return found


def test_low_memory_gives_the_same_bits(bundle: Bundle, tmp_path: Path) -> None:
    normal = activations(open_session(bundle, tmp_path, memory="normal", threads=1))
    assert len(set(np.frombuffer(normal, np.float32))) > 100
    for threads in (1, 2):  # the first makes the prepacked file, the second finds it
        low = open_session(bundle, tmp_path, memory="low", threads=threads)
        assert activations(low) == normal
    assert plan_graph(bundle, DEVICE_GRAPH, tmp_path, "low").profile == "mapped"


def test_without_a_disk_for_it_only_int8_runs_unpacked(bundle: Bundle, tmp_path: Path) -> None:
    normal = activations(open_session(bundle, tmp_path, memory="normal", threads=1))
    (tmp_path / "prepacked").touch()  # no directory can be made there
    plan = plan_graph(bundle, DEVICE_GRAPH, tmp_path, "low")
    precision = bundle.manifest.precision
    assert plan.profile == ("unpacked" if precision == "int8" else "packed")
    assert plan.options(1).prepack is (precision != "int8")
    if precision == "int8-hq":
        assert "MatMulNBits" in plan.reason
    assert activations(open_session(bundle, tmp_path, memory="low", threads=1)) == normal


def test_matmulnbits_is_never_unpacked_whatever_the_manifest_says(tmp_path: Path) -> None:
    manifest = read_bundle(write_products_bundle(tmp_path / "int8", "int8")).manifest
    blocked = read_bundle(write_products_bundle(tmp_path / "hq", "int8-hq"))
    assert why_packed(manifest, (tmp_path / "int8" / DEVICE_GRAPH).read_bytes()) is None
    graph = blocked.path(DEVICE_GRAPH).read_bytes()
    assert "MatMulNBits" in str(why_packed(manifest, graph))


def test_layers_that_were_kept_in_fp32_forbid_unpacking(tmp_path: Path) -> None:
    bundle = read_bundle(write_products_bundle(tmp_path / "b", "int8", kept=("h.0.mlp.c_proj",)))
    assert "kept in fp32" in str(why_packed(bundle.manifest, b""))


@pytest.mark.parametrize(
    ("memory", "available", "low"),
    [
        ("auto", 8000 * MB, False),
        ("auto", 200 * MB, True),
        ("auto", None, False),
        ("low", 8000 * MB, True),
        ("low", None, True),
        ("normal", 10 * MB, False),
    ],
)
def test_little_free_memory_means_the_low_profile(
    memory: str, available: int | None, low: bool
) -> None:
    wanted = want_low(memory, 68 * MB, available)
    assert wanted.low is low
    assert wanted.reason


def test_a_control_group_counts_as_free_memory(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  8000000 kB\nMemAvailable:  4000000 kB\n")
    group = tmp_path / "group"
    group.mkdir()
    assert available_memory(meminfo, group) == 4_096_000_000
    (group / "memory.max").write_text("300000000\n")
    (group / "memory.current").write_text("100000000\n")
    assert available_memory(meminfo, group) == 200_000_000
    (group / "memory.max").write_text("max\n")
    assert available_memory(meminfo, group) == 4_096_000_000
    assert available_memory(tmp_path / "none", group / "none") is None
