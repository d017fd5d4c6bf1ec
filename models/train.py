"""Trains the demonstration model: `python -m models.train --minutes 40`.

On a CPU two processes of one thread each train on dialogues of their own and average their
gradients after every step; on a GPU one process does. The learning rate warms up, stays, and
falls to zero over the last third (warmup-stable-decay, Hu et al. 2024). Dialogues are grouped by
length, padded on the right; only what an assistant writes counts in the loss.
"""

import argparse
import multiprocessing
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn import functional
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from models.dialogues import make_dialogues
from models.tokenizer import build_tokenizer, find_pieces, find_words, render, swap_pieces

DEMO = Path(__file__).parent / "demo"
SCRATCH = Path("build/models")
MATRIX_RATE = 3e-3  # Muon's, scaled to the size of AdamW's updates
OTHER_RATE = 2e-3
WARMUP_STEPS = 60
DECAY_SHARE = 0.35
EARLY_SHARE = 0.12  # of the training on dialogues rich in plain copying
POOL_DIALOGUES = 512
MAX_TOKENS = 900
SECONDS_BETWEEN_CHECKPOINTS = 300

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Plan:
    """How long to train, from where and to where."""

    minutes: float
    steps: int
    seed: int
    layers: int
    batch_tokens: int
    start: Path | None
    target: Path
    processes: int


def make_config(vocabulary: int, layers: int) -> Qwen3Config:
    """The shape of the model."""
    return Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=layers,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=2048,
        rope_theta=10000.0,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )


def make_batches(
    tokenizer: PreTrainedTokenizerFast, seed: int, batch_tokens: int, early: bool
) -> Iterator[Batch]:
    """Token ids [B, T] and labels [B, T], -100 where nobody is to learn; without end."""
    dialogues = make_dialogues(seed, early)
    rng = random.Random(seed)
    pieces, words = find_pieces(tokenizer), find_words(tokenizer)
    while True:
        pool = [render(tokenizer, each) for each in islice(dialogues, POOL_DIALOGUES)]
        pool = [swap_pieces(rng, *each, pieces, words) for each in pool]
        pool = sorted(
            (each for each in pool if len(each[0]) <= MAX_TOKENS), key=lambda e: len(e[0])
        )
        groups: list[list[tuple[list[int], list[int]]]] = [[]]
        for each in pool:
            if (len(groups[-1]) + 1) * len(each[0]) > batch_tokens:
                groups.append([])
            groups[-1].append(each)
        rng.shuffle(groups)
        yield from (_pad(group) for group in groups if group)


def _pad(group: list[tuple[list[int], list[int]]]) -> Batch:
    longest = max(len(ids) for ids, _ in group)
    ids = torch.zeros(len(group), longest, dtype=torch.long)
    labels = torch.full((len(group), longest), -100)
    for row, (tokens, marks) in enumerate(group):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        wanted = [t if mark else -100 for t, mark in zip(tokens, marks, strict=True)]
        labels[row, : len(tokens)] = torch.tensor(wanted)
    return ids, labels


def compute_loss(model: Qwen3ForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the labelled tokens; logits are computed for these alone."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    wanted = labels[:, 1:]
    chosen = wanted != -100
    logits = model.lm_head(hidden[chosen])
    return functional.cross_entropy(logits.float(), wanted[chosen])


def make_optimizers(model: Qwen3ForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon (Jordan 2024) for the matrices of the layers, AdamW for embedding and norms.

    On this data Muon needs fewer steps than AdamW alone.
    """
    matrices = [each for each in model.model.layers.parameters() if each.ndim == 2]
    taken = {id(each) for each in matrices}
    others = [each for each in model.parameters() if id(each) not in taken]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(
            matrices, lr=MATRIX_RATE, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=OTHER_RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]
    for group in (group for each in optimizers for group in each.param_groups):
        group["peak"] = group["lr"]
    return optimizers


def compute_rate(step: int, progress: float, decay_share: float) -> float:
    """The share of the peak rate at a step when `progress` (0 to 1) of the training is done."""
    warm = min(1.0, (step + 1) / WARMUP_STEPS)
    cool = min(1.0, (1.0 - progress) / decay_share)
    return warm * max(cool, 0.01)


def train(rank: int, plan: Plan) -> None:
    """One process of the training; the first one reports and saves."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(plan.seed)
    if plan.processes > 1:
        torch.set_num_threads(1)
        meeting = f"file://{(SCRATCH / f'meeting-{os.getppid()}').resolve()}"
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=plan.processes)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(plan.target)
    model = _start_model(plan, len(tokenizer)).to(device).train()
    optimizers = make_optimizers(model)
    decay_share = 1.6 if plan.start else DECAY_SHARE  # goes on below the peak, ever falling
    seed = plan.seed * 1000 + rank
    early = make_batches(tokenizer, seed + 100, plan.batch_tokens, early=True)
    late = make_batches(tokenizer, seed, plan.batch_tokens, early=False)
    report = Report(plan, tokenizer) if rank == 0 else None
    started, step, progress = time.monotonic(), 0, 0.0
    while progress < 1.0:
        ids, labels = next(early if progress < EARLY_SHARE and plan.start is None else late)
        for group in (group for each in optimizers for group in each.param_groups):
            group["lr"] = group["peak"] * compute_rate(step, progress, decay_share)
        with torch.autocast(device.type, torch.bfloat16):
            loss = compute_loss(model, ids.to(device), labels.to(device))
        torch.autograd.backward(loss)
        spent = time.monotonic() - started
        step += 1
        done = step / plan.steps if plan.steps else spent / 60 / plan.minutes
        tokens, value, progress = _share(model, plan, ids.numel(), loss.item(), done)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
        if report:
            report.add(model, step, progress, tokens, value)
    if report:
        report.finish(model)
    if plan.processes > 1:
        dist.destroy_process_group()


def _share(
    model: Qwen3ForCausalLM, plan: Plan, tokens: int, loss: float, done: float
) -> tuple[int, float, float]:
    """Averages gradients over the processes; all get the sum of tokens and the mean of the rest."""
    if plan.processes == 1:
        return tokens, loss, done
    grads = [each.grad for each in model.parameters() if each.grad is not None]
    numbers = torch.tensor([float(tokens), loss, done])
    flat = torch.cat([grad.view(-1) for grad in grads] + [numbers])
    dist.all_reduce(flat)
    flat /= plan.processes
    at = 0
    for grad in grads:
        grad.copy_(flat[at : at + grad.numel()].view_as(grad))
        at += grad.numel()
    return round(float(flat[-3]) * plan.processes), float(flat[-2]), float(flat[-1])


def _start_model(plan: Plan, vocabulary: int) -> Qwen3ForCausalLM:
    if plan.start:
        return Qwen3ForCausalLM.from_pretrained(plan.start, dtype=torch.float32)
    return Qwen3ForCausalLM(make_config(vocabulary, plan.layers))


class Report:
    """Prints and logs progress, and saves checkpoints and the result."""

    def __init__(self, plan: Plan, tokenizer: PreTrainedTokenizerFast) -> None:
        self.plan = plan
        self.tokenizer = tokenizer
        self.started = self.saved = time.monotonic()
        self.tokens = 0
        self.losses: list[float] = []
        self.lines: list[str] = []

    def add(
        self, model: Qwen3ForCausalLM, step: int, progress: float, tokens: int, loss: float
    ) -> None:
        """Counts a step; every fiftieth is a line of the log."""
        now = time.monotonic()
        self.tokens += tokens
        self.losses.append(loss)
        if step % 50 == 0 or progress >= 1:
            spent = now - self.started
            mean = sum(self.losses) / len(self.losses)
            self.losses.clear()
            self.lines.append(
                f"step {step:6d}  loss {mean:.4f}  {self.tokens / 1e6:.2f} M tokens  "
                f"{self.tokens / spent:.0f} tokens/s  {spent / 60:.1f} min  "
                f"{spent / progress * (1 - progress) / 60:.1f} min left"
            )
            print(self.lines[-1], flush=True)
        if now - self.saved > SECONDS_BETWEEN_CHECKPOINTS:
            self.saved = now
            self.save(model, SCRATCH / "checkpoint")

    def finish(self, model: Qwen3ForCausalLM) -> None:
        """Saves the trained model and the log."""
        self.save(model, self.plan.target)
        parameters = sum(each.numel() for each in model.parameters())
        plan = self.plan
        head = f"{parameters} parameters, seed {plan.seed}, {plan.processes} processes\n"
        text = head + "\n".join(self.lines) + "\n"
        (self.plan.target / "training_log.txt").write_text(text)

    def save(self, model: Qwen3ForCausalLM, target: Path) -> None:
        """Writes weights in bfloat16, configuration and tokenizer in transformers' format."""
        weights = {name: each.detach().bfloat16() for name, each in model.state_dict().items()}
        del weights["lm_head.weight"]  # tied to the embedding
        model.config.dtype = torch.float32
        end, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        model.config.eos_token_id = model.generation_config.eos_token_id = end
        model.config.pad_token_id = model.generation_config.pad_token_id = pad
        model.save_pretrained(target, state_dict=weights)
        GenerationConfig(eos_token_id=end, pad_token_id=pad, do_sample=False).save_pretrained(
            target
        )
        self.tokenizer.save_pretrained(target)
        (target / "model.safetensors").chmod(0o644)


def main(argv: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=40.0)
    parser.add_argument("--steps", type=int, default=0, help="instead of minutes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--batch-tokens", type=int, default=0, help="per process and step")
    parser.add_argument("--start", type=Path, default=None, help="go on from these weights")
    parser.add_argument("--target", type=Path, default=DEMO)
    options = vars(parser.parse_args(argv))
    gpu = torch.cuda.is_available()
    options["batch_tokens"] = options["batch_tokens"] or (32768 if gpu else 2048)
    plan = Plan(processes=1 if gpu else min(2, os.cpu_count() or 1), **options)
    SCRATCH.mkdir(parents=True, exist_ok=True)
    plan.target.mkdir(parents=True, exist_ok=True)
    if plan.start is None:
        build_tokenizer().save_pretrained(plan.target)
    else:
        PreTrainedTokenizerFast.from_pretrained(plan.start).save_pretrained(plan.target)
    if plan.processes == 1:
        return train(0, plan)
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=train, args=(rank, plan)) for rank in range(plan.processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    main()
