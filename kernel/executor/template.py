"""A model's chat template, rendered in bounded time and size.

A template is a program that comes with a model. It runs in transformers' Jinja sandbox, which lets
it neither reach anything nor write anything but its output, yet would let it loop for ever.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import jinja2
from transformers.utils.chat_template_utils import _compile_jinja_template

from llmos.syscalls.errors import E_ARG, E_CONTEXT, E_MODEL

MAX_RENDERED_CHARS = 4_000_000
MAX_RENDER_SECONDS = 2.0  # of processor time
_FALLBACK = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant:"
)
_NO_TEMPLATE = (
    "the model has no chat template and reads a conversation as plain `role: text` lines;"
    " fix: take a chat model, or add a chat_template.jinja"
)
_FAULTS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


class ChatTemplate:
    """The template of a tokenizer. Models without one get `role: content` lines."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.exists = bool(tokenizer.chat_template)

    @property
    def text(self) -> str:
        """The source that a conversation with tools uses."""
        return str(self._choose(with_tools=True))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Lines for the person who chose the model."""
        return () if self.exists else (_NO_TEMPLATE,)

    def _choose(self, *, with_tools: bool) -> Any:
        if not self.exists:
            return _FALLBACK
        try:
            return self._tokenizer.get_chat_template(None, tools=[{}] if with_tools else None)
        except ValueError as error:
            raise E_MODEL(f"no chat template can be chosen: {error}") from None

    def render(self, messages: list[Any], tools: list[Any]) -> str:
        """The prompt's text, up to where the assistant's turn begins. For the main thread only.

        Raises E_ARG for messages that the template refuses, E_CONTEXT for text past the cap,
        E_MODEL for a template that fails or does not end.
        """
        try:
            with _deadline(MAX_RENDER_SECONDS):
                return self._render(messages, tools)
        except _TooSlow:
            reason = f"the chat template did not end within {MAX_RENDER_SECONDS:g} s"
            raise E_MODEL(f"{reason}; fix: mend the model's chat_template") from None
        except _FAULTS as error:
            if type(error) is jinja2.TemplateError:
                reason = f"the model's chat template refuses these messages: {error}"
                raise E_ARG(reason, field="messages") from None
            raise E_MODEL(f"the chat template fails: {error}") from None

    def _render(self, messages: list[Any], tools: list[Any]) -> str:
        template = _compile_jinja_template(self._choose(with_tools=bool(tools)))
        pieces: list[str] = []
        num_chars = 0
        for piece in template.generate(
            messages=messages,
            tools=tools or None,
            add_generation_prompt=True,
            **self._tokenizer.special_tokens_map,
        ):
            pieces.append(piece)
            num_chars += len(piece)
            if num_chars > MAX_RENDERED_CHARS:
                raise E_CONTEXT(
                    f"the prompt has over {num_chars} characters; it may have {MAX_RENDERED_CHARS}"
                )
        return "".join(pieces)


class _TooSlow(BaseException):
    """Time is up. No Exception, because what a template calls may catch those."""


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Raise _TooSlow in the body after so much processor time."""

    def expire(number: int, frame: FrameType | None) -> NoReturn:
        raise _TooSlow

    before = signal.signal(signal.SIGPROF, expire)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
