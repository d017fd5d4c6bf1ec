"""All engines on the same workloads in one run: tokens per second, and ours against the best.

Every engine is loaded first; then each workload goes round all of them before the next one begins,
so that what is compared was measured within minutes of each other.
"""

import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.peers.catalogue import GENERATE, OURS, Engine
from bench.peers.peer import Peer, started
from bench.peers.workloads import TITLES, Workload, make_warm_up, make_workload

NUM_THREADS = 2
BUSY = 0.1  # processors; less is what every machine does besides
NUM_ROUNDS_ALONE = 3  # a round of `a` is short
RATIOS = {
    "a": "decode_vs_best_peer",
    "b": "batch16_vs_best_peer",
    "c": "shared_prefix_vs_best_peer",
    "d": "turns_vs_best_peer",
}
Report = Callable[[str], None]
Rates = dict[str, dict[str, float]]  # engine, then workload: tokens per second


def compare(
    engines: Sequence[Engine], model: Path, vocab_size: int, num_rounds: int, report: Report
) -> dict[str, float]:
    """Run everything. Returns the rates and, where there are peers, the ratios."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        peers = [stack.enter_context(started(engine, scratch)) for engine in engines]
        for peer in peers:
            said = peer.load(model, NUM_THREADS)
            report(f"{peer.engine.title} {said['version']}: {said['settings']}")
            peer.run(make_warm_up(vocab_size))
        answers: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for name in TITLES:
            for number in range(NUM_ROUNDS_ALONE if name == "a" else num_rounds):
                workload = make_workload(name, number, vocab_size)
                for peer in peers:
                    answer = _run(peer, name, workload, report)
                    if answer:
                        answers[peer.engine.name, name].append(answer)
    return summarize(answers)


def _run(peer: Peer, name: str, workload: Workload, report: Report) -> dict[str, Any] | None:
    if peer.engine is GENERATE and name == "c":
        return None  # it shares nothing between rows: c is b
    answer = peer.run(workload)
    _check(answer, workload)
    rate = measure_rate(name, answer)
    detail = f"first tokens after {measure_prefill(answer):.2f} s"
    if "num_cached" in answer:
        detail += f", {answer['num_cached']} prompt tokens cached, {answer['num_steps']} steps"
    if answer["others"] > BUSY:
        detail += f"; {answer['others']:.2f} processors were busy with other work"
    seconds = answer["seconds"]
    report(f"  {name} {peer.engine.title}: {rate:.1f} tokens/s, {seconds:.2f} s, {detail}")
    return answer


def _check(answer: dict[str, Any], workload: Workload) -> None:
    """Every answer has its length, or the rates do not compare."""
    given = [[len(turn["tokens"]) for turn in session] for session in answer["turns"]]
    wanted = [[turn.num_new for turn in session] for session in workload]
    if given != wanted:
        raise ValueError(f"an answer is too short or too long: {given}, not {wanted}")


def measure_rate(name: str, answer: dict[str, Any]) -> float:
    """New tokens per second: for `a` after the first token, else over the whole, prefill too."""
    turns = [turn for session in answer["turns"] for turn in session]
    num_tokens = sum(len(turn["tokens"]) for turn in turns)
    if name == "a":
        return float((num_tokens - 1) / (turns[0]["last"] - turns[0]["first"]))
    return float(num_tokens / answer["seconds"])


def measure_prefill(answer: dict[str, Any]) -> float:
    """Seconds until every session has its first token."""
    return float(max(session[0]["first"] for session in answer["turns"]))


def count_equal(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """The share of first tokens that are the same: bf16 may decide a near tie either way."""
    pairs = zip(ours["turns"], theirs["turns"], strict=True)
    equal = [one[0]["tokens"][0] == other[0]["tokens"][0] for one, other in pairs]
    return equal.count(True) / len(equal)


def summarize(answers: dict[tuple[str, str], list[dict[str, Any]]]) -> dict[str, float]:
    """Median rates by engine and workload, the ratios, the first tokens that are equal to ours."""
    rates: Rates = defaultdict(dict)
    results = {}
    for (engine, name), rounds in answers.items():
        rates[engine][name] = statistics.median(measure_rate(name, one) for one in rounds)
        results[f"{engine}_{name}_tokens_per_second"] = rates[engine][name]
        results[f"{engine}_{name}_others_busy"] = max(one["others"] for one in rounds)
        results[f"{engine}_{name}_first_token_seconds"] = statistics.median(
            map(measure_prefill, rounds)
        )
    for (engine, name), rounds in answers.items():
        if name == "b" and engine != OURS.name and (OURS.name, "b") in answers:
            results[f"{engine}_first_tokens_equal"] = count_equal(
                answers[OURS.name, "b"][0], rounds[0]
            )
    return make_ratios(rates) | results


def make_ratios(rates: Rates) -> dict[str, float]:
    """Ours by the best peer's, for every workload that a peer has run; and by `generate`'s on b."""
    ours = rates.get(OURS.name, {})
    ratios = {}
    for name, key in RATIOS.items():
        others = [
            known[name] for engine, known in rates.items() if engine != OURS.name and name in known
        ]
        if others and name in ours:
            ratios[key] = ours[name] / max(others)
    if "b" in ours and "b" in rates.get(GENERATE.name, {}):
        ratios["batch16_vs_generate"] = ours["b"] / rates[GENERATE.name]["b"]
    return ratios
