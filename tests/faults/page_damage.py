"""Damage to page files of the executor's disk tier: a page is what was written, or it is bad."""

import random
from collections import Counter
from pathlib import Path

import numpy as np

from llmos.kernel.executor.pagefile import (
    BadPage,
    count_file_bytes,
    find_path,
    make_tag,
    read_page_file,
    write_page_file,
)

PAGE_BYTES = 8192
SECTOR_BYTES = 512
NUM_PAGES = 4


def run(folder: Path, number: int, seed: int, *, is_weak: bool = False) -> "Counter[str]":
    """Play `number` damages on pages in a folder; counts as the damage suite has them."""
    tag = make_tag("a model")
    rng = random.Random(seed)
    pages = {rng.randbytes(16): rng.randbytes(PAGE_BYTES) for _ in range(NUM_PAGES)}
    intact = write_pages(folder, tag, pages)
    counts: Counter[str] = Counter(num_runs=number)
    for index in range(number):
        name = rng.choice(sorted(pages))
        damaged = damage_page(name, intact, random.Random(f"{seed}/{index}"))
        find_path(folder, name).write_bytes(damaged)
        counts[judge(folder, tag, name, pages[name], is_weak)] += 1
        find_path(folder, name).write_bytes(intact[name])
    return counts


def write_pages(folder: Path, tag: bytes, pages: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Write the pages; the bytes of their files by name."""
    for name, content in pages.items():
        write_page_file(folder, tag, name, np.frombuffer(content, np.uint8).copy())
    return {name: find_path(folder, name).read_bytes() for name in pages}


def damage_page(name: bytes, intact: dict[bytes, bytes], rng: random.Random) -> bytes:
    """The bytes of a page's file after one damage."""
    content = bytearray(intact[name])
    kind = rng.choice(("flip", "zeros", "noise", "cut", "longer", "another"))
    start = rng.randrange(len(content) // SECTOR_BYTES) * SECTOR_BYTES
    if kind == "flip":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif kind in ("zeros", "noise"):
        sector = bytes(SECTOR_BYTES) if kind == "zeros" else rng.randbytes(SECTOR_BYTES)
        content[start : start + SECTOR_BYTES] = sector
    elif kind == "cut":
        del content[rng.randrange(len(content)) :]
    elif kind == "longer":
        content += bytes(SECTOR_BYTES)
    else:
        content = bytearray(intact[rng.choice(sorted(intact))])
    return bytes(content)


def judge(folder: Path, tag: bytes, name: bytes, written: bytes, is_weak: bool) -> str:
    """What came of reading the page: the name of its count."""
    buffer = np.zeros(PAGE_BYTES, np.uint8)
    if is_weak:
        header_bytes = count_file_bytes(0)
        raw = find_path(folder, name).read_bytes()[header_bytes:][:PAGE_BYTES]
        buffer[: len(raw)] = np.frombuffer(raw, np.uint8)
    else:
        try:
            read_page_file(folder, tag, name, buffer)
        except (BadPage, OSError):
            return "num_named"
    return "num_right" if buffer.tobytes() == written else "num_wrong"
