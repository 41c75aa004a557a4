"""chat: turns append to what both sides have; the text is that of one prefill of the same ids."""

from __future__ import annotations

from pathlib import Path

import pytest

from splitfrozen import read_bundle
from splitfrozen.bundle import Bundle
from splitfrozen.errors import DataError
from splitfrozen_edge.http.client import Client
from splitfrozen_edge.inference.chat import Conversation
from splitfrozen_edge.inference.sessions import SessionRequest, SplitSessions
from splitfrozen_edge.inference.split_text import SplitText
from splitfrozen_edge.inference.texts import Writer, wire_header
from splitfrozen_edge.model.cached_session import CachedSession
from tests.edge.protocol_server import ProtocolServer
from tests.edge.split_sessions import EOS
from tests.edge.test_generate import expected_ids
from tests.edge.tiny_bundle import write_bundle

SEED = 5
ENDING = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}"
    "{% if message.role == 'assistant' %}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
FORGETFUL = (
    "{% for message in messages %}"
    "{% if message.role == 'user' or loop.last %}<{{ message.content }}>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}:{% endif %}"
)


class Talk:
    """A conversation and all that it is made of."""

    def __init__(self, client: Client, bundle: Bundle, **options: object) -> None:
        self.device = CachedSession(bundle, threads=1)
        self.writer = Writer(bundle)
        request = SessionRequest("tiny", bundle.id, seed=SEED)
        header = wire_header(bundle, None)
        self.text = SplitText(self.device, SplitSessions(client), request, header)
        self.conversation = Conversation(
            self.text,
            self.writer,
            **({"max_tokens": 6} | options),  # type: ignore[arg-type]
        )

    def ask(self, question: str) -> str:
        return "".join(self.conversation.ask(question))

    def check_ids(self, generated: int) -> None:
        """The last answer is that of the whole text so far, fed at once."""
        ids = self.conversation.ids
        before, after = ids[:-generated], ids[-generated:]
        assert expected_ids(self.device, before, generated, SEED) == after


@pytest.fixture
def bundle(past_bundle: Path) -> Bundle:
    return read_bundle(past_bundle)


def ending_bundle(directory: Path, template: str | None) -> Bundle:
    return read_bundle(
        write_bundle(directory / "b", family="llama", chat_template=template, with_past=True)
    )


def test_two_turns_equal_one_prefill_of_the_same_ids(
    client: Client, server: ProtocolServer, bundle: Bundle
) -> None:
    talk = Talk(client, bundle)
    first = talk.ask("the bird")
    talk.check_ids(6)
    second = talk.ask("and the snail")
    talk.check_ids(6)
    assert first and second
    # One session; the second turn sent the last token of the first and what is new.
    assert len(server.split.made) == 1
    new = len(talk.writer.encode("\n<user>and the snail\n<assistant>"))
    assert server.split.tokens_of_steps[6] == 1 + new
    assert talk.conversation.messages == [
        {"role": "user", "content": "the bird"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "and the snail"},
        {"role": "assistant", "content": second},
    ]
    template = talk.writer.template
    assert template is not None
    shown = template.render(talk.conversation.messages[:3], ask=True) + second
    assert talk.writer.decode(talk.conversation.ids) == shown


def test_an_end_that_the_model_wrote_is_not_written_twice(
    client: Client, server: ProtocolServer, tmp_path: Path
) -> None:
    talk = Talk(client, ending_bundle(tmp_path, ENDING))
    server.split.eos_at = len(talk.writer.encode("<user>hi<assistant>")) + 3
    talk.ask("hi")
    assert talk.conversation.ids[-1] == EOS
    server.split.eos_at = None
    talk.ask("again")
    assert talk.conversation.ids.count(EOS) == 1
    assert len(server.split.made) == 1
    talk.check_ids(6)


def test_an_answer_that_was_cut_off_gets_the_end_from_the_template(
    client: Client, server: ProtocolServer, tmp_path: Path
) -> None:
    talk = Talk(client, ending_bundle(tmp_path, ENDING))
    talk.ask("hi")
    talk.ask("again")
    assert talk.conversation.ids.count(EOS) == 1
    talk.check_ids(6)


def test_a_template_that_rewrites_the_past_starts_the_text_again(
    client: Client, server: ProtocolServer, tmp_path: Path
) -> None:
    talk = Talk(client, ending_bundle(tmp_path, FORGETFUL))
    talk.ask("hi")
    talk.ask("again")
    assert talk.conversation.ids[:-6] == talk.writer.encode("<hi><again>:")
    talk.check_ids(6)
    assert (len(server.split.made), server.split.deleted) == (2, ["sess_1"])


def test_without_a_template_a_turn_is_a_new_line_of_the_text(
    client: Client, server: ProtocolServer, tmp_path: Path
) -> None:
    talk = Talk(client, ending_bundle(tmp_path, None))
    first = talk.ask("the bird")
    second = talk.ask("and")
    assert talk.writer.decode(talk.conversation.ids) == f"the bird{first}\nand{second}"
    assert talk.conversation.ids[0] == 1  # the token that starts a text, once
    assert talk.conversation.ids.count(1) == 1
    talk.check_ids(6)
    assert len(server.split.made) == 1


def test_a_system_message_needs_a_template(
    client: Client, server: ProtocolServer, tmp_path: Path, bundle: Bundle
) -> None:
    with pytest.raises(DataError, match="no chat template"):
        Talk(client, ending_bundle(tmp_path, None), system="be brief")
    talk = Talk(client, bundle, system="be brief")
    talk.ask("hi")
    start = talk.writer.encode("<system>be brief\n<user>hi\n<assistant>")
    assert talk.conversation.ids[: len(start)] == start


def test_a_turn_without_room_leaves_the_conversation_as_it_was(
    client: Client, server: ProtocolServer, bundle: Bundle
) -> None:
    server.split.max_positions = 80
    talk = Talk(client, bundle)
    talk.ask("hi")
    ids = list(talk.conversation.ids)
    with pytest.raises(DataError, match="more than the 80"):
        talk.ask("the red bird " * 20)
    assert talk.conversation.ids == ids
    assert talk.ask("a")
    assert talk.conversation.ids[: len(ids)] == ids
    talk.check_ids(6)
    assert len(server.split.made) == 1


def test_clearing_starts_over_on_both_sides(
    client: Client, server: ProtocolServer, bundle: Bundle
) -> None:
    talk = Talk(client, bundle)
    first = talk.ask("hi")
    talk.conversation.restart()
    assert server.split.deleted == ["sess_1"]
    assert talk.ask("hi") == first


def test_an_answer_that_is_halted_between_tokens_can_be_gone_on_from(
    client: Client, server: ProtocolServer, bundle: Bundle
) -> None:
    halted = [False, False, False, True]
    talk = Talk(client, bundle, halted=lambda: bool(halted) and halted.pop(0))
    talk.ask("hi")
    talk.check_ids(3)
    talk.ask("again")
    talk.check_ids(6)
    assert len(server.split.made) == 1


def test_a_turn_that_is_broken_off_starts_the_text_again_and_keeps_the_turns_before(
    client: Client, server: ProtocolServer, bundle: Bundle
) -> None:
    talk = Talk(client, bundle)
    first = talk.ask("hi")
    pieces = talk.conversation.ask("again")
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert [message["content"] for message in talk.conversation.messages] == ["hi", first]
    talk.ask("once more")
    start = talk.writer.encode(f"<user>hi\n<assistant>{first}\n<user>once more\n<assistant>")
    assert talk.conversation.ids[:-6] == start
    talk.check_ids(6)


@pytest.mark.parametrize("at", [4, 7, 8, 10])
def test_a_session_lost_in_any_turn_does_not_show(
    client: Client, server: ProtocolServer, bundle: Bundle, at: int
) -> None:
    talk = Talk(client, bundle)
    undisturbed = [talk.ask("hi"), talk.ask("again")]
    server.split.lose_before = {server.split.steps + at}
    talk = Talk(client, bundle)
    assert [talk.ask("hi"), talk.ask("again")] == undisturbed
    assert talk.text.timing.sessions_lost == 1
