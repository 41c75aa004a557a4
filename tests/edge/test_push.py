"""push: from a file to a dataset over a real socket, exactly once, whatever breaks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splitfrozen import digest, read_bundle
from splitfrozen.errors import DataError, ManifestError, QuantizeError, RefusedError
from splitfrozen.quantize import quantize_int8
from splitfrozen_edge.http.client import Client
from splitfrozen_edge.pushing.file import PushRequest, push_file
from splitfrozen_edge.state import StateDirectory, StateError
from tests.edge.conftest import NewClient, write_sentences
from tests.edge.protocol_server import Fault, ProtocolServer
from tests.edge.tiny_bundle import embedding, write_bundle


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def request_(tmp_path: Path, encoder_bundle: Path) -> PushRequest:
    data = write_sentences(tmp_path / "data.jsonl", 300)
    return PushRequest(data, "reviews", bundle=str(encoder_bundle))


def test_a_missing_dataset_is_made_open_and_every_row_arrives(
    request_: PushRequest, state: StateDirectory, client: Client, server: ProtocolServer
) -> None:
    report = push_file(request_, state, client)
    dataset = server.find_dataset("reviews")
    assert (dataset["open_labels"], dataset["labels"]) == (True, ["good"])
    found = server.example_ids(dataset["id"])
    assert len(found) == len(set(found)) == 300
    assert (report.rows, report.examples, report.uploaded_examples) == (300, 300, 300)
    assert report.tokens == sum(shard.tokens for shard in server.shards[dataset["id"]].values())
    assert report.bytes_up == sum(map(len, server.bodies())) == client.bytes_up
    assert report.cpu_seconds > 0


def test_the_same_push_again_computes_and_sends_nothing(
    request_: PushRequest, state: StateDirectory, client: Client, server: ProtocolServer
) -> None:
    push_file(request_, state, client)
    server.requests.clear()
    report = push_file(request_, state, client)
    assert (report.skipped, report.examples, report.bytes_up) == (300, 0, 0)
    assert [seen.method for seen in server.requests] == ["GET"]


def test_new_rows_of_a_grown_file_are_sent_alone(
    request_: PushRequest, state: StateDirectory, client: Client, server: ProtocolServer
) -> None:
    push_file(request_, state, client)
    with request_.data.open("a") as stream:
        stream.write('{"text": "one more", "label": "new"}\n')
    report = push_file(request_, state, client)
    assert (report.skipped, report.examples) == (300, 1)
    assert server.find_dataset("reviews")["labels"] == ["good", "new"]


def test_equal_rows_are_two_examples(
    tmp_path: Path, request_: PushRequest, state: StateDirectory, client: Client
) -> None:
    row = {"text": "the bird", "label": "a"}
    write(request_.data, row, row, row)
    assert push_file(request_, state, client).uploaded_examples == 3
    write(request_.data, row, row, row, row)
    assert push_file(request_, state, client).uploaded_examples == 1


def test_activations_labels_and_lengths_are_those_of_the_rows(
    tmp_path: Path, encoder_bundle: Path, state: StateDirectory, client: Client,
    server: ProtocolServer,
) -> None:  # fmt: skip
    dataset = server.add_dataset("closed", "classification", ["negative", "positive"])
    data = tmp_path / "data.tsv"
    data.write_text("sentence\tlabel\nt t\t1\nh\t0\n")
    push_file(PushRequest(data, "closed", bundle=str(encoder_bundle)), state, client)
    (shard,) = server.shards[dataset].values()
    assert shard.labels is not None
    tokenizer = json.loads((encoder_bundle / "tokenizer.json").read_text())["model"]["vocab"]
    rows = {1: [1, tokenizer["t"], tokenizer["Ġt"], 2], 0: [1, tokenizer["h"], 2]}
    ids = [index for label in shard.labels.tolist() for index in rows[label]]
    assert np.array_equal(shard.hidden, quantize_int8(embedding()[ids])[0])
    assert shard.lengths.tolist() == [len(rows[label]) for label in shard.labels.tolist()]


def test_given_labels_fix_the_order_in_an_open_dataset(
    tmp_path: Path, request_: PushRequest, state: StateDirectory, client: Client,
    server: ProtocolServer,
) -> None:  # fmt: skip
    write(request_.data, {"text": "a", "label": 1})
    names = ("yes", "maybe", "no")
    push_file(PushRequest(request_.data, "x", request_.bundle, labels=names), state, client)
    dataset = server.find_dataset("x")
    assert dataset["labels"] == list(names)
    (shard,) = server.shards[dataset["id"]].values()
    assert shard.labels is not None
    assert shard.labels.tolist() == [1]


def test_causal_rows_send_targets_of_the_completion_only(
    tmp_path: Path, decoder_bundle: Path, state: StateDirectory, client: Client,
    server: ProtocolServer,
) -> None:  # fmt: skip
    data = write(tmp_path / "data.jsonl", {"question": "abc", "answer": "t"})
    push_file(PushRequest(data, "sums", bundle=str(decoder_bundle)), state, client)
    (shard,) = server.shards[server.find_dataset("sums")["id"]].values()
    assert (shard.task, shard.labels) == ("causal_lm", None)
    assert shard.targets is not None
    assert (shard.targets >= 0).tolist() == [False] * 4 + [True] * 2


def test_labels_that_a_language_model_does_not_learn_are_told_of(
    tmp_path: Path, decoder_bundle: Path, state: StateDirectory, client: Client,
) -> None:  # fmt: skip
    data = write(tmp_path / "data.jsonl", {"text": "abc", "label": "good"})
    told: list[str] = []
    request = PushRequest(data, "texts", bundle=str(decoder_bundle), task="causal_lm")
    push_file(request, state, client, warn=told.append)
    assert told == ["the column 'label' is ignored: dataset texts is of task causal_lm, which "
                    "learns the text"]  # fmt: skip


def test_messages_are_rendered_by_the_bundles_template(
    tmp_path: Path, decoder_bundle: Path, state: StateDirectory, client: Client,
) -> None:  # fmt: skip
    talk = [{"role": "user", "content": "h"}, {"role": "assistant", "content": "t"}]
    data = write(tmp_path / "data.jsonl", {"messages": talk})
    report = push_file(PushRequest(data, "chats", bundle=str(decoder_bundle)), state, client)
    assert (report.task, report.uploaded_examples) == ("causal_lm", 1)


@pytest.mark.parametrize("wire", ["fp32", "bf16", "int8"])
def test_the_codec_can_be_chosen(
    request_: PushRequest, state: StateDirectory, client: Client, server: ProtocolServer, wire: str
) -> None:
    report = push_file(PushRequest(request_.data, "x", request_.bundle, wire=wire), state, client)
    (dataset,) = server.shards.values()
    assert {shard.codec for shard in dataset.values()} == {wire} == {report.codec}


@pytest.mark.parametrize("kind", ["before", "after", "wrong", "garbage", "refuse"])
def test_every_kind_of_broken_upload_ends_in_exactly_once(
    request_: PushRequest, state: StateDirectory, client: Client, server: ProtocolServer, kind: str
) -> None:
    server.script("PUT", *[Fault(kind)] * 3)
    report = push_file(request_, state, client)
    found = server.example_ids(report.dataset_id)
    assert len(found) == len(set(found)) == 300
    assert (report.uploaded_examples, report.duplicates) == (300, 0)


def test_what_was_collected_offline_is_sent_as_it_is_later(
    request_: PushRequest, state: StateDirectory, new_client: NewClient, server: ProtocolServer
) -> None:
    server.script("PUT", *[Fault("before")] * 1000)
    with pytest.raises(RefusedError, match="cannot reach"):
        push_file(request_, state, new_client())
    outbox = state.outbox()
    (dataset,) = server.shards
    assert outbox.queued(dataset) == (3, 300)
    entry = outbox.next(dataset)
    outbox.close()
    server.faults.clear()
    report = push_file(request_, state, new_client())
    assert (report.skipped, report.examples, report.uploaded_examples) == (300, 0, 300)
    assert entry is not None
    assert entry.digest in server.shards[dataset]


def test_examples_that_the_server_knows_leave_a_shard(
    request_: PushRequest, state: StateDirectory, new_client: NewClient, server: ProtocolServer
) -> None:
    """A device whose outbox was restored from an old copy still adds nothing twice."""
    rows = request_.data.read_text().splitlines()
    request_.data.write_text("\n".join(rows[:150]))
    push_file(request_, state, new_client())
    (state.path / "outbox.sqlite3").unlink()
    (state.path / "outbox.sqlite3-wal").unlink(missing_ok=True)
    (state.path / "outbox.sqlite3-shm").unlink(missing_ok=True)
    request_.data.write_text("\n".join(rows[100:]))
    report = push_file(request_, state, new_client())
    assert report.duplicates == 50
    found = server.example_ids(report.dataset_id)
    assert len(found) == len(set(found)) == 300
    assert push_file(request_, state, new_client()).examples == 0


def test_a_duplicate_refusal_that_names_none_of_ours_sets_the_shard_aside(
    request_: PushRequest, state: StateDirectory, client: Client, server: ProtocolServer
) -> None:
    stranger = {"example_ids": ["00" * 16, 7]}
    server.script("PUT", Fault("refuse", 409, "duplicate_example", details=stranger))
    report = push_file(request_, state, client)
    assert [(item.code, item.shards) for item in report.refusals] == [("duplicate_example", 1)]
    assert report.uploaded_examples + report.parked_examples == 300


def test_a_sealed_dataset_takes_nothing_and_nothing_is_computed(
    request_: PushRequest, state: StateDirectory, client: Client, server: ProtocolServer
) -> None:
    dataset = server.add_dataset("reviews", "classification")
    server.datasets[dataset]["sealed"] = True
    with pytest.raises(RefusedError) as caught:
        push_file(request_, state, client)
    assert caught.value.code == "dataset_sealed"
    assert server.bodies() == []


@pytest.mark.parametrize("code", ["dataset_sealed", "not_found"])
def test_what_waits_for_a_dataset_that_takes_nothing_is_set_aside(
    request_: PushRequest,
    state: StateDirectory,
    new_client: NewClient,
    server: ProtocolServer,
    code: str,
) -> None:
    server.script("PUT", Fault("refuse", 401, "unauthorized"))
    with pytest.raises(RefusedError):
        push_file(request_, state, new_client())
    outbox = state.outbox()
    (before,) = outbox.datasets()
    assert before.queued_examples > 0
    if code == "dataset_sealed":
        server.datasets["ds_0"]["sealed"] = True
    else:
        del server.datasets["ds_0"]
    with pytest.raises(RefusedError, match="queue drop --dataset ds_0") as caught:
        push_file(request_, state, new_client())
    assert caught.value.code == code
    assert f"with {before.queued_examples} examples are set aside" in str(caught.value)
    (after,) = outbox.datasets()
    outbox.close()
    assert (after.queued_examples, after.parked_examples) == (0, before.queued_examples)


def test_a_refused_push_keeps_what_was_computed(
    request_: PushRequest, state: StateDirectory, new_client: NewClient, server: ProtocolServer
) -> None:
    server.script("PUT", Fault("refuse", 401, "unauthorized"))
    with pytest.raises(RefusedError) as caught:
        push_file(request_, state, new_client())
    assert caught.value.code == "unauthorized"
    assert "splitfrozen-edge queue drop --dataset ds_0" in str(caught.value)
    report = push_file(request_, state, new_client())
    assert report.skipped + report.examples == report.uploaded_examples == 300
    assert len(set(server.example_ids(report.dataset_id))) == 300


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"text": "a", "label": 7}, ":301: label: '7' is not a label"),
        ({"text": " ", "label": "good"}, ":301: text: is empty"),
        ({"text": "a"}, ":301: label: is missing"),
    ],
)
def test_one_bad_row_stops_the_push_before_any_compute(
    request_: PushRequest, state: StateDirectory, client: Client, server: ProtocolServer,
    row: dict[str, Any], complaint: str,
) -> None:  # fmt: skip
    server.add_dataset("reviews", "classification", ["good", "bad"])
    with request_.data.open("a") as stream:
        stream.write(json.dumps(row))
    with pytest.raises(DataError) as caught:
        push_file(request_, state, client)
    assert complaint in str(caught.value)
    assert not [seen for seen in server.requests if seen.method != "GET"]


def test_long_rows_are_truncated_with_a_counted_warning_or_refused(
    tmp_path: Path, request_: PushRequest, state: StateDirectory, client: Client
) -> None:
    write(request_.data, {"text": "a", "label": "x"}, {"text": "bird " * 99, "label": "x"})
    strict = PushRequest(request_.data, "reviews", request_.bundle, strict=True)
    with pytest.raises(DataError, match=r"data\.jsonl:2: has \d+ tokens; the bundle takes 32"):
        push_file(strict, state, client)
    warnings: list[str] = []
    report = push_file(request_, state, client, warn=warnings.append)
    assert warnings == ["1 rows have more than 32 tokens and are truncated"]
    assert (report.truncated, report.uploaded_examples) == (1, 2)


def test_non_finite_activations_never_leave_the_device(
    tmp_path: Path, state: StateDirectory, client: Client, server: ProtocolServer
) -> None:
    table = embedding()
    table[2] = np.nan  # [SEP]: in every row
    bundle = write_bundle(tmp_path / "nan", table=table)
    server.publish(bundle)
    data = write_sentences(tmp_path / "d.jsonl", 5)
    with pytest.raises(QuantizeError, match="row at line"):
        push_file(PushRequest(data, "d", bundle=str(bundle)), state, client)
    assert server.bodies() == []


def test_a_bundle_of_another_cut_is_refused(
    request_: PushRequest, state: StateDirectory, client: Client, server: ProtocolServer
) -> None:
    dataset = server.add_dataset("reviews", "classification")
    server.datasets[dataset]["cut"] = 3
    with pytest.raises(StateError, match="takes classification at cut 3"):
        push_file(request_, state, client)


def test_a_bundle_that_the_dataset_does_not_take_is_refused_before_any_compute(
    request_: PushRequest, state: StateDirectory, client: Client, server: ProtocolServer
) -> None:
    dataset = server.add_dataset("reviews", "classification")
    server.datasets[dataset]["base_model"] = "another"
    with pytest.raises(StateError, match="takes bundles of another at cut 2"):
        push_file(request_, state, client)
    assert {seen.method for seen in server.requests} == {"GET"}
    outbox = state.outbox()
    assert outbox.known_examples(dataset) == set()
    assert outbox.dataset_bundle(dataset) is None  # a push without --bundle asks the server
    outbox.close()


def test_a_damaged_bundle_is_not_used(
    tmp_path: Path, state: StateDirectory, client: Client
) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    (bundle / "tokenizer.json").write_text("{}")
    data = write_sentences(tmp_path / "d.jsonl", 5)
    with pytest.raises(ManifestError, match=r"tokenizer\.json has 2 bytes"):
        push_file(PushRequest(data, "d", bundle=str(bundle)), state, client)


def test_without_a_bundle_the_datasets_own_is_downloaded(
    request_: PushRequest, state: StateDirectory, client: Client, server: ProtocolServer,
    encoder_bundle: Path,
) -> None:  # fmt: skip
    wanted = read_bundle(encoder_bundle).id
    server.bundles = {wanted: encoder_bundle}
    server.add_dataset("reviews", "classification")
    report = push_file(PushRequest(request_.data, "reviews"), state, client)
    assert (report.bundle, report.uploaded_examples) == (wanted, 300)
    assert read_bundle(state.bundles / wanted).id == wanted


def test_a_dataset_that_does_not_exist_needs_a_bundle(
    request_: PushRequest, state: StateDirectory, client: Client
) -> None:
    with pytest.raises(StateError, match="--bundle"):
        push_file(PushRequest(request_.data, "nowhere"), state, client)


def test_two_devices_make_different_ids_of_the_same_row(
    tmp_path: Path, request_: PushRequest, client: Client, server: ProtocolServer
) -> None:
    for name in ("one", "two"):
        push_file(request_, StateDirectory(tmp_path / name), client)
    (dataset,) = server.shards
    assert len(set(server.example_ids(dataset))) == 600


def test_a_second_push_in_the_same_directory_waits_for_nobody(
    request_: PushRequest, state: StateDirectory, client: Client
) -> None:
    with state.locked(), pytest.raises(StateError, match="works with"):
        push_file(request_, state, client)


def test_the_stored_bytes_are_the_sent_bytes(
    request_: PushRequest, state: StateDirectory, client: Client, server: ProtocolServer
) -> None:
    report = push_file(request_, state, client)
    from splitfrozen import encode

    for name, shard in server.shards[report.dataset_id].items():
        assert digest(encode(shard)) == name
