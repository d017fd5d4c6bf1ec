"""Decode steps on the compiled kernels, recorded once for each number of sequences.

A step of single tokens makes the same calls each time; only what is in its rows differs. The rows
stay in place, so the first step of n tokens is recorded while it runs, and the next ones are its
calls made again: what transformers' code costs in Python, several times a small model's products,
is paid once. The numbers are the same to the last bit. What cannot be recorded runs as it is.
"""

import logging
from collections import OrderedDict
from collections.abc import Sequence as Seq

import numpy as np
import torch

from .attention import Step, using
from .batch import Work, is_decode, pack
from .model import Model
from .native.library import load_library
from .native.pool import PAGE_SIZE, NativePool
from .native.program import Arena, Program
from .native.recording import CannotRecord, Recorder

_MAX_TORCH_CALLS = 64  # with more, what is saved is little beside what is kept
_MAX_KEPT_BYTES = 64 << 20
_log = logging.getLogger(__name__)


class RecordedDecoder:
    """The decode steps of a model: up to `max_running` sequences at once."""

    def __init__(self, model: Model, pool: NativePool, *, max_running: int) -> None:
        self._model = model
        self._pool = pool
        self._library = load_library()
        self._tokens, self._slots = np.zeros((2, max_running), np.int64)
        self._columns = np.zeros((4, max_running), np.int64)  # as NativePool.prepare wants them
        self._columns[0], self._columns[1] = np.arange(max_running), 1
        rows, positions = self._columns[0], self._columns[2]
        self._inputs = [torch.from_numpy(one) for one in (self._tokens, positions, rows)]
        self._arena = Arena()
        self._programs: OrderedDict[int, Program] = OrderedDict()
        self._can_record = True
        self._step = Step(pool, self._slots[:0], 0, [])

    def capture(self) -> int:
        """None is recorded beforehand: the first step of each size is, while it runs."""
        return 0

    def forget_recordings(self) -> None:
        """The pool's tensors are about to be others."""
        self._programs.clear()

    def takes(self, works: Seq[Work]) -> bool:
        """Whether all that is to do is to decode, in a way that may be recorded."""
        return self._can_record and len(works) <= len(self._tokens) and is_decode(works)

    def load(self, works: Seq[Work]) -> None:
        """Put the work's numbers where a pass reads them."""
        num_rows = len(works)
        packed = pack(works, PAGE_SIZE)
        self._tokens[:num_rows], self._columns[2, :num_rows], self._slots[:num_rows] = packed
        self._columns[3, :num_rows] = [work.sequence.pages.address for work in works]
        self._step = Step(self._pool, self._slots[:num_rows], num_rows, [])
        self._pool.prepare(self._step, self._columns[:, :num_rows])

    def compute_logits(self) -> torch.Tensor:
        """Logits [works, vocabulary] of what was loaded, valid until the next call."""
        size = self._step.num_decodes
        program = self._programs.get(size)
        if program is None:
            return self._record(size)
        self._programs.move_to_end(size)
        return program.run()

    def _record(self, size: int) -> torch.Tensor:
        """Run a step, and keep the recording if there is one worth it."""
        recorder = Recorder()
        try:
            with recorder, self._library.heard_by(recorder.hear):
                logits = self._run(size)
        except CannotRecord as error:
            self._can_record = False
            _log.info("decode steps of %s are not recorded: %s", self._model.architecture, error)
            return self._run(size)
        program = Program(self._library, recorder, logits, self._arena)
        self._keep(size, program)
        return logits

    def _run(self, size: int) -> torch.Tensor:
        with using(self._step):
            return self._model.compute_logits(*(one[:size] for one in self._inputs))

    def _keep(self, size: int, program: Program) -> None:
        self._can_record = program.num_torch_calls <= _MAX_TORCH_CALLS
        if self._can_record:
            self._programs[size] = program
        programs = self._programs.values()
        while len(programs) > 1 and sum(one.num_kept_bytes for one in programs) > _MAX_KEPT_BYTES:
            self._programs.popitem(last=False)
