"""`predict`: split inference. The lower blocks run here, the rest on the server.

The server can reconstruct the text from what it is sent; this moves computation, not secrets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from splitfrozen.bundle import Bundle
from splitfrozen.errors import DataError, RefusedError
from splitfrozen.graph import TOKENIZER
from splitfrozen.wire import encode
from splitfrozen_edge.data.complaints import Complaints
from splitfrozen_edge.data.preprocess import Preprocessor
from splitfrozen_edge.data.rows import Row
from splitfrozen_edge.data.tokenizer import Tokenizer
from splitfrozen_edge.http.client import Client
from splitfrozen_edge.model.batches import WINDOW, plan_batches
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


@dataclass(frozen=True)
class Prediction:
    """The server's answer for one text."""

    line: int
    label: str
    scores: dict[str, float] = field(default_factory=dict)  # label -> probability


class Predictor:
    """Classifies with one model of the server and one bundle."""

    def __init__(
        self,
        model: str,
        bundle: Bundle,
        client: Client,
        *,
        wire: str | None = None,
    ) -> None:
        manifest = bundle.manifest
        self.max_length = manifest.preprocess.max_length
        self._model = model
        self._client = client
        self._header = ShardHeader(
            bundle.id, "", manifest.cut, wire or manifest.wire, "inference", manifest.hidden_size
        )
        self._preprocessor = Preprocessor(
            manifest.preprocess,
            Tokenizer.from_file(bundle.path(TOKENIZER)),
            task="inference",
            vocab_size=manifest.vocab_size,
        )

    def check(self, rows: Iterable[Row]) -> tuple[int, int]:
        """(rows, how many of them are truncated); DataError with the complaints of all rows."""
        count = cut = 0
        for example in self._encode(rows):
            count += 1
            cut += example.encoded.dropped > 0
        return count, cut

    def run(self, rows: Iterable[Row], session: DeviceSession) -> Iterator[tuple[Row, Prediction]]:
        """Yield rows with their answers, in order, a window of rows at a time.

        `session`: of the same bundle and wire. Raises DataError for a row that gives no tokens,
        RefusedError, QuantizeError.
        """
        source = iter(rows)
        while window := list(islice(source, WINDOW)):
            examples = list(self._encode(window))
            found = self._answer(examples, session)
            for row, example in zip(window, examples, strict=True):
                yield row, found[example.line]

    def _encode(self, rows: Iterable[Row]) -> Iterator[Example]:
        """Examples of the rows; in the end DataError, if any row gave none."""
        complaints = Complaints()
        for row in rows:
            try:
                example = Example(row.line, self._preprocessor.encode(row.fields))
                check_fits(example, self._header)
            except DataError as error:
                complaints.add(DataError(error.message, path="text", line=row.line))
            else:
                yield example
        complaints.raise_any()

    def _answer(self, examples: Sequence[Example], session: DeviceSession) -> dict[int, Prediction]:
        builder = ShardBuilder(self._header, {})
        found: dict[int, Prediction] = {}
        waiting: list[Piece] = []
        for piece in _run(examples, session, self._header):
            for shard in builder.add(piece):
                found |= self._ask(encode(shard), waiting)
                waiting = []
            waiting.append(piece)
        for shard in builder.flush():
            found |= self._ask(encode(shard), waiting)
        return found

    def _ask(self, body: bytes, pieces: Sequence[Piece]) -> dict[int, Prediction]:
        data = self._client.classify(self._model, body).get("data")
        if not isinstance(data, list) or len(data) != len(pieces):
            raise RefusedError("internal_error", "the server's answer does not match the question")
        lines = [piece.example.line for piece in pieces]
        return {
            line: Prediction(line, str(item["label"]), dict(item["scores"]))
            for line, item in zip(lines, data, strict=True)
        }


def classify(
    rows: Sequence[Row],
    model: str,
    bundle: Bundle,
    client: Client,
    *,
    wire: str | None = None,
    threads: int | None = None,
    warn: Callable[[str], None] = lambda message: None,
    session: DeviceSession | None = None,
) -> list[Prediction]:
    """Classify rows of `text` (and `text_pair`) with a model of the server, in order.

    Nothing is sent unless every row can be. `session`: of the same bundle and wire, opened
    already. Raises DataError for a row that gives no tokens, RefusedError, ManifestError,
    QuantizeError.
    """
    codec = wire or bundle.manifest.wire
    predictor = Predictor(model, bundle, client, wire=codec)
    warn_of_truncation(predictor, rows, warn)
    session = session or DeviceSession(bundle, threads=threads, wire=codec)
    return [prediction for _, prediction in predictor.run(rows, session)]


def warn_of_truncation(
    predictor: Predictor, rows: Iterable[Row], warn: Callable[[str], None]
) -> None:
    """Check rows before anything is computed, and say how many lose their end."""
    _, cut = predictor.check(rows)
    if cut:
        warn(f"{cut} texts have more than {predictor.max_length} tokens; truncated")


def _run(
    examples: Sequence[Example], session: DeviceSession, header: ShardHeader
) -> Iterator[Piece]:
    for places in plan_batches([len(example.encoded.ids) for example in examples]):
        batch = [examples[place] for place in places]
        yield from strip(batch, session.run(*pad(batch)), header)
