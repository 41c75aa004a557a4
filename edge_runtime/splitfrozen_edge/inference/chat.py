"""A conversation that keeps what both sides have computed: a turn costs its own tokens only."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from splitfrozen.errors import DataError
from splitfrozen_edge.inference.generate import CONTEXT, MAX_TOKENS, Generation
from splitfrozen_edge.inference.split_text import SplitText
from splitfrozen_edge.inference.texts import Writer


class Conversation:
    """Turns of a person and a model.

    With a chat template the whole conversation is rendered for every turn, and only what follows
    the last answer is appended. A template that writes earlier turns differently then, or that cut
    an answer short, makes the text start again from its first token: right, but slower. Without a
    template a turn is a new line of one text, which the model continues.
    """

    def __init__(
        self,
        text: SplitText,
        writer: Writer,
        *,
        system: str | None = None,
        max_tokens: int = MAX_TOKENS,
        halted: Callable[[], bool] = lambda: False,
    ) -> None:
        """Raises DataError for a system message without a template."""
        if system is not None and writer.template is None:
            raise DataError("the bundle's model has no chat template, so no system message either")
        self._text = text
        self._writer = writer
        self._max_tokens = max_tokens
        self._halted = halted
        self._system = system
        self.messages: list[dict[str, str]] = []  # {role, content}, answers as they came
        self.ids: list[int] = []  # of the whole text, what is not appended yet too
        self._written = ""  # the text of `ids`, as it was rendered
        self._pending: list[int] = []  # the last sampled token
        self._ended = False  # by that token: it is the template's end of an answer
        self.restart()

    def restart(self) -> None:
        """Forget all turns."""
        self.messages = [{"role": "system", "content": self._system}] if self._system else []
        self._start_over()

    def ask(self, question: str) -> Iterator[str]:
        """Yield the answer's pieces; the turn counts once this is exhausted.

        Raises DataError, with the conversation as it was, when there is no room for the turn.
        """
        messages = [*self.messages, {"role": "user", "content": question}]
        whole = self._render(messages)
        new = self._continue(whole)
        if new is None:
            self._text.restart()
            self._start_over()
            new = self._first(whole)
        answer: list[str] = []
        generation = Generation(
            self._text,
            [*self._pending, *new],
            self._writer.decode,
            context=[*self.ids, *new][-CONTEXT:],
            max_tokens=self._max_tokens,
            halted=self._halted,
        )
        before = self._text.tokens
        try:
            for piece in generation:
                answer.append(piece)
                yield piece
        except DataError:
            if self._text.tokens == before:
                raise  # nothing was appended
            self._start_over()
            raise
        except BaseException:  # what the text holds is no longer known
            self._start_over()
            raise
        self._keep(messages, whole, new, "".join(answer), generation)

    def _keep(
        self,
        messages: list[dict[str, str]],
        whole: str,
        new: list[int],
        answer: str,
        generation: Generation,
    ) -> None:
        if not generation.steps:  # halted before anything came
            return
        sampled = [step.token for step in generation.steps]
        self.messages = [*messages, {"role": "assistant", "content": answer}]
        self.ids += [*new, *sampled]
        self._written = whole + answer
        self._pending = sampled[-1:]
        self._ended = generation.steps[-1].finish_reason == "stop"

    def _render(self, messages: list[dict[str, str]]) -> str:
        template = self._writer.template
        return _lines(messages) if template is None else template.render(messages, ask=True)

    def _continue(self, whole: str) -> list[int] | None:
        """Ids of what follows the last answer in `whole`; None if the rest reads differently."""
        if not self.ids:
            return self._first(whole)
        head = self._written
        if not whole.startswith(head):
            return None
        if self._ended:  # the model has written what ends an answer; the template does it again
            rest, end = whole[len(head) :], self._writer.token(self.ids[-1])
            if end and rest.lstrip(" ").startswith(end):
                head += rest[: rest.index(end) + len(end)]
        together, alone = self._writer.encode(whole), self._writer.encode(head)
        if together[: len(alone)] == alone:  # a tokenizer may treat the start of a text specially
            return together[len(alone) :]
        return self._writer.encode(whole[len(head) :])

    def _first(self, whole: str) -> list[int]:
        """A template writes its own first token; a plain text gets it put before."""
        if self._writer.template is None:
            return self._writer.encode_prompt(whole)
        return self._writer.encode(whole)

    def _start_over(self) -> None:
        self.ids, self._written, self._pending, self._ended = [], "", [], False
        if self._text.tokens:
            self._text.restart()


def _lines(messages: list[dict[str, str]]) -> str:
    """Turns as one text: a question begins a line, its answer follows at once."""
    text = ""
    for message in messages:
        starts_line = text and message["role"] != "assistant"
        text += ("\n" if starts_line else "") + message["content"]
    return text
