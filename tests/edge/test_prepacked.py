"""The prepacked cache: whole or absent, made for exactly this device, never trusted unchecked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from splitfrozen import Bundle, read_bundle
from splitfrozen.bundle import hash_file
from splitfrozen.graph import DEVICE_GRAPH, DEVICE_WEIGHTS, HIDDEN
from splitfrozen_edge.model import prepacking
from splitfrozen_edge.model.opening import open_session
from splitfrozen_edge.model.prepacked import Layout, PrepackedCache, PrepackedError, is_whole
from splitfrozen_edge.model.processor import processor_key
from splitfrozen_edge.model.session import RUNTIME, Graph, GraphOptions, save_prepacked
from splitfrozen_edge.model.threads import typical_ids
from tests.edge.products_bundle import write_products_bundle

WEIGHTS = 1_000_000  # bytes; only for the question whether there is room


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return read_bundle(write_products_bundle(tmp_path_factory.mktemp("b") / "int8", "int8"))


class Saving:
    """A cache that counts what it had to make."""

    def __init__(self, directory: Path, bundle: Bundle) -> None:
        self.made = 0
        self.layout = Layout(bundle.id, DEVICE_GRAPH, "0" * 16, RUNTIME)
        self._source = bundle.path(DEVICE_GRAPH)
        self._cache = PrepackedCache(directory, self._save)

    def find(self, layout: Layout | None = None) -> Path:
        return self._cache.find(layout or self.layout, self._source, WEIGHTS)

    def _save(self, source: Path, directory: Path) -> None:
        self.made += 1
        save_prepacked(source, directory, threads=1)


@pytest.fixture
def cache(tmp_path: Path, bundle: Bundle) -> Saving:
    return Saving(tmp_path / "prepacked", bundle)


def test_it_is_made_once(cache: Saving) -> None:
    first = cache.find()
    assert cache.find() == first
    assert cache.made == 1
    Graph(first, GraphOptions(1, saved=True))


@pytest.mark.parametrize("field", ["bundle", "graph", "processor", "runtime"])
def test_another_bundle_graph_processor_or_runtime_has_another_place(
    cache: Saving, field: str
) -> None:
    other = replace(cache.layout, **{field: getattr(cache.layout, field) + "x"})
    assert other.name() != cache.layout.name()


def test_what_another_processor_or_runtime_wrote_is_removed(cache: Saving) -> None:
    old = cache.find()
    cache.find(replace(cache.layout, runtime="onnxruntime 9.9"))
    assert not old.exists()
    assert cache.made == 2


def test_a_copy_under_another_name_is_not_believed(cache: Saving) -> None:
    mine = cache.find().parent
    foreign = replace(cache.layout, processor="f" * 16)
    mine.rename(mine.with_name(foreign.name()))
    cache.find(foreign)
    assert cache.made == 2


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def grow(path: Path) -> None:
    path.with_name("more").write_bytes(b"x")


DAMAGE = {
    "a flipped byte of the graph": (DEVICE_GRAPH, flip),
    "a flipped byte of the weights": (DEVICE_WEIGHTS, flip),
    "weights cut short": (DEVICE_WEIGHTS, lambda path: os.truncate(path, 100)),
    "no weights": (DEVICE_WEIGHTS, lambda path: path.unlink()),
    "an index that is no JSON": ("prepacked.json", lambda path: path.write_text("{")),
    "an index of nothing": ("prepacked.json", lambda path: path.write_text("{}")),
    "no index": ("prepacked.json", lambda path: path.unlink()),
    "a file that the index does not name": (DEVICE_GRAPH, grow),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_damaged_is_made_again(cache: Saving, damage: str) -> None:
    place = cache.find().parent
    name, harm = DAMAGE[damage]
    harm(place / name)
    assert not is_whole(place, cache.layout)
    cache.find()
    assert is_whole(place, cache.layout)
    assert cache.made == 2


def test_at_most_four_graphs_are_kept(cache: Saving, tmp_path: Path) -> None:
    layouts = [replace(cache.layout, bundle=f"{i}") for i in range(6)]
    for age, layout in enumerate(layouts):
        place = cache.find(layout).parent
        os.utime(place, (age, age))
    left = {path.name for path in (tmp_path / "prepacked").iterdir() if path.is_dir()}
    assert left == {layout.name() for layout in layouts[2:]}


KILLED = """
import os, signal, sys
from pathlib import Path
from splitfrozen_edge.model.prepacked import Layout, PrepackedCache

def save(source, directory):
    (directory / "device.onnx").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)

PrepackedCache(Path(sys.argv[1]), save).find(Layout("b", "device.onnx", "p", "r"), Path("x"), 1)
"""


def test_a_kill_in_the_middle_leaves_nothing_that_is_used(cache: Saving, tmp_path: Path) -> None:
    directory = tmp_path / "prepacked"
    done = subprocess.run([sys.executable, "-c", KILLED, str(directory)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in directory.iterdir() if path.name.startswith(".part-")]
    cache.find()
    assert not [path.name for path in directory.iterdir() if path.name.startswith(".part-")]


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path, bundle: Bundle) -> None:
    def fail(source: Path, directory: Path) -> None:
        (directory / "half").touch()
        raise OSError(28, "No space left on device")

    cache = PrepackedCache(tmp_path / "p", fail)
    with pytest.raises(PrepackedError, match="No space left"):
        cache.find(Layout("b", DEVICE_GRAPH, "p", "r"), bundle.path(DEVICE_GRAPH), WEIGHTS)
    assert [path.name for path in (tmp_path / "p").iterdir()] == ["lock"]


def test_a_disk_without_room_is_left_alone(tmp_path: Path, bundle: Bundle) -> None:
    cache = PrepackedCache(tmp_path / "p", lambda source, directory: None)
    with pytest.raises(PrepackedError, match="MB free"):
        cache.find(Layout("b", DEVICE_GRAPH, "p", "r"), bundle.path(DEVICE_GRAPH), 1 << 60)


def test_a_file_that_passes_its_hashes_but_cannot_be_loaded_is_passed_over(
    tmp_path: Path, bundle: Bundle
) -> None:
    ids = typical_ids(60, 5)
    normal = open_session(bundle, tmp_path, memory="normal", threads=1)
    open_session(bundle, tmp_path, memory="low", threads=1)
    layout = Layout(bundle.id, DEVICE_GRAPH, processor_key(), RUNTIME)
    place = tmp_path / "prepacked" / layout.name()
    (place / DEVICE_GRAPH).write_bytes(b"no graph")
    index = json.loads((place / "prepacked.json").read_text())
    index["files"][DEVICE_GRAPH] = [hash_file(place / DEVICE_GRAPH), len(b"no graph")]
    (place / "prepacked.json").write_text(json.dumps(index))
    assert is_whole(place, layout)
    low = open_session(bundle, tmp_path, memory="low", threads=1)
    mask = np.ones_like(ids)
    assert low.run(ids, mask)[HIDDEN].tobytes() == normal.run(ids, mask)[HIDDEN].tobytes()


def test_the_processor_key_tells_machines_apart(tmp_path: Path) -> None:
    def key(cpuinfo: str, machine: str) -> str:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
        (tmp_path / "machine-id").write_text(machine)
        return processor_key(tmp_path / "cpuinfo", tmp_path / "machine-id")

    pi4 = "processor : 0\nFeatures : fp asimd\nCPU part : 0xd08\n"
    pi5 = "processor : 0\nFeatures : fp asimd asimddp\nCPU part : 0xd0b\n"
    first = key(pi4, "m1\n")
    assert first == key(pi4.replace(": 0\n", ": 3\n"), "m1")  # another core of the same kind
    assert first == key(pi4.replace("fp asimd", "asimd fp") + "BogoMIPS : 108.0\n", "m1")
    assert len({first, key(pi5, "m1"), key(pi4, "m2"), processor_key(tmp_path / "no")}) == 4


def test_a_layout_that_computes_something_else_is_refused(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_products_bundle(tmp_path / "other", "int8", seed=1)

    def wrong(source: Path, directory: Path, *, threads: int) -> None:
        save_prepacked(other / source.name, directory, threads=threads)

    monkeypatch.setattr(prepacking, "save_prepacked", wrong)
    cache = PrepackedCache(tmp_path / "p", prepacking.save_checked)
    with pytest.raises(PrepackedError, match="hidden differs for 1 x 1 tokens"):
        cache.find(Layout("b", DEVICE_GRAPH, "p", "r"), bundle.path(DEVICE_GRAPH), WEIGHTS)
