"""llama.cpp as its server drives it: one llama_decode a step over all sequences that have tokens.

Settings are the server's defaults with `--parallel 16`: see README.md. Each session is one of its
slots: a slot keeps what it computed, and the next prompt is computed from where it differs.
Sampling is an arg-max over the logits in numpy, which costs less than the server's own chain.
"""

import ctypes
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.peers.gguf_file import write_gguf
from bench.peers.serving import Sessions, drive, serve

NUM_SLOTS = 16
CONTEXT = 1024  # tokens a slot
NUM_BATCH = 2048


class Slot:
    """A sequence: what it holds, what it still has to compute, how much it may say."""

    def __init__(self) -> None:
        self.held: list[int] = []
        self.pending: list[int] = []
        self.num_left = 0


class LlamaCpp:
    """A model, a context of NUM_SLOTS sequences, and a batch that is filled anew each step."""

    def load(self, options: dict[str, Any]) -> dict[str, Any]:
        """Write the GGUF file if there is none, load it."""
        import llama_cpp

        self._llama = llama_cpp
        folder = Path(options["model"])
        path = folder / "model-bf16.gguf"
        if not path.exists():
            partial = path.with_suffix(".partial")
            write_gguf(folder, partial)
            partial.rename(path)
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_model_load_from_file(
            os.fsencode(path), llama_cpp.llama_model_default_params()
        )
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max = NUM_SLOTS * CONTEXT, NUM_SLOTS
        params.n_batch = NUM_BATCH
        params.n_threads = params.n_threads_batch = options["threads"]
        self._context = llama_cpp.llama_init_from_model(model, params)
        assert self._context, "llama.cpp made no context"
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._num_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self._batch = llama_cpp.llama_batch_init(NUM_BATCH, 0, 1)
        self._slots = [Slot() for _ in range(NUM_SLOTS)]
        return {
            "version": llama_cpp.__version__,
            "settings": f"batch {NUM_BATCH}, micro-batch {params.n_ubatch}, flash attention auto",
        }

    def run(self, sessions: Sessions) -> dict[str, Any]:
        """Run a workload with a slot for each session."""
        return drive(self, sessions)

    def start(self, session: int, prompt: list[int], num_new: int) -> None:
        """Give the slot a prompt; what it holds of it already is not computed again."""
        slot = self._slots[session]
        same = 0
        while same < min(len(slot.held), len(prompt) - 1) and slot.held[same] == prompt[same]:
            same += 1
        self._llama.llama_memory_seq_rm(self._memory, session, same, -1)
        slot.held, slot.pending, slot.num_left = prompt[:same], prompt[same:], num_new

    def step(self) -> list[tuple[int, list[int]]]:
        """One batch: first the slots that say something, then prompts while there is room."""
        rows, taken = self._fill()
        code = self._llama.llama_decode(self._context, self._batch)
        assert code == 0, f"llama_decode answered {code}"
        sampled = []
        for number, row in rows:
            token = int(self._logits(row).argmax())
            slot = self._slots[number]
            slot.num_left -= 1
            slot.pending = [token] if slot.num_left else []
            sampled.append((number, [token]))
        assert taken, "a step without tokens"
        return sampled

    def _fill(self) -> tuple[list[tuple[int, int]], int]:
        """Fill the batch. Returns (slot, row of its last token) where it ends, and its size."""
        rows, size = [], 0
        for number in sorted(range(NUM_SLOTS), key=lambda one: len(self._slots[one].pending) != 1):
            slot = self._slots[number]
            tokens = slot.pending[: NUM_BATCH - size]
            if not tokens:
                continue
            for token in tokens:
                self._put(size, token, number, len(slot.held))
                slot.held.append(token)
                size += 1
            slot.pending = slot.pending[len(tokens) :]
            if not slot.pending:
                self._batch.logits[size - 1] = 1
                rows.append((number, size - 1))
        self._batch.n_tokens = size
        return rows, size

    def _put(self, row: int, token: int, number: int, position: int) -> None:
        batch = self._batch
        batch.token[row] = token
        batch.pos[row] = position
        batch.n_seq_id[row] = 1
        batch.seq_id[row][0] = number
        batch.logits[row] = 0

    def _logits(self, row: int) -> NDArray[np.float32]:
        pointer = self._llama.llama_get_logits_ith(self._context, row)
        return np.ctypeslib.as_array(
            ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), (self._num_vocab,)
        )


if __name__ == "__main__":
    serve(LlamaCpp())
