"""Messages -> text by a bundle's chat template, in a sandbox.

The template came with a bundle, so it is code of the server: it runs without attributes, without
imports and without the clock, so that the same row always gives the same ids, and with bounds on
what it can make of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from splitfrozen.errors import DataError

Messages = Sequence[Mapping[str, str]]

TODAY = datetime(2026, 1, 1)  # for every template that asks for the date
MAX_TEXT = 16 * 1024 * 1024  # characters that a template may write for one row
_FAILURES = (
    TemplateError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError, MemoryError
)  # fmt: skip


class _Sandbox(ImmutableSandboxedEnvironment):
    """Bounds the two operators that make something huge of something small."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if operator == "*" and not numbers:
            size = _size(left) * _size(right)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            size = left.bit_length() * abs(right)
        else:
            size = 0
        if size > MAX_TEXT:
            raise TemplateError(f"{operator} gives too much")
        return super().call_binop(context, operator, left, right)


class _Generation(Extension):
    """`{% generation %}` marks an answer for loss masks; the text is the same without it."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class ChatTemplate:
    """Renders messages as Transformers' `apply_chat_template` does."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """`special_tokens`: the template's variables bos_token, eos_token, pad_token."""
        environment = _Sandbox(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = TODAY.strftime
        self._special_tokens = dict(special_tokens)
        try:
            self._template = environment.from_string(source)
        except (TemplateError, RecursionError, MemoryError) as error:
            raise DataError(f"the bundle's chat template is broken: {error}") from None

    def render(self, messages: Messages, *, ask: bool) -> str:
        """Text of the messages; with `ask`, followed by what starts the assistant's answer."""
        try:
            return _join(
                self._template.generate(
                    messages=messages, add_generation_prompt=ask, **self._special_tokens
                )
            )
        except _FAILURES as error:
            reason = str(error) or type(error).__name__
            raise DataError(f"the chat template refuses the messages: {reason}") from None

    def split(self, messages: Messages) -> tuple[str, str]:
        """Text before and of the last message's answer: (prompt, completion).

        Raises DataError if the template writes an earlier message differently once there is an
        answer: then no part of the text is the answer alone.
        """
        prompt = self.render(messages[:-1], ask=True)
        whole = self.render(messages, ask=False)
        if not whole.startswith(prompt):
            raise DataError(
                "the chat template does not write the prompt the same way with and without the "
                "answer; use prompt and completion columns instead"
            )
        if len(whole) == len(prompt):
            raise DataError("the chat template writes nothing for the answer")
        return prompt, whole[len(prompt) :]


def _join(parts: Iterable[str]) -> str:
    written, size = [], 0
    for part in parts:
        size += len(part)
        if size > MAX_TEXT:
            raise TemplateError(f"it writes more than {MAX_TEXT} characters")
        written.append(part)
    return "".join(written)


def _size(value: Any) -> int:
    """Of a factor: how often, or how long what is repeated is."""
    return abs(value) if isinstance(value, int) else len(value)


def _tojson(value: Any, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=options.get("indent"))


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)
