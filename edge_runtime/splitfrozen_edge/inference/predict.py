"""`predict`: split inference. The lower blocks run here, the rest on the server.

The server can reconstruct the text from what it is sent; this moves computation, not secrets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from splitfrozen.bundle import Bundle
from splitfrozen.errors import DataError, RefusedError
from splitfrozen.graph import TOKENIZER
from splitfrozen.wire import encode
from splitfrozen_edge.data.complaints import Complaints
from splitfrozen_edge.data.preprocess import Preprocessor
from splitfrozen_edge.data.rows import Row
from splitfrozen_edge.data.tokenizer import Tokenizer
from splitfrozen_edge.http.client import Client
from splitfrozen_edge.model.batches import plan_batches
from splitfrozen_edge.model.bundles import BundleStore
from splitfrozen_edge.model.session import DeviceSession
from splitfrozen_edge.pushing.collect import (
    Example,
    Piece,
    ShardBuilder,
    ShardHeader,
    check_fits,
    pad,
    strip,
)
from splitfrozen_edge.state import StateError

PRIVACY_NOTE = (
    "Whoever runs the server can reconstruct the text from what this sends: the first blocks run "
    "here to save work there, not to hide anything."
)


@dataclass(frozen=True)
class Prediction:
    """The server's answer for one text."""

    line: int
    label: str
    scores: dict[str, float] = field(default_factory=dict)  # label -> probability


def choose_model_bundle(
    wanted: str | None, model: str, bundles: BundleStore, client: Client
) -> Bundle:
    """The bundle that was asked for, that the model's base and cut need, or the last used one."""
    if wanted is not None:
        return bundles.open(wanted)
    found = client.model(model) or {}
    own = found.get("splitfrozen") or found
    if isinstance(own.get("base_model"), str) and isinstance(own.get("cut"), int):
        return bundles.find(own["base_model"], own["cut"])
    bundle = bundles.last_used()
    if bundle is None:
        raise StateError("no bundle was used on this device yet; say --bundle DIRECTORY or ID")
    return bundle


def classify(
    rows: Sequence[Row],
    model: str,
    bundle: Bundle,
    client: Client,
    *,
    wire: str | None = None,
    threads: int | None = None,
    warn: Callable[[str], None] = lambda message: None,
) -> list[Prediction]:
    """Classify rows of `text` (and `text_pair`) with a model of the server, in order.

    Raises DataError for a row that gives no tokens, RefusedError, ManifestError, QuantizeError.
    """
    manifest = bundle.manifest
    header = ShardHeader(
        bundle.id, "", manifest.cut, wire or manifest.wire, "inference", manifest.hidden_size
    )
    examples = _encode(rows, bundle, header)
    cut = sum(example.encoded.dropped > 0 for example in examples)
    if cut:
        warn(f"{cut} texts have more than {manifest.preprocess.max_length} tokens; truncated")
    session = DeviceSession(bundle, threads=threads, wire=header.codec)
    builder = ShardBuilder(header, {})
    found: dict[int, Prediction] = {}
    waiting: list[Piece] = []
    for piece in _run(examples, session, header):
        for shard in builder.add(piece):
            found |= _ask(client, model, encode(shard), waiting)
            waiting = []
        waiting.append(piece)
    for shard in builder.flush():
        found |= _ask(client, model, encode(shard), waiting)
    return [found[example.line] for example in examples]


def _encode(rows: Sequence[Row], bundle: Bundle, header: ShardHeader) -> list[Example]:
    manifest = bundle.manifest
    preprocessor = Preprocessor(
        manifest.preprocess,
        Tokenizer.from_file(bundle.path(TOKENIZER)),
        task="inference",
        vocab_size=manifest.vocab_size,
    )
    complaints = Complaints()
    examples: list[Example] = []
    for row in rows:
        try:
            example = Example(row.line, preprocessor.encode(row.fields))
            check_fits(example, header)
            examples.append(example)
        except DataError as error:
            complaints.add(DataError(error.message, path="text", line=row.line))
    complaints.raise_any()
    return examples


def _run(
    examples: Sequence[Example], session: DeviceSession, header: ShardHeader
) -> Iterator[Piece]:
    for places in plan_batches([len(example.encoded.ids) for example in examples]):
        batch = [examples[place] for place in places]
        yield from strip(batch, session.run(*pad(batch)), header)


def _ask(client: Client, model: str, body: bytes, pieces: Sequence[Piece]) -> dict[int, Prediction]:
    data = client.classify(model, body).get("data")
    if not isinstance(data, list) or len(data) != len(pieces):
        raise RefusedError("internal_error", "the server's answer does not match the question")
    lines = [piece.example.line for piece in pieces]
    return {
        line: Prediction(line, str(item["label"]), dict(item["scores"]))
        for line, item in zip(lines, data, strict=True)
    }
