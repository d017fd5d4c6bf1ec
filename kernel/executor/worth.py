"""What a page is worth: a number that stays the same while the page lies idle.

All pages have the same size, so the one to give up is that with the least

    worth(t) = w x P(needed again before its room is),    w = seconds to compute it again.

Its owner has been away since `used` and is expected to stay away for `idle` seconds more than one
who just reads on; P = exp(-(t - used + idle) / horizon) takes what is expected as if it had passed.
So horizon x ln worth(t) = horizon x ln w + used - idle - t. At any moment t is the same for all
pages: whichever of two is worth less now is so for ever, and a heap of the constants

    rank = used - idle + horizon x ln w

has them in order. w counts in units of a first page and grows with each other owner that shared
the page, so that what everybody begins with goes last; a page whose owner is gone ranks below all.
Within a sequence a page is useless without those before it: whoever ranks a table from its last
page to its first never lets the rank fall.

The horizon is the time to compute as many tokens as the pool holds: holding n tokens for longer
costs more than computing them again, whatever n is.
"""

import math

GONE = -math.inf
IDLE_SECONDS = {"tool": 2.0, "person": 120.0}
_DECAY = 0.9
_MIN_STEP_TOKENS = 32
_MOST_BY_POSITION = 0.9
_FIRST_HORIZON_SECONDS = 60.0
_MIN_HORIZON_SECONDS, _MAX_HORIZON_SECONDS = 1.0, 3600.0
_RECOVERY = 1.05


class ComputeCost:
    """Seconds of prefill per token, b + d x position, learnt from steps.

    Least squares over past steps, each weighing a tenth less than the one after it; at the mean
    position, not all of it is put down to the position.
    """

    def __init__(self, *, page_size: int, num_pages: int) -> None:
        self._page_size = page_size
        self.resize(num_pages)
        self._sums = (0.0, 0.0, 0.0, 0.0, 0.0)  # of 1, p, p^2, y, p x y
        self._base, self._slope = 0.0, 0.0

    def resize(self, num_pages: int) -> None:
        """The pool holds so many pages from now on."""
        self._capacity = self._page_size * num_pages

    def observe(self, num_tokens: int, mean_position: float, seconds: float) -> None:
        """A step computed so many tokens at these positions. Steps of few tokens say nothing."""
        if num_tokens < _MIN_STEP_TOKENS:
            return
        y, p = seconds / num_tokens, mean_position
        new = (1.0, p, p * p, y, p * y)
        self._sums = tuple(_DECAY * a + b for a, b in zip(self._sums, new, strict=True))  # type: ignore[assignment]
        n, sum_p, sum_pp, sum_y, sum_py = self._sums
        spread = n * sum_pp - sum_p * sum_p
        slope = (n * sum_py - sum_p * sum_y) / spread if spread > 1e-6 * n * sum_pp else 0.0
        self._slope = min(max(slope, 0.0), _MOST_BY_POSITION * sum_y / sum_p)
        self._base = (sum_y - self._slope * sum_p) / n

    def count_seconds(self, first_page: int, num_pages: int) -> float:
        """Seconds to compute pages that begin so many pages into a sequence; infinite if unknown,
        because then nothing has been computed yet and whatever is there is worth having."""
        if not self._sums[0]:
            return math.inf
        num_tokens = num_pages * self._page_size
        middle = first_page * self._page_size + num_tokens / 2
        return num_tokens * (self._base + self._slope * middle)

    @property
    def horizon_seconds(self) -> float:
        """How long an idle page is worth its room."""
        if not self._base:
            return _FIRST_HORIZON_SECONDS
        seconds = self._base * self._capacity
        return min(max(seconds, _MIN_HORIZON_SECONDS), _MAX_HORIZON_SECONDS)

    def rank(self, index: int, num_shared: int, used: float, idle_seconds: float) -> float:
        """The rank of a sequence's page `index`, last used at `used`."""
        relative = self._slope / self._base if self._base else 0.0
        weight = (1.0 + relative * index * self._page_size) * (1 + num_shared)
        return used - idle_seconds + self.horizon_seconds * math.log(weight)


class TransferCost:
    """Seconds to move bytes, learnt from moves."""

    def __init__(self, bytes_per_second: float) -> None:
        self._rate = bytes_per_second

    def observe(self, num_bytes: int, seconds: float) -> None:
        """So many bytes took so long."""
        self._rate = _DECAY * self._rate + (1 - _DECAY) * num_bytes / max(seconds, 1e-9)

    def count_seconds(self, num_bytes: int) -> float:
        """Seconds that a move of so many bytes takes."""
        return num_bytes / self._rate

    def recover(self) -> None:
        """A move was refused: be a little bolder, so that a slow hour is not believed for ever."""
        self._rate *= _RECOVERY
