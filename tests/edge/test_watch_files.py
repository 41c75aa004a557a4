"""Watched files: grown, half-written, rotated, cut, replaced, linked, unreadable, broken."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from splitfrozen_edge.watching import lines
from splitfrozen_edge.watching.files import LINES, TEXTS, WHOLE
from splitfrozen_edge.watching.ledger import KEPT_BAD_LINES
from splitfrozen_edge.watching.opening import open_ledger
from splitfrozen_edge.watching.overview import read_watches
from tests.edge.watched import Watching, append, line


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "in"
    path.mkdir()
    return path


@pytest.fixture
def watching(tmp_path: Path, folder: Path) -> Iterator[Watching]:
    found = Watching(tmp_path, folder)
    yield found
    found.ledger.close()


def bad(watching: Watching, tmp_path: Path) -> list[tuple[int, str]]:
    """All bad lines of the watch."""
    (state,) = read_watches(tmp_path / "watch.sqlite3")
    return [item for file in state.files for item in file.bad_lines]


def test_new_lines_are_taken_once(watching: Watching, folder: Path) -> None:
    append(folder / "a.jsonl", "one", "two")
    assert watching.poll() == 2
    append(folder / "a.jsonl", "three")
    assert watching.poll() == 1
    assert watching.poll() == 0
    assert watching.outbox.again == 0


def test_a_half_written_last_line_waits(watching: Watching, folder: Path) -> None:
    path = append(folder / "a.jsonl", "one")
    whole = line("two")
    for end in range(1, len(whole) - 1):
        with path.open("a") as stream:
            stream.write(whole[end - 1 : end])
        assert watching.poll() == (1 if end == 1 else 0)
    with path.open("a") as stream:
        stream.write(whole[-2:])
    assert watching.poll() == 1
    assert watching.outbox.texts() == {"one": 1, "two": 1}


def test_a_whole_object_without_a_line_break_is_taken_when_the_file_rests(
    watching: Watching, folder: Path
) -> None:
    path = folder / "a.jsonl"
    path.write_text(line("one") + line("two").rstrip())
    assert watching.poll() == 2
    with path.open("a") as stream:
        stream.write("\n" + line("three"))
    assert watching.poll() == 1
    assert watching.outbox.texts() == {"one": 1, "two": 1, "three": 1}


def test_a_repeated_line_is_another_example_also_across_batches(
    watching: Watching, folder: Path
) -> None:
    append(folder / "a.jsonl", "one", "one")
    watching.poll()
    append(folder / "a.jsonl", "one")
    watching.poll()
    watching.crash()
    append(folder / "a.jsonl", "one")
    watching.poll()
    assert watching.outbox.ids == {("one", count) for count in range(4)}


def test_the_same_line_in_two_files_is_one_example(watching: Watching, folder: Path) -> None:
    append(folder / "a.jsonl", "one")
    append(folder / "b.jsonl", "one", "two")
    watching.poll()
    assert watching.outbox.texts() == {"one": 1, "two": 1}


def test_rows_of_a_lost_batch_are_read_again_under_the_same_ids(
    watching: Watching, folder: Path
) -> None:
    append(folder / "a.jsonl", "one", "one", "two")
    watching.poll(lose=True)
    assert watching.poll() == 3
    assert watching.outbox.ids == {("one", 0), ("one", 1), ("two", 0)}


def test_a_restart_reads_nothing_again(watching: Watching, folder: Path) -> None:
    append(folder / "a.jsonl", "one")
    (folder / "b.csv").write_text("text,label\nx,y\n")
    watching.poll()
    watching.crash()
    assert watching.poll() == 0


def test_a_renamed_file_is_the_same_file(watching: Watching, folder: Path) -> None:
    path = append(folder / "a.jsonl", "one", "one")
    watching.poll()
    append(path, "two")
    path.rename(folder / "b.jsonl")
    append(folder / "a.jsonl", "three")
    assert watching.poll() == 2
    append(folder / "b.jsonl", "four")
    assert watching.poll() == 1
    assert watching.outbox.again == 0


def test_the_last_rows_before_a_rotation_are_found_under_the_new_name(
    watching: Watching, folder: Path
) -> None:
    path = append(folder / "a.jsonl", "one")
    watching.poll()
    append(path, "two")
    path.rename(folder / "a.jsonl.1")
    append(path, "three")
    assert watching.poll() == 2
    append(folder / "a.jsonl.1", "late")  # its writer has not noticed the rotation yet
    assert watching.poll() == 1
    watching.crash()
    append(folder / "a.jsonl.1", "later")
    assert watching.poll() == 1
    (folder / "a.jsonl.1").rename(folder / "a.jsonl.2")
    append(folder / "a.jsonl.2", "latest")
    assert watching.poll() == 1
    assert watching.outbox.again == 0


def test_a_rotated_file_is_let_go_when_nobody_writes_it(watching: Watching, folder: Path) -> None:
    path = append(folder / "a.jsonl", "one")
    watching.poll()
    watching.now = 1.0
    path.rename(folder / "a.jsonl.1")
    watching.poll()
    watching.now = 700.0
    watching.poll()
    append(folder / "a.jsonl.1", "far too late")
    assert watching.poll() == 0
    assert watching.collector._files == {}


def test_the_last_rows_before_a_copytruncate_are_found_in_the_copy(
    watching: Watching, folder: Path
) -> None:
    path = append(folder / "a.jsonl", "one", "one")
    watching.poll()
    append(path, "two", "one")
    shutil.copy(path, folder / "a.jsonl.1")
    os.truncate(path, 0)
    append(path, "new", "one")
    watching.poll()
    assert watching.outbox.texts() == {"one": 3, "two": 1, "new": 1}


@pytest.mark.parametrize("rows", [1, 3, 50])
def test_a_cut_file_is_read_from_its_start(watching: Watching, folder: Path, rows: int) -> None:
    path = append(folder / "a.jsonl", "one", "two", "three")
    watching.poll()
    os.truncate(path, 0)
    append(path, *(f"new {i}" for i in range(rows)))
    assert watching.poll() == rows


def test_an_editor_that_replaces_a_file_adds_only_what_is_new(
    watching: Watching, folder: Path
) -> None:
    path = append(folder / "a.jsonl", "one", "two", "two")
    watching.poll()
    other = append(folder / ".a.jsonl.swp", "zero", "one", "two", "two", "two")
    assert watching.poll() == 0  # hidden: unfinished
    other.rename(path)
    watching.poll()
    assert watching.outbox.texts() == {"zero": 1, "one": 1, "two": 3}


def test_a_deleted_file_is_forgotten_and_the_others_go_on(watching: Watching, folder: Path) -> None:
    append(folder / "a.jsonl", "one").with_name("b.jsonl").write_text(line("two"))
    watching.poll()
    (folder / "a.jsonl").unlink()
    append(folder / "b.jsonl", "three")
    assert watching.poll() == 1
    assert len(watching.collector._files) == 1


def test_a_folder_that_is_away_for_a_while_is_not_read_again(
    watching: Watching, folder: Path
) -> None:
    append(folder / "a.jsonl", "one")
    watching.poll()
    folder.rename(folder.with_name("away"))
    assert watching.poll() == 0
    assert watching.collector.problems == {str(folder): "is not there yet"}
    folder.with_name("away").rename(folder)
    assert watching.poll() == 0
    assert watching.collector.problems == {}


def test_files_of_subfolders_and_files_that_appear_by_rename(
    watching: Watching, folder: Path, tmp_path: Path
) -> None:
    (folder / "deep" / "er").mkdir(parents=True)
    append(folder / "deep" / "er" / "a.jsonl", "one")
    append(tmp_path / "b.jsonl", "two").rename(folder / "deep" / "b.jsonl")
    append(folder / "deep" / "c.log", "no row")
    assert watching.poll() == 2


def test_links_lead_to_files_once_and_never_in_circles(
    watching: Watching, folder: Path, tmp_path: Path
) -> None:
    append(tmp_path / "real.jsonl", "one")
    (folder / "x.jsonl").symlink_to(tmp_path / "real.jsonl")
    os.link(tmp_path / "real.jsonl", folder / "y.jsonl")
    (folder / "circle").symlink_to(folder)
    (folder / "broken.jsonl").symlink_to(tmp_path / "nothing")
    assert watching.poll() == 1
    append(tmp_path / "real.jsonl", "two")
    assert watching.poll() == 1


def test_a_file_that_cannot_be_read_is_named_and_stops_no_other(
    watching: Watching, folder: Path
) -> None:
    """Root reads everything, so the refusal comes from a file that cannot be opened at all."""
    append(folder / "b.jsonl", "two")
    locked = append(folder / "a.jsonl", "one")
    if os.geteuid() == 0:
        locked.unlink()
        (folder / "a.jsonl").symlink_to("/proc/self/mem")
    else:
        locked.chmod(0)
    assert watching.poll() == 1
    if os.geteuid() != 0:
        assert watching.collector.problems == {str(locked): "cannot be read: Permission denied"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"{nonsense}\n", "is not JSON"),
        (b"[1]\n", "is not a JSON object"),
        (b'{"text": "\xff"}\n', "byte 11 of the line is not UTF-8"),
        (b'{"a": 1, "a": 2}\n', "repeats a key"),
        (b"\x00\x00\n", "is not JSON"),
    ],
)
def test_a_bad_line_is_reported_once_and_stops_no_other(
    watching: Watching, folder: Path, tmp_path: Path, text: bytes, reason: str
) -> None:
    path = append(folder / "a.jsonl", "one")
    with path.open("ab") as stream:
        stream.write(b"\n" + text)
    append(path, "two")
    assert watching.poll() == 2
    ((number, why),) = bad(watching, tmp_path)
    assert (number, reason in why) == (3, True)
    append(path, "three")
    watching.poll()
    assert len(bad(watching, tmp_path)) == 1


def test_a_line_without_end_does_not_fill_the_memory(
    watching: Watching, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "MAX_LINE", 1000)
    path = folder / "a.jsonl"
    path.write_bytes(b"x" * 3500 + b"\n")
    append(path, "one")
    assert watching.poll() == 1
    assert bad(watching, tmp_path)[0] == (1, "is longer than 1000 bytes")


def test_a_file_of_garbage_does_not_fill_the_memory(watching: Watching, folder: Path) -> None:
    (folder / "a.jsonl").write_text("garbage\n" * 1000)
    batch = watching.collector.poll(at_once=True)
    assert batch is not None
    (change,) = batch.changes.values()
    assert (len(change.bad), change.unlisted) == (KEPT_BAD_LINES, 1000 - KEPT_BAD_LINES)
    batch.commit()
    (watch,) = read_watches(folder.parent / "watch.sqlite3")
    assert watch.files[0].bad == 1000


def test_a_csv_is_read_when_it_rests_and_again_when_it_changed(
    watching: Watching, folder: Path, tmp_path: Path
) -> None:
    path = folder / "a.csv"
    path.write_text('text,label\n"a\nb",x\nc,y,z\nc,y\nc,y\n')
    assert watching.collector.poll(at_once=True) is None  # may still be written
    assert watching.poll() == 3
    assert bad(watching, tmp_path) == [(4, "has 3 columns; the header has 2")]
    assert watching.poll() == 0
    path.write_text('text,label\n"a\nb",x\nc,y\nc,y\nc,y\n')
    watching.poll()
    assert watching.outbox.texts() == {"a\nb": 1, "c": 3}
    assert bad(watching, tmp_path) == []


def test_a_large_csv_goes_on_in_batches(tmp_path: Path, folder: Path) -> None:
    watching = Watching(tmp_path, folder, max_rows=10)
    (folder / "a.csv").write_text("text\n" + "".join(f"row {i % 20}\n" for i in range(95)))
    assert watching.poll(lose=True) == 10
    assert watching.poll() == 95
    assert sum(watching.outbox.texts().values()) == 95
    watching.ledger.close()


def test_texts_are_one_row_each_where_asked(tmp_path: Path, folder: Path) -> None:
    watching = Watching(tmp_path, folder, kinds=LINES | WHOLE | TEXTS)
    (folder / "a.txt").write_text("a whole\nletter\n")
    (folder / "b.txt").write_bytes(b"\xff")
    assert watching.poll() == 1
    assert watching.outbox.texts() == {"a whole\nletter\n": 1}
    assert bad(watching, tmp_path) == [(1, "is not UTF-8")]
    watching.ledger.close()


def test_a_single_file_may_have_any_ending_and_may_come_later(tmp_path: Path) -> None:
    watching = Watching(tmp_path, tmp_path / "app.log")
    assert watching.poll() == 0
    append(tmp_path / "app.log", "one")
    assert watching.poll() == 1
    append(tmp_path / "app.log", "two").rename(tmp_path / "app.log.1")
    assert watching.poll() == 1
    append(tmp_path / "app.log", "three")
    assert watching.poll() == 1
    assert watching.outbox.again == 0
    watching.ledger.close()


def test_few_rows_wait_for_more_and_many_do_not(tmp_path: Path, folder: Path) -> None:
    watching = Watching(tmp_path, folder, max_rows=3, patience=10.0)
    append(folder / "a.jsonl", "one", "two")
    assert watching.collector.poll() is None
    watching.now = 9.0
    assert watching.collector.poll() is None
    append(folder / "b.jsonl", "three", "four")
    batch = watching.collector.poll()
    assert batch is not None
    assert [taken.record["text"] for taken in batch.taken] == ["one", "two", "three"]
    batch.commit()
    assert watching.collector.poll() is None
    watching.now = 20.0
    rest = watching.collector.poll()
    assert rest is not None
    assert [taken.line for taken in rest.taken] == [2]
    watching.ledger.close()


@pytest.mark.parametrize("damage", [b"no database at all, but long enough" * 100, None])
def test_a_damaged_ledger_is_put_aside_and_files_are_read_again(
    tmp_path: Path, folder: Path, damage: bytes | None
) -> None:
    append(folder / "a.jsonl", *(f"row {i}" for i in range(2000)))
    watching = Watching(tmp_path, folder)
    assert watching.poll() == 2000
    watching.ledger.close()
    path = tmp_path / "watch.sqlite3"
    if damage is None:
        with path.open("r+b") as stream:
            stream.seek(5 * 4096)
            stream.write(b"\xaa" * 8192)
    else:
        path.write_bytes(damage)
    warnings: list[str] = []
    open_ledger(tmp_path, warnings.append).close()
    watching.start()
    assert len(warnings) == 1
    assert watching.poll() == 2000
    assert len(watching.outbox.ids) == 2000
    watching.ledger.close()


def test_what_is_neither_file_nor_folder_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    watching = Watching(tmp_path, tmp_path / "pipe.jsonl")
    assert watching.poll() == 0
    assert list(watching.collector.problems.values()) == ["is neither a file nor a folder"]
    watching.ledger.close()


def test_a_name_that_is_no_text_is_reported(watching: Watching, folder: Path) -> None:
    (Path(os.fsdecode(os.fsencode(folder) + b"/\xff.jsonl"))).write_text(line("one"))
    append(folder / "ä.jsonl", "two")
    assert watching.poll() == 1
    ((path, reason),) = watching.collector.problems.items()
    assert (path.isascii(), reason) == (True, "has a name that is not UTF-8; rename it")
