"""The ops' cuts fit in the shared memory of every device that they run on."""

import pytest

from llmos.kernel.executor.attention import LayerShape
from llmos.kernel.executor.gpu.blocks import choose_blocks, count_turns, round_up_to_power

SMALLEST_SHARED_BYTES = 99 << 10  # compute capability 8.6
DIMS = [16, 24, 64, 80, 96, 128, 192, 256, 512]


@pytest.mark.parametrize("itemsize_bytes", [2, 4])
@pytest.mark.parametrize("is_decode", [True, False])
def test_a_program_s_rows_and_the_keys_in_flight_fit(itemsize_bytes: int, is_decode: bool) -> None:
    for dim in DIMS:
        blocks = choose_blocks(
            LayerShape(8, dim, dim),
            num_groups=4,
            itemsize_bytes=itemsize_bytes,
            is_decode=is_decode,
        )
        numbers = blocks.num_rows * blocks.key_dim
        numbers += blocks.num_keys * (blocks.key_dim + blocks.value_dim)

        assert numbers * itemsize_bytes <= SMALLEST_SHARED_BYTES
        assert blocks.key_dim >= dim
        assert blocks.num_rows >= 16
        assert blocks.num_keys >= 16


@pytest.mark.parametrize("num_groups", [1, 7, 16, 71, 128])
def test_a_token_s_query_heads_lie_in_one_block(num_groups: int) -> None:
    for is_decode in (True, False):
        blocks = choose_blocks(
            LayerShape(1, 64, 64), num_groups=num_groups, itemsize_bytes=2, is_decode=is_decode
        )

        assert blocks.num_rows >= num_groups


def test_few_programs_take_turns_and_many_do_not() -> None:
    def count(num_programs: int, max_tokens: int = 100_000) -> int:
        return count_turns(num_programs, wanted_programs=528, max_tokens=max_tokens)

    assert [count(8), count(64), count(512), count(2048)] == [32, 8, 1, 1]
    assert [count(8, max_tokens=tokens) for tokens in (1, 256, 257, 1024)] == [1, 1, 2, 4]


@pytest.mark.parametrize(("number", "power"), [(1, 1), (2, 2), (3, 4), (24, 32), (128, 128)])
def test_a_power_of_two_is_not_below_its_number(number: int, power: int) -> None:
    assert round_up_to_power(number) == power
