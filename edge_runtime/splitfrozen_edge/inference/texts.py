"""Generation as one call: a prompt in, its continuation piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from splitfrozen.bundle import Bundle
from splitfrozen.errors import DataError
from splitfrozen.graph import TOKENIZER
from splitfrozen.manifest import Manifest
from splitfrozen_edge.data.preprocess import special_tokens
from splitfrozen_edge.data.template import ChatTemplate
from splitfrozen_edge.data.tokenizer import Tokenizer
from splitfrozen_edge.http.client import Client
from splitfrozen_edge.inference.generate import MAX_TOKENS, Generation
from splitfrozen_edge.inference.sessions import SessionRequest, SplitSessions
from splitfrozen_edge.inference.split_text import SplitText
from splitfrozen_edge.model.cached_session import CachedSession, require_past
from splitfrozen_edge.pushing.collect import ShardHeader


def generate_text(
    prompt: str,
    model: str,
    bundle: Bundle,
    client: Client,
    *,
    max_tokens: int = MAX_TOKENS,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int | None = None,
    stop: Sequence[str] = (),
    wire: str | None = None,
    threads: int | None = None,
    session: CachedSession | None = None,
) -> Iterator[str]:
    """Yield the text that follows `prompt`, in pieces of whole characters.

    `session`: of the same bundle and wire, opened already. Closing the iterator early deletes the
    server's session. Raises StateError if the bundle cannot generate, DataError for a prompt
    without tokens or with too many, RefusedError, ManifestError.
    """
    writer = Writer(bundle)
    request = SessionRequest(model, bundle.id, temperature, top_p, seed)
    ids = writer.encode_prompt(prompt)
    with open_text(bundle, client, request, wire=wire, threads=threads, session=session) as text:
        yield from Generation(text, ids, writer.decode, max_tokens=max_tokens, stop=stop)


def chat_text(
    messages: Sequence[Mapping[str, str]],
    model: str,
    bundle: Bundle,
    client: Client,
    *,
    max_tokens: int = MAX_TOKENS,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int | None = None,
    stop: Sequence[str] = (),
    wire: str | None = None,
    threads: int | None = None,
    session: CachedSession | None = None,
) -> Iterator[str]:
    """Yield the assistant's answer to `messages` of {role, content}; otherwise `generate_text`.

    Raises DataError if the bundle's model has no chat template, too.
    """
    writer = Writer(bundle)
    if writer.template is None:
        raise DataError("the bundle's model has no chat template; generate from a prompt instead")
    request = SessionRequest(model, bundle.id, temperature, top_p, seed)
    ids = writer.encode(writer.template.render(messages, ask=True))
    with open_text(bundle, client, request, wire=wire, threads=threads, session=session) as text:
        yield from Generation(text, ids, writer.decode, max_tokens=max_tokens, stop=stop)


@contextmanager
def open_text(
    bundle: Bundle,
    client: Client,
    request: SessionRequest,
    *,
    wire: str | None = None,
    threads: int | None = None,
    session: CachedSession | None = None,
) -> Iterator[SplitText]:
    """A text of no tokens, whose session is deleted in the end, whatever happens."""
    header = wire_header(bundle, wire)
    device = session or CachedSession(bundle, threads=threads, wire=header.codec)
    text = SplitText(device, SplitSessions(client), request, header)
    try:
        yield text
    finally:
        text.close()


def wire_header(bundle: Bundle, wire: str | None) -> ShardHeader:
    """What all bodies of a text have in common; StateError if the bundle cannot generate."""
    require_past(bundle)
    manifest = bundle.manifest
    codec = wire or manifest.wire
    return ShardHeader(bundle.id, "", manifest.cut, codec, "inference", manifest.hidden_size)


class Writer:
    """Text <-> token ids of one bundle, as its training data had them (SPEC 7)."""

    def __init__(self, bundle: Bundle) -> None:
        self._manifest: Manifest = bundle.manifest
        self._tokenizer = Tokenizer.from_file(bundle.path(TOKENIZER))
        rules = self._manifest.preprocess
        source = rules.chat_template
        self.template = (
            None if source is None else ChatTemplate(source, special_tokens(rules, self._tokenizer))
        )

    @property
    def prefix(self) -> list[int]:
        """What stands before every prompt."""
        return list(self._manifest.preprocess.prefix_ids)

    def encode_prompt(self, prompt: str) -> list[int]:
        """Ids of a prompt; DataError if there are none."""
        ids = [*self.prefix, *self.encode(prompt)]
        if not ids:
            raise DataError("the prompt gives no tokens; write something to continue")
        return ids

    def encode(self, text: str) -> list[int]:
        """Ids of a text as it stands; special tokens in it are matched, none are added."""
        try:
            ids = self._tokenizer.encode_plain(text)
        except (UnicodeEncodeError, TypeError):  # bytes of a command line that are no text
            raise DataError("the text is not UTF-8") from None
        if ids and max(ids) >= self._manifest.vocab_size:
            raise DataError(f"the text gives the token id {max(ids)}, unknown to the model")
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, without special tokens."""
        return self._tokenizer.decode(ids)

    def token(self, index: int) -> str:
        """How a token is written in the tokenizer's file; "" if there is none."""
        return self._tokenizer.token(index) or ""
