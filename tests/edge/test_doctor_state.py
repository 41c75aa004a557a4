"""The doctor on the device's own directory: modes, file systems, damaged files."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest

from splitfrozen_edge.checkup.doctor.examine import Examination, examine
from splitfrozen_edge.checkup.doctor.findings import Finding
from splitfrozen_edge.checkup.doctor.state import file_system
from splitfrozen_edge.checkup.doctor.state_words import Place, check_disk, check_place
from splitfrozen_edge.state import Enrolment, StateDirectory


@pytest.fixture
def healthy(tmp_path: Path) -> StateDirectory:
    state = StateDirectory(tmp_path / "state")
    state.outbox().close()
    state.key()
    state.store_enrolment(Enrolment("http://127.0.0.1:9", "dev_1", "pi", "token"))
    return state


def look(state: StateDirectory, bundle: str | None = None) -> dict[str, Finding]:
    wanted = Examination(state, bundle=bundle, offline=True)
    return {item.check: item for item in examine(wanted)}


def test_what_others_may_read_is_found(healthy: StateDirectory) -> None:
    assert look(healthy)["permissions"].status == "ok"
    healthy.path.chmod(0o755)
    found = look(healthy)["permissions"]
    assert found.status == "fail"
    assert ". 0755" in found.found
    healthy.path.chmod(0o700)
    (healthy.path / "device.json").chmod(0o644)
    found = look(healthy)["permissions"]
    assert found.status == "fail"
    assert "device.json 0644" in found.found
    assert f"chmod -R go= {healthy.path}" in found.advice
    subprocess.run(found.advice.partition(";")[0].split(), check=True)
    assert look(healthy)["permissions"].status == "ok"


def test_looking_changes_nothing(healthy: StateDirectory) -> None:
    def everything() -> dict[str, tuple[int, bytes]]:
        files = [path for path in healthy.path.rglob("*") if path.is_file()]
        return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before = everything()
    look(healthy)
    assert everything() == before


def test_an_outbox_that_is_in_use_is_looked_at_as_it_is(healthy: StateDirectory) -> None:
    outbox = healthy.outbox()
    outbox.remember_bundle("d" * 64, healthy.path / "gone")
    assert look(healthy)["outbox"].status == "ok"
    outbox.close()


def test_a_damaged_outbox_is_found(healthy: StateDirectory) -> None:
    assert look(healthy)["outbox"].status == "ok"
    path = healthy.path / "outbox.sqlite3"
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode = DELETE")
    database.executescript(
        "CREATE TABLE filler (x); WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL "
        "SELECT i+1 FROM n WHERE i<2000) INSERT INTO filler SELECT hex(i) FROM n"
    )
    database.close()
    with path.open("r+b") as stream:
        stream.seek(path.stat().st_size - 8192)
        stream.write(b"\xff" * 4096)
    found = look(healthy)["outbox"]
    assert found.status == "fail"
    assert "damaged" in found.found
    path.write_bytes(b"no database at all" * 100)
    assert "not a database" in look(healthy)["outbox"].found


def test_a_damaged_bundle_is_found_and_not_run(
    healthy: StateDirectory, encoder_bundle: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(encoder_bundle, tmp_path / "bundle")
    assert look(healthy, str(copy))["bundle"].status == "ok"
    weights = copy / "device.onnx.data"
    raw = bytearray(weights.read_bytes())
    raw[100] ^= 1
    weights.write_bytes(raw)
    found = look(healthy, str(copy))
    assert found["bundle"].status == "fail"
    assert "SHA-256" in found["bundle"].found
    assert "a tiny model" in found["runtime"].found


def test_every_bundle_that_the_device_has_is_looked_at(
    healthy: StateDirectory, encoder_bundle: Path, decoder_bundle: Path
) -> None:
    outbox = healthy.outbox()
    outbox.remember_bundle("a" * 64, encoder_bundle)
    outbox.close()
    shutil.copytree(decoder_bundle, healthy.bundles / ("b" * 64))
    found = [item for item in examine(Examination(healthy, offline=True)) if item.check == "bundle"]
    assert [item.status for item in found] == ["ok", "ok"]


def test_a_bundle_that_is_not_there(healthy: StateDirectory) -> None:
    assert look(healthy, "c" * 64)["bundle"].status == "fail"
    assert look(healthy, "/no/such/place")["bundle"].status == "fail"


def test_a_damaged_enrolment(healthy: StateDirectory) -> None:
    (healthy.path / "device.json").write_text("{")
    found = look(healthy)["enrolment"]
    assert found.status == "fail"
    assert "damaged" in found.found


@pytest.mark.parametrize(
    ("kind", "writable", "status"),
    [
        ("ext4", True, "ok"), ("f2fs", True, "ok"), ("vfat", True, "fail"), ("nfs4", True, "fail"),
        ("tmpfs", True, "warn"), ("overlay", True, "warn"), ("ext4", False, "fail"),
    ],
)  # fmt: skip
def test_file_systems(kind: str, writable: bool, status: str) -> None:
    assert check_place(Path("/state"), Place(kind, writable, 1 << 33)).status == status


@pytest.mark.parametrize(("free", "status"), [(1e9, "ok"), (250e6, "warn"), (1e6, "fail")])
def test_room_on_the_disk(free: float, status: str) -> None:
    assert check_disk(Place("ext4", True, int(free)), 100_000_000).status == status


def test_the_innermost_mount_counts() -> None:
    mounts = (
        "21 1 179:2 / / rw,noatime shared:1 - ext4 /dev/root rw\n"
        "30 21 179:1 / /boot/firmware rw - vfat /dev/mmcblk0p1 rw\n"
        "31 21 8:1 / /media/pi/USB\\040STICK rw - exfat /dev/sda1 rw\n"
    )
    assert file_system(mounts, Path("/boot/firmware/state")) == "vfat"
    assert file_system(mounts, Path("/bootstrap")) == "ext4"
    assert file_system(mounts, Path("/media/pi/USB STICK/state")) == "exfat"
    assert file_system("", Path("/")) == ""
