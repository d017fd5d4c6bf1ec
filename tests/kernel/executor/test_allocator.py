"""Memory that is given back is there for the next who asks, without a fault for each page."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys, torch
from llmos.kernel.executor.allocator import keep_freed_memory

def count_faults(num_rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(num_rounds):
        torch.ones(10 << 18)  # 10 MiB, given back at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
keeps = keep_freed_memory() if sys.argv[1] == "keep" else False
count_faults(20)  # until every size has its place
print(keeps, count_faults(20))
"""


def run(mode: str) -> tuple[bool, int]:
    """Whether memory is kept, and the page faults of twenty rounds."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, mode],
        capture_output=True,
        text=True,
        check=True,
        # glibc learns from what is given back, unless it is told a bound
        env={"MALLOC_MMAP_THRESHOLD_": "131072"},
    )
    keeps, num_faults = done.stdout.split()
    return keeps == "True", int(num_faults)


def test_what_is_given_back_is_kept_for_the_next() -> None:
    keeps, num_faults = run("keep")
    if not keeps:
        pytest.skip("the C library has no mallopt")

    assert num_faults < 200


def test_by_itself_every_page_is_a_fault_again() -> None:
    """The control."""
    if not run("keep")[0]:
        pytest.skip("the C library has no mallopt")

    assert run("leave")[1] > 20 * 5
