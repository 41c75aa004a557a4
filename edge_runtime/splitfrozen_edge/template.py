"""Messages -> text by a bundle's chat template, in a sandbox.

The template came with a bundle, so it is code of the server: it runs without attributes, without
imports and without the clock (templates that ask for the date then write their fixed one), so
that the same row always gives the same ids.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from splitfrozen.errors import DataError

Messages = Sequence[Mapping[str, str]]


class ChatTemplate:
    """Renders messages as Transformers' `apply_chat_template` does."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """`special_tokens`: the template's variables bos_token, eos_token, pad_token."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        self._special_tokens = dict(special_tokens)
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise DataError(f"the bundle's chat template is broken: {error}") from None

    def render(self, messages: Messages, *, ask: bool) -> str:
        """Text of the messages; with `ask`, followed by what starts the assistant's answer."""
        try:
            return self._template.render(
                messages=messages, add_generation_prompt=ask, **self._special_tokens
            )
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise DataError(f"the chat template refuses the messages: {error}") from None

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


def _tojson(value: Any, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=options.get("indent"))


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)
