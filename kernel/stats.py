"""What an executor counts, and its record of a stretch of steps, as people get to see them.

Both are frozen: a copy of one moment, which nobody updates.
"""

import msgspec


class StatsReply(msgspec.Struct, frozen=True, tag="stats_reply"):
    """Counts at this moment; `num_steps` and after count since the load.

    `num_tokens` has by kind: those that steps computed (prefill, decode, scored, embedded) and
    those whose keys and values were found in pages instead (cached). `num_page_hits` are pages
    found when a sequence was admitted, by the tier where they were; `num_evictions` are pages that
    the device gave up, by what became of them. `seconds` is the wall time by phase, each moment in
    exactly one; on a device that works on its own, `forward` is the time to launch a step and
    `sample` includes the wait for it. The counts of prompt, cached and completion tokens are of
    the generations that have finished.
    """

    num_running: int
    num_waiting: int
    num_paused: int
    num_pages: int
    num_pages_free: int
    num_pages_cached: int
    num_steps: int
    num_preemptions: int
    num_prompt_tokens: int
    num_cached_tokens: int
    num_completion_tokens: int
    num_loading: int = 0
    page_bytes: int = 0
    num_pages_on_host: int = 0
    num_pages_on_disk: int = 0
    num_page_hits: dict[str, int] = {}
    num_evictions: dict[str, int] = {}
    num_bytes_moved: dict[str, int] = {}
    num_tokens: dict[str, int] = {}
    num_pages_by_owner: dict[int, int] = {}  # by pid: on the device, those nobody references too
    num_out_of_memory: int = 0
    seconds: dict[str, float] = {}


class Span(msgspec.Struct, frozen=True, array_like=True):
    """A stretch of time in one phase, in microseconds since the record began."""

    phase: str
    start_us: int
    duration_us: int


class StepRecord(msgspec.Struct, frozen=True, array_like=True):
    """One step: when it was, what it computed, and what stood in line and in pages after it."""

    start_us: int
    duration_us: int
    num_decodes: int
    num_prefill_tokens: int
    num_running: int
    num_waiting: int
    num_pages_in_use: int
    num_pages_cached: int


class TraceReply(msgspec.Struct, frozen=True, tag="trace_reply"):
    """The steps and phases between two messages; past a bound, steps are counted, not kept.

    `started_at` is in seconds since the epoch.
    """

    started_at: float
    spans: tuple[Span, ...]
    steps: tuple[StepRecord, ...]
    num_steps_left_out: int = 0
