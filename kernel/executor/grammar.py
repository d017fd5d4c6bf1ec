"""Grammars, compiled: which tokens may come next so that the whole answer fits.

A compilation runs in a thread beside the step loop and has a second; the library's own limits end
most of those that would take longer. What it refuses, and what it would accept with a warning, is
E_GRAMMAR. Source of the method: llguidance, an Earley parser over a lexer of regex derivatives.
"""

import json
import re
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from typing import TYPE_CHECKING, Any

from llmos.syscalls.errors import E_BUSY, E_GRAMMAR, SyscallError
from llmos.syscalls.types import Grammar

from .schema import check_schema, read_schema

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MAX_GRAMMAR_CHARS = 65_536
COMPILE_SECONDS = 0.9
# One way to write each character, so that no two names are the same property, and at most a space
# between tokens: a model that has lost its way cannot go on with white space for ever.
_JSON_OPTIONS: Any = {
    "whitespace_flexible": False,
    "item_separator": ", ?",
    "key_separator": ": ?",
    "json_allowed_escapes": '"\\bfnrt',
}
_LIMITS: Any = {
    "initial_lexer_fuel": 200_000,
    "step_lexer_fuel": 100_000,
    "max_lexer_states": 50_000,
    "max_grammar_size": 100_000,
    "verbose_errors": False,
}
_FIELDS = {"json_schema": "schema", "regex": "regex", "lark": "grammar"}
_NO_FORCING = '\n%llguidance {"no_forcing": true}\n'
_NUM_THREADS = 2
_WAIT_SECONDS = 0.02
_EMBEDDED = re.compile(r"%json\s*(?=\{)")
_PLACE = re.compile(r"^at \d+\(\d+\): ")
_EXCERPT = "\n   1 | "  # where the library's copy of the grammar begins in what it says


class Constraint:
    """A grammar and how far an answer has got in it; masks have `num_tokens` bits."""

    def __init__(self, matcher: "LLMatcher", num_tokens: int) -> None:
        self.matcher = matcher
        self.num_tokens = num_tokens

    def advance(self, token: int) -> None:
        """The answer goes on with this token."""
        self.matcher.consume_token(token)

    @property
    def error(self) -> str:
        """Why it cannot go on, where it cannot: a limit of the parser."""
        return _first_lines(self.matcher.get_error()) if self.matcher.is_error() else ""

    @property
    def is_complete(self) -> bool:
        """Whether nothing can follow."""
        return self.matcher.is_stopped()


class _Compilation:
    """A grammar in the making."""

    def __init__(self, future: "Future[Constraint]") -> None:
        self.future = future
        self.begun: float | None = None
        self._asked = time.monotonic()

    def poll(self) -> Constraint | None:
        """The grammar when it is ready. E_GRAMMAR; E_BUSY where others are in the way."""
        if self.future.done():
            return self.future.result()
        if time.monotonic() - (self.begun or self._asked) < COMPILE_SECONDS:
            return None
        if self.future.cancel():
            raise E_BUSY("other grammars are being compiled", retry_after_seconds=1.0)
        if self.begun is None:
            return None  # the tokenizer is being made
        raise E_GRAMMAR(f"the grammar takes longer than {COMPILE_SECONDS:g} s to compile")


class GrammarCompiler:
    """Compiles for one tokenizer and a model of `num_logits`, which may be more than its tokens."""

    def __init__(self, tokenizer: Any, *, num_logits: int, ends: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._num_tokens = max(num_logits, len(tokenizer))
        self._ends = sorted(ends)
        self._threads = ThreadPoolExecutor(_NUM_THREADS, "grammar")
        self._making = threading.Lock()
        self._made: LLTokenizer | None = None
        self._compilations: dict[int, _Compilation] = {}

    @property
    def has_work(self) -> bool:
        """Whether there is a grammar in the making."""
        return bool(self._compilations)

    def submit(self, number: int, grammar: Grammar) -> None:
        """Begin to compile; `collect` gives it out under this number."""
        compilation = self._compilations[number] = _Compilation(Future())

        def compile_in_time() -> Constraint:
            tokenizer = self._make_tokenizer(grammar)
            compilation.begun = time.monotonic()
            return _compile(grammar, tokenizer)

        compilation.future = self._threads.submit(compile_in_time)

    def is_compiling(self, number: int) -> bool:
        """Whether this one is in the making."""
        return number in self._compilations

    def forget(self, number: int) -> None:
        """Nobody waits for it any more."""
        if compilation := self._compilations.pop(number, None):
            compilation.future.cancel()

    def collect(self, *, wait: bool) -> list[tuple[int, Constraint | SyscallError]]:
        """What has become known; with `wait`, after a moment if there is nothing yet."""
        if wait and self._compilations:
            futures = [one.future for one in self._compilations.values()]
            wait_for(futures, _WAIT_SECONDS, FIRST_COMPLETED)
        known: list[tuple[int, Constraint | SyscallError]] = []
        for number, compilation in tuple(self._compilations.items()):
            try:
                made: Constraint | SyscallError | None = compilation.poll()
            except SyscallError as error:
                made = error
            if made is not None:
                known.append((number, made))
                del self._compilations[number]
        return known

    def close(self) -> None:
        """End the threads; a compilation under way is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _make_tokenizer(self, grammar: Grammar) -> "LLTokenizer":
        """The tokenizer as the library wants it: half a second for 150,000 tokens, once.

        E_GRAMMAR for one of a family that the library does not know.
        """
        from llguidance.hf import from_tokenizer

        with self._making:
            if self._made is None:
                ends = self._ends or None
                try:
                    self._made = from_tokenizer(self._tokenizer, self._num_tokens, ends)
                except ValueError as error:
                    reason = f"no grammar works with this model's tokenizer: {error}"
                    raise E_GRAMMAR(reason[:300], field=_FIELDS[grammar.kind]) from None
            return self._made


def _compile(grammar: Grammar, tokenizer: "LLTokenizer") -> Constraint:
    from llguidance import LLMatcher, LLParserLimits

    matcher = LLMatcher(
        tokenizer, _translate(grammar), log_level=0, limits=LLParserLimits(**_LIMITS)
    )
    warnings = matcher.get_grammar_warnings()
    if not matcher.is_error() and not warnings:
        matcher.compute_bitmask()  # some limits are met with the first token only
    if reason := matcher.get_error() or " ".join(warnings):
        if grammar.kind != "lark":  # places and lines are those of our translation
            reason = _PLACE.sub("", reason.partition(_EXCERPT)[0])
        raise E_GRAMMAR(_first_lines(reason), field=_FIELDS[grammar.kind])
    return Constraint(matcher, tokenizer.vocab_size)


def _translate(grammar: Grammar) -> str:
    """The grammar in the library's variant of Lark. Raises E_GRAMMAR.

    Without `no_forcing` the library takes text that can only be written in one way through the
    tokenizer, which makes a special token of what is spelled like one, and then refuses it.
    """
    num_chars = len(grammar.text)
    if num_chars > MAX_GRAMMAR_CHARS:
        sizes = f"has {num_chars} characters; {MAX_GRAMMAR_CHARS} are compiled"
        raise E_GRAMMAR(f"the grammar {sizes}", field=_FIELDS[grammar.kind])
    lark = {"json_schema": _write_schema, "regex": _write_regex, "lark": _check_lark}
    return lark[grammar.kind](grammar.text) + _NO_FORCING


def _write_schema(text: str) -> str:
    schema = read_schema(text)
    if not isinstance(schema, dict):
        schema = {"allOf": [schema]}
    return f"start: {embed_schema(schema)}"


def embed_schema(schema: dict[str, Any]) -> str:
    """A schema inside of a Lark grammar."""
    return f"%json {json.dumps({**schema, 'x-guidance': _JSON_OPTIONS})}"


def _write_regex(text: str) -> str:
    from llguidance import LLMatcher

    return str(json.loads(LLMatcher.grammar_from_regex(text))["grammars"][0]["lark_grammar"])


def _check_lark(text: str) -> str:
    if text.lstrip().startswith("{"):
        raise E_GRAMMAR("the grammar begins with a brace, not with a rule", field="grammar")
    for found in _EMBEDDED.finditer(text):
        _check_embedded(text, found.end())
    return text


def _check_embedded(text: str, start: int) -> None:
    """A schema inside of a grammar; what is no JSON the library tells with its line."""
    try:
        schema, _ = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return
    schema.pop("x-guidance", None)
    check_schema(schema)


def _first_lines(reason: str) -> str:
    """The library's message on one line, without what it says of itself and of our own line."""
    if reason.startswith("NoExtension"):
        return "no text fits the grammar"
    if reason.startswith("panic"):
        reason = reason.partition("<")[0]
    lines = [line for line in reason.splitlines() if _NO_FORCING.strip() not in line]
    return " ".join(" ".join(lines).split())[:300]
