"""The training file: what went in comes out, and damage is noticed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from splitfrozen.errors import DataError
from splitfrozen_server.worker.data import TrainingRows, fetch, is_held_out
from splitfrozen_server.worker.job import ShardRef
from splitfrozen_server.worker.materialise import TrainingFile
from tests.worker.shards import Example, ShardMaker, completion_examples, separable_examples


@pytest.mark.parametrize("codec", ["fp32", "bf16", "int8"])
def test_examples_come_back_as_they_were_sent(codec: str, bert: ShardMaker, tmp_path: Path) -> None:
    file = TrainingFile(tmp_path)
    shards = [bert.shard(separable_examples(5, seed=n), codec=codec, name=str(n)) for n in (1, 2)]
    for number, shard in enumerate(shards, 1):
        file.append(number, "0" * 64, shard)
    file = TrainingFile(tmp_path)  # opened again, from the disk alone
    assert (file.examples, file.last_sequence) == (10, 2)
    row = 0
    for shard in shards:
        ends = np.cumsum(shard.lengths)
        for end, length, label in zip(ends, shard.lengths, shard.labels, strict=True):
            np.testing.assert_array_equal(
                file.activations(row), shard.activations()[end - length : end]
            )
            assert (file.length(row), file.label(row)) == (length, label)
            row += 1


def test_targets_keep_their_place(llama: ShardMaker, tmp_path: Path) -> None:
    examples = completion_examples(3)
    file = TrainingFile(tmp_path)
    file.append(1, "0" * 64, llama.shard(examples, task="causal_lm"))
    for row, example in enumerate(examples):
        assert file.targets(row).tolist() == [-100, -100, *example.ids[2:]]


def test_nothing_but_the_tokens_is_stored(bert: ShardMaker, tmp_path: Path) -> None:
    shard = bert.shard(separable_examples(40))
    file = TrainingFile(tmp_path)
    file.append(1, "0" * 64, shard)
    size = (tmp_path / "activations.bin").stat().st_size
    assert size < shard.tokens * shard.hidden_size * 4 + 40 * (16 + 8) + 64 * 6


@pytest.mark.parametrize("damage", ["data", "torn data", "torn index", "no index", "junk"])
def test_damage_cuts_the_file_before_it(damage: str, bert: ShardMaker, tmp_path: Path) -> None:
    file = TrainingFile(tmp_path)
    shards = [bert.shard(separable_examples(4, seed=n), name=str(n)) for n in range(3)]
    for number, shard in enumerate(shards, 1):
        file.append(number, "0" * 64, shard)
    expected = [file.activations(row) for row in range(12)]
    data, index = tmp_path / "activations.bin", tmp_path / "index.jsonl"
    if damage == "data":
        body = bytearray(data.read_bytes())
        body[-100] ^= 1  # inside the third shard
        data.write_bytes(body)
    elif damage == "torn data":
        data.write_bytes(data.read_bytes()[:-70])
    elif damage == "torn index":
        index.write_bytes(index.read_bytes()[:-9])
    elif damage == "no index":
        index.unlink()
    else:
        index.write_bytes(b"\xff\x00" + index.read_bytes())
    file = TrainingFile(tmp_path)
    kept = file.last_sequence
    assert kept == (2 if "data" in damage or damage == "torn index" else 0)
    for number in range(kept + 1, 4):
        file.append(number, "0" * 64, shards[number - 1])
    for row in range(12):
        np.testing.assert_array_equal(file.activations(row), expected[row])


def test_shards_that_the_server_does_not_list_are_dropped(bert: ShardMaker, tmp_path: Path) -> None:
    file = TrainingFile(tmp_path)
    shards = [bert.shard(separable_examples(4, seed=n), name=str(n)) for n in range(4)]
    for number in (1, 2, 3):
        file.append(number, str(number), shards[number - 1])
    file.agree([(1, "1"), (2, "2"), (3, "3"), (4, "4")])
    assert file.last_sequence == 3
    file.agree([(1, "1"), (2, "another"), (3, "3")])  # the server was restored from a backup
    assert (file.last_sequence, file.examples) == (1, 4)
    file.append(2, "another", shards[3])
    for again in (file, TrainingFile(tmp_path)):
        end = shards[3].lengths[0]
        np.testing.assert_array_equal(again.activations(4), shards[3].activations()[:end])
    file.agree([])
    assert (file.last_sequence, file.examples) == (0, 0)


def test_examples_with_nothing_to_predict_are_left_out(llama: ShardMaker, tmp_path: Path) -> None:
    examples = [
        Example([9, 10, 11], prompt=1),
        Example([9]),  # its only token is never predicted
        Example([9, 10], prompt=2),
        Example([9, 10, 11], prompt=2),
    ]
    file = TrainingFile(tmp_path)
    file.append(1, "0" * 64, llama.shard(examples, task="causal_lm"))
    rows = TrainingRows(file, num_labels=None, eval_fraction=0.0)
    assert rows.pending(1) == len(rows.admit(1)) == 2
    assert (rows.train, rows.held_out, rows.targetless) == ([0, 3], [], 2)


def test_a_shard_whose_bytes_are_gone_is_bad_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="shard 7 are gone"):
        fetch(TrainingFile(tmp_path / "file"), [ShardRef(7, "0" * 64, str(tmp_path / "none"))])


def test_rows_are_admitted_once_and_split_by_id(bert: ShardMaker, tmp_path: Path) -> None:
    file = TrainingFile(tmp_path)
    for number in (1, 2, 3):
        shard = bert.shard(separable_examples(40, labels=3, seed=number), name=str(number))
        file.append(number, "0" * 64, shard)
    rows = TrainingRows(file, num_labels=2, eval_fraction=0.25)
    assert rows.pending(2) == len(rows.admit(2)) == len(rows.train)
    rows.admit(2)
    rows.admit(3)
    together = rows.train + rows.held_out
    assert len(set(together)) == len(together) == 120 - rows.skipped
    assert rows.skipped > 0  # labels that came after the list was frozen
    assert 0.1 < len(rows.held_out) / len(together) < 0.4
    assert all(file.label(row) < 2 for row in together)


def test_holding_out_depends_on_the_id_alone() -> None:
    ids = np.random.default_rng(0).integers(0, 256, (1000, 16)).astype(np.uint8)
    half, tenth = is_held_out(ids, 0.5), is_held_out(ids, 0.1)
    assert half[tenth].all()  # a larger part contains the smaller one
    assert 0.4 < half.mean() < 0.6
    assert not is_held_out(ids, 0.0).any()
    np.testing.assert_array_equal(is_held_out(ids[::-1], 0.5), half[::-1])
