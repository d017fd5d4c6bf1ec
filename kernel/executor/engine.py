"""The step loop: requests in, one forward pass over all of them, text out.

Usable in a process without sockets: `submit`, then `step` until `has_work` is False. A generation
that fails answers Failed and the others go on. Single-threaded; a step waits only, and but for a
moment, when all it could do waits for a thread of the engine.
"""

import logging
import time
from collections.abc import Callable
from collections.abc import Sequence as Seq

from llmos.syscalls.errors import (
    E_ARG,
    E_CANCELLED,
    E_GRAMMAR,
    E_LIMIT,
    E_MODEL,
    SyscallError,
)
from llmos.syscalls.types import Grammar, Message

from ..stats import StatsReply
from .attention import LayerShape
from .batch import Work
from .chat import ChatEncoder
from .detokenizer import Detokenizer
from .device import StepLimits, count_page_bytes, pick_step_limits
from .generation import Generation, resolve_sampling
from .grammar import GrammarCompiler
from .hints import Owners
from .measuring import Measurements
from .meter import Meter, Trace
from .model import Model, load_model
from .pages import PagePool
from .prefix import make_root
from .protocol import (
    Done,
    Embed,
    Failed,
    Generate,
    Hint,
    Load,
    Loaded,
    Output,
    Score,
    Token,
)
from .reading import Reading, Sampled
from .relief import Relief
from .runner import Runner
from .scheduler import Scheduler
from .sequence import Sequence
from .shortage import is_out_of_memory
from .tiers import build_swap
from .toolcalls import MARKERS, ToolCallParser, detect_family
from .toolgrammar import write_call_grammar
from .warmup import measure_step_bytes
from .worth import ComputeCost

PAGE_SIZE = 16
_log = logging.getLogger(__name__)


class Engine:
    """A loaded model and the generations on it. Raises E_MODEL when it cannot be loaded.

    `model` is what `load_model(spec)` gave before, for engines that take turns with one model.
    `tells_late`: text is made while the next step runs; None is where that gains time.
    """

    def __init__(
        self,
        spec: Load,
        *,
        model: Model | None = None,
        num_pages: int | None = None,
        num_host_pages: int | None = None,
        max_running: int | None = None,
        max_step_tokens: int | None = None,
        tells_late: bool | None = None,
    ) -> None:
        started = time.monotonic()
        self._model = model = model or load_model(spec)
        limits = pick_step_limits(model.device, max_running, max_step_tokens)
        num_pages = num_pages or _count_pages(model, limits, spec.max_pool_bytes)
        self._max_model_len = min(model.max_model_len, num_pages * PAGE_SIZE)
        self.meter = Meter()
        self._runner = Runner(
            model,
            self.meter,
            num_pages=num_pages,
            page_size=PAGE_SIZE,
            max_running=limits.max_running,
        )
        self._runner.capture()
        self._cost = ComputeCost(page_size=PAGE_SIZE, num_pages=num_pages)
        pool = PagePool(num_pages, cost=self._cost)
        self._swap = build_swap(
            spec,
            pool,
            [*self._runner.pool.keys, *self._runner.pool.values],
            self._cost,
            self.meter,
            fingerprint=model.fingerprint,
            num_host_pages=num_host_pages,
        )
        self._owners = Owners(pool, self._swap)
        self._scheduler = Scheduler(
            pool,
            page_size=PAGE_SIZE,
            max_running=limits.max_running,
            max_step_tokens=limits.max_tokens,
            swap=self._swap,
        )
        min_pages = -(-self._max_model_len // PAGE_SIZE)
        self._relief = Relief(self._scheduler, self._runner, self._swap, min_pages=min_pages)
        self._learn_words(model)
        self._generations: dict[int, Generation] = {}
        self._measurements = Measurements(
            self._scheduler,
            self._chat,
            model.tokenizer,
            fingerprint=model.fingerprint,
            max_model_len=self._max_model_len,
        )
        self._outputs: list[Output] = []
        self._tells_late = model.device.type == "cuda" if tells_late is None else tells_late
        self._untold: list[tuple[Generation, int]] = []
        self._num_steps, self._num_tokens = 0, [0, 0, 0]
        self.loaded = self._describe(spec, num_pages, time.monotonic() - started)

    def _learn_words(self, model: Model) -> None:
        """Which tokens leave no text, which mark calls of tools, which end an answer."""
        self._chat = ChatEncoder(model.tokenizer)
        added = model.tokenizer.get_added_vocab()
        self._family = detect_family(self._chat.template_text, tuple(added))
        self._hidden = frozenset(model.tokenizer.all_special_ids)
        self._hidden_with_tools = self._hidden - {added[one] for one in MARKERS if one in added}
        self._markers = {one: added[one] for one in MARKERS if added.get(one) in self._hidden}
        self._ends = _find_ends(model)
        self._grammars = GrammarCompiler(
            model.tokenizer, num_logits=model.network.config.vocab_size, ends=self._ends
        )

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
            dtype=str(model.weight_dtype).removeprefix("torch."),
            load_seconds=load_seconds,
            warnings=self._chat.warnings,
        )

    @property
    def has_work(self) -> bool:
        """Whether a step would do something."""
        is_told = not self._outputs and not self._untold
        return not is_told or self._scheduler.has_work or self._grammars.has_work

    def submit(self, request: Generate | Score | Embed) -> None:
        """Take a request in. What is wrong with it is answered by the next step."""
        try:
            if not isinstance(request, Embed):
                _check_messages(request.messages)
            if not isinstance(request, Generate):
                self._measurements.submit(request)
                return
            grammar = self._find_grammar(request)
            self._generations[request.id] = generation = self._prepare(request)
        except SyscallError as error:
            self._outputs.append(Failed(request.id, error.reply()))
            return
        if grammar:
            self._grammars.submit(request.id, grammar)
        else:
            generation.take_in()
            self._begin(generation)

    def _begin(self, generation: Generation) -> None:
        """Put a generation in line, unless what was emitted before is all of it."""
        if reason := generation.grammar_error:
            self._outputs.append(self._fail(generation, E_GRAMMAR(reason)))
        elif generation.finish_reason:
            self._outputs.append(self._finish(generation))
        elif generation.id not in self._scheduler.paused:
            self._scheduler.add(generation.sequence)

    def _find_grammar(self, request: Generate) -> Grammar | None:
        """What the answer has to fit, if anything."""
        if request.tool_choice == "auto":
            return request.grammar
        return write_call_grammar(self._family, request.tools, request.tool_choice, self._markers)

    def _prepare(self, request: Generate) -> Generation:
        if request.id in self._generations:
            raise E_ARG("the id is in use", field="id")
        model = self._model
        tokens = self._chat.encode(request.messages, request.tools)
        sampling = resolve_sampling(
            request.sampling,
            model.network.generation_config,
            num_prompt=len(tokens),
            max_model_len=self._max_model_len,
            num_emitted=len(request.emitted),
            why=self._describe_window(),
        )
        root = make_root(model.fingerprint, request.tenant)
        hidden = self._hidden_with_tools if request.tools else self._hidden
        return Generation(
            request,
            Sequence(request.id, tokens, sampling, root, request.owner),
            Detokenizer(model.tokenizer, hidden, self._find_before(request)),
            ToolCallParser(self._family) if request.tools else None,
            self._ends,
        )

    def _describe_window(self) -> str:
        """What bounds the window, if it is not the model."""
        own = self._model.max_model_len
        if self._max_model_len == own:
            return ""
        return f": memory has room for so many tokens, the model's own window is {own}"

    def _find_before(self, request: Generate) -> list[int]:
        """What an answer that has to fit stands after, so that its first space is kept."""
        if request.grammar is None and request.tool_choice == "auto":
            return []
        return list(self._model.tokenizer.encode("a", add_special_tokens=False))

    def step(self) -> list[Output]:
        """One forward pass over what the scheduler chose; what became known by it."""
        self.meter.enter("plan")
        started = time.perf_counter()
        outputs, self._outputs = self._outputs, []
        outputs += self._take_grammars(wait=not outputs and not self._scheduler.has_work)
        works = self._scheduler.plan()
        if works:
            readings = self._compute(works, lambda: outputs.extend(self._tell_rest()))
            outputs += self._relieve(works) if readings is None else self._take(works, readings)
        else:
            outputs += self._tell_rest()
            if self._scheduler.loading and not outputs:
                self._swap.wait()
        self.meter.enter("idle")
        if self.meter.trace is not None and works:
            self._record(self.meter.trace, started, works)
        return outputs

    def _take(self, works: Seq[Work], readings: Seq[Reading | None]) -> list[Output]:
        """A step has been computed: whose pages are full, and who has more text or has ended.

        Whose text ended while it ran is gone, and what was sampled for it with it.
        """
        self.meter.enter("plan")
        done = [pair for pair in zip(works, readings, strict=True) if pair[0].sequence.pages]
        for work, _ in done:
            self._scheduler.mark_computed(work)
        self.meter.enter("detokenize")
        outputs: list[Output] = []
        for work, reading in done:
            if isinstance(reading, Sampled):
                outputs += self._advance(self._generations[work.sequence.id], reading)
            elif work.sequence.kind != "generate":
                outputs += self._measurements.take(work.sequence, reading)
        self._num_steps += 1
        self._relief.note_success()
        return outputs

    def _compute(
        self, works: list[Work], meanwhile: Callable[[], None]
    ) -> list[Reading | None] | None:
        """One forward pass; what it took is remembered. None if memory did not suffice."""
        started = time.perf_counter()
        try:
            readings = self._runner.run(works, meanwhile)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            _log.warning("a step of %d sequences ran out of memory: %s", len(works), error)
            return None
        num_tokens = sum(work.num_tokens for work in works)
        ends = sum(
            work.num_tokens * (2 * work.sequence.num_computed + work.num_tokens) for work in works
        )
        self._cost.observe(num_tokens, ends / 2 / num_tokens, time.perf_counter() - started)
        return readings

    def _relieve(self, works: Seq[Work]) -> list[Output]:
        """The next step needs less memory than this one; who is too large for any ends."""
        outputs = self._tell_rest()
        left = [work for work in works if work.sequence.pages]
        largest = self._relief.relieve(left) if left else None
        if largest is None:
            return outputs
        num_tokens = len(largest.tokens)
        reason = f"no memory for one more token after {num_tokens} in a context"
        if largest.kind != "generate":
            error = E_LIMIT(f"{reason}, alone in a step")
            return outputs + self._measurements.end(largest, error)
        generation = self._generations[largest.id]
        sizes = f"{largest.num_prompt} of them the prompt's, alone in a step"
        error = E_LIMIT(f"{reason}, {sizes}", partial=generation.text)
        return [*outputs, self._fail(generation, error)]

    def _record(self, trace: Trace, started: float, works: Seq[Work]) -> None:
        """Add the step that has just ended to a trace."""
        pool, num_decodes = self._scheduler.pool, sum(work.num_tokens == 1 for work in works)
        trace.add_step(
            started,
            time.perf_counter(),
            num_decodes,
            sum(work.num_tokens for work in works) - num_decodes,
            len(self._scheduler.running),
            len(self._scheduler.waiting),
            pool.num_pages - pool.num_available,
            pool.num_cached,
        )

    def _take_grammars(self, *, wait: bool) -> list[Output]:
        """Let those begin whose grammar is ready; what failed is told."""
        failed: list[Output] = []
        for generation_id, made in self._grammars.collect(wait=wait):
            generation = self._generations[generation_id]
            if isinstance(made, SyscallError):
                failed.append(self._fail(generation, made))
            else:
                generation.take_in(made)
                self._begin(generation)
        return failed

    def _advance(self, generation: Generation, sampled: Sampled) -> list[Output]:
        if sampled.token is None:
            error = E_MODEL("the model's numbers are not finite", partial=generation.text)
            return [self._fail(generation, error)]
        generation.append(sampled.token, sampled.likelihood)
        if reason := generation.grammar_error:
            return [self._fail(generation, E_GRAMMAR(reason, partial=generation.text))]
        if self._tells_late and not generation.finish_reason:
            self._untold.append((generation, sampled.token))
            return []
        return self._tell(generation, sampled.token)

    def _tell_rest(self) -> list[Output]:
        """The text of what the step before has sampled, where that was put off."""
        if not self._untold:
            return []
        self.meter.enter("detokenize")
        untold, self._untold = self._untold, []
        return [one for pair in untold for one in self._tell(*pair)]

    def _tell(self, generation: Generation, token: int) -> list[Output]:
        """A token with the text that it brings, and the result if it is the last.

        One without text is told too: whoever hears of it goes on after it.
        """
        text = generation.read(token)
        num_tokens = generation.sequence.num_completion
        outputs: list[Output] = []
        if text or not generation.finish_reason:
            outputs.append(Token(generation.id, text, num_tokens, *generation.take_unsent()))
        if generation.finish_reason:
            outputs.append(self._finish(generation))
        return outputs

    def _finish(self, generation: Generation) -> Done:
        """The result of one that has ended, which is forgotten."""
        self._drop(generation)
        done = generation.make_done()
        usage = (done.usage.prompt_tokens, done.usage.cached_tokens, done.usage.completion_tokens)
        self._num_tokens = [a + b for a, b in zip(self._num_tokens, usage, strict=True)]
        return done

    def _fail(self, generation: Generation, error: SyscallError) -> Failed:
        """The end of one that has no result, which is forgotten."""
        self._drop(generation)
        return Failed(generation.id, error.reply())

    def _drop(self, generation: Generation) -> None:
        self._owners.remember(generation.sequence.owner, generation.sequence.names)
        self._scheduler.remove(generation.sequence)
        self._grammars.forget(generation.id)
        del self._generations[generation.id]

    def cancel(self, generation_id: int) -> None:
        """End a generation; the next step answers with E_CANCELLED and its text so far."""
        self._outputs += self._tell_rest()
        if generation := self._generations.get(generation_id):
            error = E_CANCELLED("the generation was cancelled", partial=generation.text)
            self._outputs.append(self._fail(generation, error))
        self._outputs += self._measurements.cancel(generation_id)

    def pause(self, generation_id: int) -> None:
        """Take a generation out of the batch; its pages stay cached while there is room."""
        if generation := self._generations.get(generation_id):
            self._scheduler.pause(generation.sequence)
        for sequence in self._measurements.find(generation_id):
            self._scheduler.pause(sequence)

    def resume(self, generation_id: int) -> None:
        """Put a paused generation back in line."""
        generation = self._generations.get(generation_id)
        if generation and self._grammars.is_compiling(generation_id):
            self._scheduler.remove(generation.sequence)  # it comes when its grammar is ready
        elif generation:
            self._scheduler.resume(generation.sequence)
        for sequence in self._measurements.find(generation_id):
            self._scheduler.resume(sequence)

    def hint(self, hint: Hint) -> None:
        """Take in what a process is waiting for."""
        self._owners.apply(hint)

    def rest(self) -> bool:
        """There is nothing to do: copy pages of those who wait to disk. Whether there are more."""
        return self._swap.rest()

    def close(self) -> None:
        """End the engine's threads. Nothing may be asked of it afterwards."""
        self._swap.close()
        self._grammars.close()
        self._runner.close()

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
            num_loading=len(scheduler.loading),
            num_tokens=dict(scheduler.num_tokens),
            num_pages_by_owner=scheduler.count_pages_by_owner(),
            num_out_of_memory=self._relief.num_faults,
            seconds=dict(self.meter.seconds),
            **self._swap.describe(),
        )

    def check_integrity(self) -> None:
        """Raise AssertionError if pages and tables disagree."""
        self._scheduler.check_integrity()


def _check_messages(messages: tuple[Message, ...]) -> None:
    if not any(one.content.strip() or one.tool_calls for one in messages):
        raise E_ARG("the prompt is empty", field="messages")


def _count_pages(model: Model, limits: StepLimits, max_pool_bytes: int | None) -> int:
    """As many pages as the memory share holds, and no more than all sequences could use."""
    page_bytes = PAGE_SIZE * sum(_count_token_bytes(one, model) for one in model.layers)
    most = -(-model.max_model_len // PAGE_SIZE) * limits.max_running
    step_bytes = measure_step_bytes(
        model,
        num_tokens=limits.max_tokens,
        num_sequences=limits.max_running,
        page_size=PAGE_SIZE,
    )
    free_bytes = count_page_bytes(model.device, max_pool_bytes, step_bytes)
    num_pages = min(most, free_bytes // page_bytes)
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
