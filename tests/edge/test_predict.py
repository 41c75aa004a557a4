"""predict: answers belong to their texts, whatever the batching."""

from __future__ import annotations

from pathlib import Path

import pytest

from splitfrozen import read_bundle
from splitfrozen.errors import DataError, RefusedError
from splitfrozen_edge.data.rows import Row
from splitfrozen_edge.http.client import Client
from splitfrozen_edge.inference.predict import choose_model_bundle, classify
from splitfrozen_edge.model.bundles import BundleStore
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
    with pytest.raises(StateError, match="no bundle was used"):
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
