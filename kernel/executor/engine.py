"""The step loop: requests in, one forward pass over all of them, text out.

Usable in a process without sockets: `submit`, then `step` until `has_work` is False. A generation
that fails answers Failed and the others go on. Single-threaded; nothing here waits.
"""

import time

from llmos.syscalls.errors import E_ARG, E_CANCELLED, E_MODEL, SyscallError

from .attention import LayerShape
from .chat import ChatEncoder
from .detokenizer import Detokenizer
from .device import count_page_bytes
from .generation import Generation, resolve_sampling
from .model import Model, load_model
from .pages import PagePool
from .prefix import make_root
from .protocol import Failed, Generate, Load, Loaded, Output, StatsReply, Token
from .runner import Runner
from .scheduler import Scheduler
from .sequence import Sequence
from .toolcalls import MARKERS, ToolCallParser, detect_family

PAGE_SIZE = 16
MAX_RUNNING = 64
MAX_STEP_TOKENS = 512


class Engine:
    """A loaded model and the generations on it. Raises E_MODEL when it cannot be loaded."""

    def __init__(
        self,
        spec: Load,
        *,
        num_pages: int | None = None,
        max_running: int = MAX_RUNNING,
        max_step_tokens: int = MAX_STEP_TOKENS,
    ) -> None:
        started = time.monotonic()
        self._model = model = load_model(spec)
        num_pages = num_pages or _count_pages(model)
        self._max_model_len = min(model.max_model_len, num_pages * PAGE_SIZE)
        self._runner = Runner(model, num_pages=num_pages, page_size=PAGE_SIZE)
        self._scheduler = Scheduler(
            PagePool(num_pages),
            page_size=PAGE_SIZE,
            max_running=max_running,
            max_step_tokens=max_step_tokens,
        )
        self._chat = ChatEncoder(model.tokenizer)
        added = model.tokenizer.get_added_vocab()
        self._family = detect_family(self._chat.template_text, tuple(added))
        self._hidden = frozenset(model.tokenizer.all_special_ids)
        self._hidden_with_tools = self._hidden - {added[one] for one in MARKERS if one in added}
        self._ends = _find_ends(model)
        self._generations: dict[int, Generation] = {}
        self._outputs: list[Output] = []
        self._num_steps = 0
        self._num_tokens = [0, 0, 0]
        self.loaded = self._describe(spec, num_pages, time.monotonic() - started)

    def _describe(self, spec: Load, num_pages: int, load_seconds: float) -> Loaded:
        model = self._model
        return Loaded(
            model=spec.model,
            architecture=model.architecture,
            num_parameters=model.num_parameters,
            max_model_len=self._max_model_len,
            page_size=PAGE_SIZE,
            num_pages=num_pages,
            fingerprint=model.fingerprint,
            device=str(model.device),
            dtype=str(model.dtype).removeprefix("torch."),
            load_seconds=load_seconds,
        )

    @property
    def has_work(self) -> bool:
        """Whether a step would do something."""
        return bool(self._outputs) or self._scheduler.has_work

    def submit(self, request: Generate) -> None:
        """Take a request in. What is wrong with it is answered by the next step."""
        try:
            self._generations[request.id] = generation = self._prepare(request)
        except SyscallError as error:
            self._outputs.append(Failed(request.id, error.reply()))
            return
        self._scheduler.add(generation.sequence)

    def _prepare(self, request: Generate) -> Generation:
        if request.id in self._generations:
            raise E_ARG("the id is in use", field="id")
        if not any(one.content.strip() or one.tool_calls for one in request.messages):
            raise E_ARG("the prompt is empty", field="messages")
        model = self._model
        tokens = self._chat.encode(request.messages, request.tools)
        sampling = resolve_sampling(
            request.sampling,
            model.network.generation_config,
            num_prompt=len(tokens),
            max_model_len=self._max_model_len,
        )
        root = make_root(model.fingerprint, request.tenant)
        hidden = self._hidden_with_tools if request.tools else self._hidden
        return Generation(
            request,
            Sequence(request.id, tokens, sampling, root),
            Detokenizer(model.tokenizer, hidden),
            ToolCallParser(self._family) if request.tools else None,
            self._ends,
        )

    def step(self) -> list[Output]:
        """One forward pass over what the scheduler chose; what became known by it."""
        outputs, self._outputs = self._outputs, []
        works = self._scheduler.plan()
        if works:
            sampled = self._runner.run(works)
            lasts = [work.sequence.id for work in works if work.is_last]
            for work in works:
                self._scheduler.mark_computed(work)
            for generation_id, token in zip(lasts, sampled, strict=True):
                outputs += self._advance(self._generations[generation_id], token)
            self._num_steps += 1
        return outputs

    def _advance(self, generation: Generation, token: int | None) -> list[Output]:
        if token is None:
            self._drop(generation)
            error = E_MODEL("the model's numbers are not finite", partial=generation.text)
            return [Failed(generation.id, error.reply())]
        text = generation.take_token(token)
        num_tokens = generation.sequence.num_completion
        outputs: list[Output] = [Token(generation.id, text, num_tokens)] if text else []
        if generation.finish_reason:
            self._drop(generation)
            done = generation.make_done()
            usage = (done.usage.prompt_tokens, done.usage.cached_tokens, num_tokens)
            self._num_tokens = [a + b for a, b in zip(self._num_tokens, usage, strict=True)]
            outputs.append(done)
        return outputs

    def _drop(self, generation: Generation) -> None:
        self._scheduler.remove(generation.sequence)
        del self._generations[generation.id]

    def cancel(self, generation_id: int) -> None:
        """End a generation; the next step answers with E_CANCELLED and its text so far."""
        if generation := self._generations.get(generation_id):
            self._drop(generation)
            error = E_CANCELLED("the generation was cancelled", partial=generation.text)
            self._outputs.append(Failed(generation_id, error.reply()))

    def pause(self, generation_id: int) -> None:
        """Take a generation out of the batch; its pages stay cached while there is room."""
        if generation := self._generations.get(generation_id):
            self._scheduler.pause(generation.sequence)

    def resume(self, generation_id: int) -> None:
        """Put a paused generation back in line."""
        if generation := self._generations.get(generation_id):
            self._scheduler.resume(generation.sequence)

    def collect_stats(self) -> StatsReply:
        """Counts at this moment."""
        scheduler, pool = self._scheduler, self._scheduler.pool
        prompt, cached, completion = self._num_tokens
        return StatsReply(
            num_running=len(scheduler.running),
            num_waiting=len(scheduler.waiting),
            num_paused=len(scheduler.paused),
            num_pages=pool.num_pages,
            num_pages_free=pool.num_free,
            num_pages_cached=pool.num_cached,
            num_steps=self._num_steps,
            num_preemptions=scheduler.num_preemptions,
            num_prompt_tokens=prompt,
            num_cached_tokens=cached,
            num_completion_tokens=completion,
        )

    def check_integrity(self) -> None:
        """Raise AssertionError if pages and tables disagree."""
        self._scheduler.check_integrity()


def _count_pages(model: Model) -> int:
    """As many pages as the memory share holds, and no more than all sequences could use."""
    page_bytes = PAGE_SIZE * sum(_count_token_bytes(one, model) for one in model.layers)
    most = -(-model.max_model_len // PAGE_SIZE) * MAX_RUNNING
    num_pages = min(most, count_page_bytes(model.device) // page_bytes)
    if num_pages < 1:
        raise E_MODEL(f"no memory for a page of {page_bytes} bytes on {model.device}")
    return num_pages


def _count_token_bytes(layer: LayerShape, model: Model) -> int:
    return layer.num_heads * (layer.key_dim + layer.value_dim) * model.dtype.itemsize


def _find_ends(model: Model) -> frozenset[int]:
    """The tokens that end an answer, by the generation config and the tokenizer."""
    own = model.network.generation_config.eos_token_id
    ends = own if isinstance(own, list) else [own]
    return frozenset(one for one in (*ends, model.tokenizer.eos_token_id) if one is not None)
