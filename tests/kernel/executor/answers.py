"""What the answers to some prompts have to be: by transformers' generate, and by an engine at rest.

Greedy answers in float32 are transformers' own. What is sampled, and what is rounded to bfloat16,
has no such peer: there it is what an engine says that has nothing else to do and room for
everything.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from llmos.kernel.executor.engine import Engine
from llmos.kernel.executor.model import load_model
from llmos.kernel.executor.protocol import Done, Generate, Load
from llmos.syscalls.types import Message, Sampling

Tokens = tuple[int, ...]
# Logits of one model, summed in another order, differ by some 1e-6. Where two tokens are nearer to
# each other than this, a prompt says nothing about us and another one has to be taken.
MIN_MARGIN = 3e-5


class Transformers:
    """Transformers' own answers."""

    def __init__(self, folder: Path, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def answer(self, prompt: str, num_new: int) -> Tokens:
        """The tokens of the answer, the one that ends it too."""
        inputs = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], return_tensors="pt", add_generation_prompt=True
        )
        output = self._model.generate(
            **inputs,
            max_new_tokens=num_new,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
        best = torch.cat(output.logits).topk(2).values
        assert (best[:, 0] - best[:, 1]).min() > MIN_MARGIN, f"take another prompt: {prompt}"
        return tuple(output.sequences[0, inputs["input_ids"].shape[1] :].tolist())


class Answers:
    """Every answer is computed once. `seed` 0 stands for the greedy one."""

    def __init__(
        self, folder: Path, prompts: list[str], num_new: int, *, dtype: str = "float32"
    ) -> None:
        self.spec = Load(str(folder), device="cpu", dtype=dtype)
        self.model = load_model(self.spec)
        self.prompts = prompts
        self.num_new = num_new
        self._found: dict[tuple[int, int], Tokens] = {}
        if dtype == "float32":
            peer = Transformers(folder, self.model.tokenizer)
            self._found = {(n, 0): peer.answer(prompt, num_new) for n, prompt in enumerate(prompts)}

    def ask(
        self,
        prompt: int,
        seed: int,
        num_new: int,
        *,
        id: int = 1,
        owner: int = 0,
        emitted: Tokens = (),
    ) -> Generate:
        """A request for an answer of so many tokens."""
        sampling = Sampling(max_tokens=num_new, temperature=0.9 if seed else 0.0, seed=seed)
        messages = (Message("user", self.prompts[prompt]),)
        return Generate(id, messages, sampling=sampling, owner=owner, emitted=emitted)

    def find(self, prompt: int, seed: int) -> Tokens:
        """The answer of `num_new` tokens; a shorter one begins in the same way."""
        if (prompt, seed) not in self._found:
            self._found[prompt, seed] = self._answer_alone(prompt, seed)
        return self._found[prompt, seed]

    def _answer_alone(self, prompt: int, seed: int) -> Tokens:
        engine = Engine(self.spec, model=self.model, num_pages=64)
        engine.submit(self.ask(prompt, seed, self.num_new))
        outputs = []
        while engine.has_work:
            outputs += engine.step()
        engine.close()
        (done,) = [one for one in outputs if isinstance(one, Done)]
        return done.tokens
