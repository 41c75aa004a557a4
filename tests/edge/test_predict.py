"""predict: answers belong to their texts, whatever the batching."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from splitfrozen import read_bundle
from splitfrozen.errors import DataError, RefusedError
from splitfrozen_edge.cli import main
from splitfrozen_edge.data.rows import Row
from splitfrozen_edge.http.client import Client
from splitfrozen_edge.inference.choose import choose_model_bundle
from splitfrozen_edge.inference.note import is_due
from splitfrozen_edge.inference.predict import Predictor, classify
from splitfrozen_edge.model.batches import WINDOW
from splitfrozen_edge.model.bundles import BundleStore
from splitfrozen_edge.model.session import DeviceSession
from splitfrozen_edge.pushing.collect import SHARD_EXAMPLES
from splitfrozen_edge.state import StateDirectory, StateError
from tests.edge.protocol_server import Fault, ProtocolServer
from tests.edge.tiny_bundle import embedding, write_bundle


def expected(directory: Path, text: str) -> str:
    """What the test server answers for a text: the sign of its first token's first channel."""
    from splitfrozen_edge.data.tokenizer import Tokenizer

    first = Tokenizer.from_file(directory / "tokenizer.json").encode_plain(text)[0]
    return "yes" if embedding()[first, 0] > 0 else "no"


def test_answers_belong_to_their_texts(encoder_bundle: Path, client: Client) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    texts = [f"{letters[i % 26]} {'and ' * (i % 13)}" for i in range(SHARD_EXAMPLES * 2 + 7)]
    rows = [Row(line, {"text": text}) for line, text in enumerate(texts, 1)]
    found = classify(rows, "ft:x", read_bundle(encoder_bundle), client, threads=1)
    assert [item.line for item in found] == [row.line for row in rows]
    assert [item.label for item in found] == [expected(encoder_bundle, text) for text in texts]
    assert found[0].scores == {"no": 0.25, "yes": 0.75}


def test_an_answer_of_another_length_is_refused(
    encoder_bundle: Path, client: Client, server: ProtocolServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.edge import protocol_server

    monkeypatch.setattr(protocol_server, "_classify", lambda model, shard: {"data": []})
    with pytest.raises(RefusedError, match="does not match the question"):
        classify([Row(1, {"text": "a"})], "ft:x", read_bundle(encoder_bundle), client)


def test_truncated_texts_are_counted_in_a_warning(encoder_bundle: Path, client: Client) -> None:
    rows = [Row(1, {"text": "a"}), Row(2, {"text": "bird " * 99})]
    warnings: list[str] = []
    classify(rows, "ft:x", read_bundle(encoder_bundle), client, warn=warnings.append)
    assert warnings == ["1 texts have more than 32 tokens; truncated"]


def test_a_text_without_tokens_is_a_data_error(tmp_path: Path, client: Client) -> None:
    bundle = read_bundle(write_bundle(tmp_path / "gpt2", family="gpt2"))
    with pytest.raises(DataError, match="text:3: gives no tokens"):
        classify([Row(1, {"text": "a"}), Row(3, {"text": ""})], "ft:x", bundle, client)


def test_the_models_base_and_cut_choose_the_bundle(
    state: StateDirectory, client: Client, server: ProtocolServer, encoder_bundle: Path
) -> None:
    outbox = state.outbox()
    bundles = BundleStore(state, outbox, client)
    with pytest.raises(StateError, match="no bundle was used here"):
        choose_model_bundle(None, "ft:x", bundles, client)
    server.models["ft:x"] = {"id": "ft:x", "splitfrozen": {"base_model": "tiny", "cut": 2}}
    server.bundles = {read_bundle(encoder_bundle).id: encoder_bundle}
    found = choose_model_bundle(None, "ft:x", bundles, client)
    assert found.directory.parent == state.bundles
    server.models.clear()
    assert choose_model_bundle(None, "ft:x", bundles, client).id == found.id
    server.script("GET", Fault("refuse", 403, "forbidden"))
    assert choose_model_bundle(None, "ft:x", bundles, client).id == found.id
    outbox.close()


def test_answers_come_in_order_while_the_rest_is_still_to_be_read(
    encoder_bundle: Path, client: Client, server: ProtocolServer
) -> None:
    bundle = read_bundle(encoder_bundle)
    taken: list[int] = []

    def rows(count: int) -> Iterator[Row]:
        for line in range(1, count + 1):
            taken.append(line)
            yield Row(line, {"text": "abcdefghij"[line % 10] + " and" * (line % 7)})

    predictor = Predictor("ft:x", bundle, client)
    answers = predictor.run(rows(2 * WINDOW + 5), DeviceSession(bundle, threads=1))
    first = next(answers)
    assert (first[0].line, first[1].line, len(taken)) == (1, 1, WINDOW)
    found = [first, *answers]
    assert [row.line for row, _ in found] == list(range(1, 2 * WINDOW + 6))
    for row, answer in found:
        assert answer.label == expected(encoder_bundle, row.fields["text"])


def test_the_note_is_said_once_per_device_and_always_to_a_person(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    assert is_due(state, interactive=False)
    assert not is_due(state, interactive=False)
    assert is_due(state, interactive=True)
    assert is_due(StateDirectory(tmp_path / "nowhere"), interactive=False)


def test_a_file_is_checked_before_anything_of_it_is_sent(
    state: StateDirectory, server: ProtocolServer, encoder_bundle: Path, tmp_path: Path
) -> None:
    data = tmp_path / "texts.jsonl"
    lines = ['{"text": "a"}'] * 600 + ['{"text": " "}', '{"text": 7}']
    data.write_text("\n".join(lines))
    found = predict(state, "--data", data, "--bundle", encoder_bundle)
    assert found.exit_code == 2
    assert ":601: text: is empty" in found.output and ":602: text: is a number" in found.output
    assert not server.bodies("POST")


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_file_is_answered_line_by_line(
    state: StateDirectory,
    server: ProtocolServer,
    encoder_bundle: Path,
    tmp_path: Path,
    form: str,
) -> None:
    texts = [f"{'abc'[place % 3]} bird {place}" for place in range(WINDOW + 3)]
    data = tmp_path / "texts.jsonl"
    data.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    found = predict(state, "--data", data, "--bundle", encoder_bundle, "--format", form)
    assert found.exit_code == 0
    labels = [expected(encoder_bundle, text) for text in texts]
    if form == "text":
        lines = [line.split("\t") for line in found.stdout.splitlines()]
        assert [(line[0], line[2]) for line in lines] == list(zip(labels, texts, strict=True))
        return
    document = json.loads(found.stdout)
    assert document["model"] == "ft:x"
    assert [(item["line"], item["label"]) for item in document["data"]] == list(
        enumerate(labels, 1)
    )
    assert "can reconstruct the text" in found.stderr
    again = predict(state, "--text", "a", "--bundle", encoder_bundle)
    assert (again.exit_code, again.stderr) == (0, "")


def predict(state: StateDirectory, *arguments: str | Path) -> Result:
    fixed = ["predict", "--state-dir", str(state.path), "--model", "ft:x", "--threads", "1"]
    return CliRunner().invoke(main, [*fixed, *map(str, arguments)])
