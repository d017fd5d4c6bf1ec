"""What a pass calls is written down in order, and what memory its results need, and how long."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.kernel.executor.native.library import Library
from llmos.kernel.executor.native.program import Arena, Program, lay_out
from llmos.kernel.executor.native.recording import (
    Buffer,
    CannotRecord,
    KernelCall,
    Recorder,
)

pytestmark = pytest.mark.usefixtures("kernels")
DIM = 32
Pass = Callable[[torch.Tensor], torch.Tensor]


def make_input() -> torch.Tensor:
    return torch.randn(2, DIM).bfloat16()


def add(library: Library, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The kernel's sum, in memory of its own."""
    out = torch.empty_like(x)
    library.llmos_add(x.data_ptr(), y.data_ptr(), out.data_ptr(), x.numel())
    return out


def record(library: Library, run: Pass, x: torch.Tensor) -> tuple[Recorder, Program]:
    recorder = Recorder()
    with recorder, library.heard_by(recorder.hear):
        result = run(x)
    return recorder, Program(library, recorder, result, Arena())


def name_calls(recorder: Recorder) -> list[str]:
    return [
        one.name if isinstance(one, KernelCall) else str(one.operation) for one in recorder.calls
    ]


@torch.inference_mode()
def test_a_program_gives_the_passs_result_for_what_its_input_holds_now(kernels: Library) -> None:
    def run(x: torch.Tensor) -> torch.Tensor:
        doubled = add(kernels, x, x)
        bent = torch.tanh(doubled) * 3
        return add(kernels, bent, add(kernels, bent, doubled))[:, DIM // 2 :]

    x = make_input()
    _, program = record(kernels, run, x)

    for _ in range(3):
        x.copy_(make_input())
        assert torch.equal(program.run(), run(x))


@torch.inference_mode()
def test_a_sum_by_torch_becomes_the_kernels_where_both_are_the_same(kernels: Library) -> None:
    x = make_input()

    alike, program = record(kernels, lambda x: x + x, x)
    for odd in (lambda x: x + x[:1], lambda x: x + 1, lambda x: x.float() + x.float()):
        recorder, _ = record(kernels, odd, x)
        assert "aten.add.Tensor" in name_calls(recorder)

    assert name_calls(alike) == ["llmos_add"]
    assert torch.equal(program.run(), x + x)


@torch.inference_mode()
def test_views_and_empty_memory_are_nothing_to_be_done_again(kernels: Library) -> None:
    def run(x: torch.Tensor) -> torch.Tensor:
        return add(kernels, x.view(-1).reshape(2, DIM).unsqueeze(0)[0], x.contiguous())

    recorder, _ = record(kernels, run, make_input())

    assert name_calls(recorder) == ["llmos_add"]


@torch.inference_mode()
def test_an_operation_in_place_is_done_again_in_place(kernels: Library) -> None:
    def run(x: torch.Tensor) -> torch.Tensor:
        return add(kernels, x, x).mul_(2).add_(1)

    x = make_input()
    recorder, program = record(kernels, run, x)
    x.copy_(make_input())

    assert name_calls(recorder) == ["llmos_add", "aten.mul_.Tensor", "aten.add_.Tensor"]
    assert torch.equal(program.run(), run(x))


@torch.inference_mode()
def test_results_that_are_not_needed_together_share_memory(kernels: Library) -> None:
    def run(x: torch.Tensor) -> torch.Tensor:
        for _ in range(20):
            x = add(kernels, x, x)
        return x

    x = make_input()
    recorder, program = record(kernels, run, x)
    _, num_bytes = lay_out(recorder.buffers, len(recorder.calls))

    assert len(recorder.buffers) == 20
    assert num_bytes == 2 * x.nbytes
    assert torch.equal(program.run(), run(x))


@pytest.mark.parametrize(
    "run",
    [
        lambda x: x + x.sum().item(),
        lambda x: x[x > 0],
        lambda x: x if (x > 0).all() else -x,
        lambda x: x.nonzero(),
        lambda x: torch.unique(x),
        lambda x: x if torch.equal(x, x) else -x,
    ],
)
@torch.inference_mode()
def test_what_depends_on_the_numbers_cannot_be_recorded(run: Pass) -> None:
    with pytest.raises(CannotRecord, match=r"depends on the numbers|several"), Recorder():
        run(make_input().float())


@torch.inference_mode()
def test_after_a_recording_the_kernels_are_heard_no_more(kernels: Library) -> None:
    x = make_input()
    recorder, _ = record(kernels, lambda x: add(kernels, x, x), x)

    add(kernels, x, x)

    assert len(recorder.calls) == 1


@torch.inference_mode()
def test_an_arena_serves_programs_one_after_another(kernels: Library) -> None:
    arena, x = Arena(), make_input()
    programs, runs = [], []
    for factor in (1, 5, 2):

        def run(x: torch.Tensor, factor: int = factor) -> torch.Tensor:
            return add(kernels, *(x.repeat(factor, 1) for _ in range(2)))

        recorder = Recorder()
        with recorder, kernels.heard_by(recorder.hear):
            result = run(x)
        programs.append(Program(kernels, recorder, result, arena))
        runs.append(run)

    for program, run in zip(programs, runs, strict=True):
        assert torch.equal(program.run(), run(x))


class Never:
    """Memory that its owner keeps."""

    def expired(self) -> bool:
        return False


def make_buffers(numbers: list[tuple[int, int, int]]) -> list[Buffer]:
    never: Any = Never()
    return [Buffer(0, size, first, first + more, never) for size, first, more in numbers]


LIVES = st.tuples(st.integers(1, 300), st.integers(0, 30), st.integers(0, 30))


@given(st.lists(LIVES, max_size=30))
@settings(max_examples=200)
def test_no_two_results_that_are_needed_together_overlap(
    numbers: list[tuple[int, int, int]],
) -> None:
    buffers = make_buffers(numbers)

    offsets, num_bytes = lay_out(buffers, 100)

    assert find_clash(buffers, offsets) is None
    assert all(offsets[one] + one.num_bytes <= num_bytes for one in buffers)


def test_the_check_finds_a_layout_that_overlaps() -> None:
    buffers = make_buffers([(8, 0, 5), (8, 5, 1)])

    assert find_clash(buffers, dict.fromkeys(buffers, 0)) is not None


def find_clash(buffers: list[Buffer], offsets: dict[Buffer, int]) -> tuple[Buffer, Buffer] | None:
    """Two that overlap in time and in memory."""
    for index, one in enumerate(buffers):
        for other in buffers[:index]:
            assert one.last is not None
            assert other.last is not None
            if one.first <= other.last and other.first <= one.last:
                a, b = offsets[one], offsets[other]
                if a < b + other.num_bytes and b < a + one.num_bytes:
                    return one, other
    return None
