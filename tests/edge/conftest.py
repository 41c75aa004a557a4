"""Fixtures of the edge runtime: tiny bundles, a protocol server, an enrolled device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from splitfrozen_edge.http.client import Client
from splitfrozen_edge.http.retry import RetryPolicy
from splitfrozen_edge.state import Enrolment, StateDirectory
from tests.edge.protocol_server import DEVICE_TOKEN, ProtocolServer, running_server
from tests.edge.tiny_bundle import write_bundle

CHAT = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="session")
def encoder_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of an encoder: [CLS] text [SEP]."""
    return write_bundle(tmp_path_factory.mktemp("bundles") / "encoder", family="bert")


@pytest.fixture(scope="session")
def decoder_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a decoder with bos, eos and a chat template."""
    directory = tmp_path_factory.mktemp("bundles") / "decoder"
    return write_bundle(directory, family="llama", chat_template=CHAT)


@pytest.fixture(scope="session")
def past_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a decoder that can generate."""
    directory = tmp_path_factory.mktemp("bundles") / "past"
    return write_bundle(directory, family="llama", chat_template=CHAT, with_past=True)


@pytest.fixture
def server(encoder_bundle: Path, decoder_bundle: Path) -> Iterator[ProtocolServer]:
    """A running server that has both bundles."""
    with running_server() as found:
        found.publish(encoder_bundle)
        found.publish(decoder_bundle)
        yield found


class NewClient(Protocol):
    """Makes clients that note their waits instead of sleeping."""

    def __call__(self, waits: list[float] | None = None, token: str = DEVICE_TOKEN) -> Client: ...


@pytest.fixture
def new_client(server: ProtocolServer) -> Iterator[NewClient]:
    """Clients of `server`, closed after the test; half of every jitter, 20 s of patience."""
    made: list[Client] = []

    def make(waits: list[float] | None = None, token: str = DEVICE_TOKEN) -> Client:
        policy = RetryPolicy(base=0.5, cap=8.0, patience=20.0, draw=lambda: 0.5)
        noted = [] if waits is None else waits
        made.append(Client(server.url, token, policy=policy, wait=noted.append))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def client(new_client: NewClient) -> Client:
    """A client with the device's token."""
    return new_client()


@pytest.fixture
def state(tmp_path: Path, server: ProtocolServer) -> StateDirectory:
    """The state directory of a device enrolled at `server`."""
    found = StateDirectory(tmp_path / "state")
    found.store_enrolment(Enrolment(server.url, "dev_1", "pi-1", DEVICE_TOKEN))
    return found


def write_sentences(path: Path, count: int, *, label: str = "good") -> Path:
    """A labelled .jsonl of distinct sentences of different lengths."""
    words = ("the red bird and", "a snail sat", "it was in the old barn", "then nothing")
    lines = (
        f'{{"text": "{words[i % 4]} {i} {"again " * (i % 5)}", "label": "{label}"}}'
        for i in range(count)
    )
    path.write_text("\n".join(lines) + "\n")
    return path
