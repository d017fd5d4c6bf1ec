"""Runs one benchmark by name: `bin/bench NAME [--quick] [--json]`; without a name, lists them."""

import ast
import runpy
import sys
from pathlib import Path

EXIT_USAGE = 2


def benchmarks() -> dict[str, str]:
    """The first docstring line of every module here that can be run, by name."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        tree = ast.parse(path.read_text())
        is_program = any(isinstance(node, ast.If) for node in tree.body)
        if is_program:
            found[path.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def main(arguments: list[str]) -> int:
    """Run the benchmark that the first argument names with the other arguments."""
    known = benchmarks()
    if not arguments or arguments[0] not in known:
        what = f"there is no benchmark {arguments[0]!r}" if arguments else "name a benchmark"
        print(f"bench: {what}; fix: bin/bench with one of these names", file=sys.stderr)
        for name, line in known.items():
            print(f"  {name:<16}{line}", file=sys.stderr)
        return EXIT_USAGE
    sys.argv = arguments
    runpy.run_module(f"bench.{arguments[0]}", run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
