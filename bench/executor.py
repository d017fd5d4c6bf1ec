"""The executor against llama.cpp, OpenVINO GenAI and transformers' generate, all in one run.

`bin/bench executor [--quick] [--rounds N] [--json]`. In full: a random model of Qwen3-0.6B's shape
in bf16, two threads, the same prompts as token ids for every engine, greedy; see peers/README.md.
A peer that is not installed is left out, and the command that installs it is told; then what
`bin/bench swap` measures. With --quick: only `generate`, on the bundled model, a minute. With
--json the last line is one flat object.
"""

import json

from rich.console import Console
from rich.table import Table

from bench.against_generate import measure, measure_step_overhead
from bench.output import make_parser, show_table
from bench.peers.catalogue import ENGINES
from bench.peers.compare import RATIOS, compare
from bench.peers.workloads import TITLES
from bench.random_model import QWEN3_06B_SHAPE, find_large_model
from bench.swap import measure_large
from llmos.kernel.models import DEMO_FOLDER

Results = dict[str, float]


def measure_peers(console: Console, num_rounds: int) -> Results:
    """On the large model: every engine that is installed."""
    for engine in ENGINES:
        if not engine.is_installed:
            console.print(f"{engine.title} is not installed; fix: {engine.fix}", soft_wrap=True)
    engines = [engine for engine in ENGINES if engine.is_installed]
    model = find_large_model()

    def report(line: str) -> None:
        console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)

    return compare(engines, model, QWEN3_06B_SHAPE.vocab_size, num_rounds, report)


def make_peer_table(results: Results) -> Table:
    """New tokens per second by engine and workload, the last row our share of the best peer."""
    table = Table("new tokens per second", title="Qwen3-0.6B shape, bf16, two threads")
    for name, title in TITLES.items():
        table.add_column(f"{name}: {title}", justify="right")
    for engine in ENGINES:
        rates = [results.get(f"{engine.name}_{name}_tokens_per_second") for name in TITLES]
        if any(rates):
            table.add_row(engine.title, *(f"{rate:.1f}" if rate else "-" for rate in rates))
    ratios = [results.get(RATIOS[name]) for name in TITLES]
    table.add_row("ours / best peer", *(f"{one:.2f}" if one else "-" for one in ratios))
    return table


def main() -> None:
    """Measure and print."""
    parser = make_parser("executor", quick="a minute, no peers")
    parser.add_argument("--rounds", type=int, default=1, help="of the long workloads; 1 as it is")
    options = parser.parse_args()
    results = measure(DEMO_FOLDER) | measure_step_overhead(DEMO_FOLDER)
    show_table(results, "bundled model, CPU")
    if not options.quick:
        console = Console()
        peers = measure_peers(console, options.rounds)
        console.print(make_peer_table(peers))
        pages = measure_large()
        show_table(pages, "pages of a context of 2,000 tokens")
        results = peers | pages | results
    if options.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
