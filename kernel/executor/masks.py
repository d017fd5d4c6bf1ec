"""Masks of the tokens that grammars forbid, made in a thread while the model computes logits.

The mask of a step depends on the token of the step before, so it is begun with the step and taken
when the logits are there. The library works without the interpreter's lock.
"""

from collections.abc import Sequence as Seq
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from .grammar import Constraint
from .sequence import Sequence

if TYPE_CHECKING:
    from llguidance import LLExecutor

Hidden = NDArray[np.bool_]


class PendingMasks:
    """The masks of some rows of a step, in the making."""

    def __init__(self, rows: list[int], future: "Future[Hidden]") -> None:
        self._rows = rows
        self._future = future

    def hide(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits [n, vocabulary] with what may not come at minus infinity; changed in place."""
        hidden = torch.from_numpy(self._future.result()[:, : logits.shape[1]]).to(logits.device)
        if len(self._rows) == len(logits):
            return logits.masked_fill_(hidden, float("-inf"))
        logits[self._rows] = logits[self._rows].masked_fill_(hidden, float("-inf"))
        return logits


class MaskMaker:
    """Begins the masks of a step."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "masks")
        self._executor: LLExecutor | None = None

    def begin(self, sequences: Seq[Sequence]) -> PendingMasks | None:
        """The masks for the next token of each sequence that has a grammar; None if none has."""
        rows = [row for row, one in enumerate(sequences) if one.constraint]
        if not rows:
            return None
        constraints = [one.constraint for one in sequences if one.constraint]
        return PendingMasks(rows, self._thread.submit(self._make, constraints))

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    def _make(self, constraints: list[Constraint]) -> Hidden:
        from llguidance import LLExecutor
        from llguidance.numpy import fill_next_token_bitmask_par

        self._executor = self._executor or LLExecutor()
        num_words = -(-constraints[0].num_tokens // 32)
        allowed = np.empty((len(constraints), num_words), np.int32)
        matchers = [(one.matcher, row) for row, one in enumerate(constraints)]
        fill_next_token_bitmask_par(self._executor, matchers, allowed)
        bits = np.unpackbits(np.invert(allowed).view(np.uint8), axis=1, bitorder="little")
        return bits.view(np.bool_)
