"""Where the executor's time goes: a clock that is always in exactly one phase.

`enter` costs one reading of the clock. A record of single spans is kept only between `begin_trace`
and `end_trace`, up to a bound.
"""

import time
from typing import Literal

from ..stats import Span, StepRecord, TraceReply

Phase = Literal[
    "idle", "receive", "plan", "swap", "pack", "forward", "sample", "detokenize", "send"
]
MAX_SPANS = 100_000  # some ten thousand steps, a few megabytes


class Trace:
    """What has been recorded so far."""

    def __init__(self, max_spans: int = MAX_SPANS) -> None:
        self._max_spans = max_spans
        self.started_at = time.time()
        self._begun = time.perf_counter()
        self._spans: list[Span] = []
        self._steps: list[StepRecord] = []
        self._num_left_out = 0

    def add_span(self, phase: Phase, begun: float, seconds: float) -> None:
        """A phase has ended. Idle time is what is between the others."""
        if phase != "idle" and begun >= self._begun and len(self._spans) < self._max_spans:
            self._spans.append(Span(phase, self._count_us(begun), int(seconds * 1e6)))

    def add_step(self, begun: float, ended: float, *counts: int) -> None:
        """A step has ended; `counts` are the fields of a StepRecord after its times."""
        if len(self._spans) < self._max_spans:
            duration_us = self._count_us(ended) - self._count_us(begun)
            self._steps.append(StepRecord(self._count_us(begun), duration_us, *counts))
        else:
            self._num_left_out += 1

    def _count_us(self, at: float) -> int:
        return max(int((at - self._begun) * 1e6), 0)

    def freeze(self) -> TraceReply:
        """The record."""
        steps = tuple(self._steps)
        return TraceReply(self.started_at, tuple(self._spans), steps, self._num_left_out)


class Meter:
    """Seconds by phase since the load."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.trace: Trace | None = None
        self._phase: Phase = "idle"
        self._since = time.perf_counter()

    def enter(self, phase: Phase) -> Phase:
        """From now on it is this phase; the one before."""
        before, begun, now = self._phase, self._since, time.perf_counter()
        self.seconds[before] = self.seconds.get(before, 0.0) + now - begun
        if self.trace is not None:
            self.trace.add_span(before, begun, now - begun)
        self._phase, self._since = phase, now
        return before

    def begin_trace(self, max_spans: int = MAX_SPANS) -> None:
        """Record from now on; what was recorded before is forgotten."""
        self.trace = Trace(max_spans)

    def end_trace(self) -> TraceReply:
        """Stop recording; the record, empty if none was begun."""
        trace, self.trace = self.trace or Trace(), None
        return trace.freeze()
