"""How an attention op cuts its work: rows and keys at a time, and turns over a long context.

The bounds are shared memory's: what is chosen runs on every device since compute capability 8.0,
the smallest of which gives a program 99 KiB.
"""

from dataclasses import dataclass

from ..attention import LayerShape

_QUERY_BYTES = 32 << 10
_KEY_BYTES = 64 << 10
_NUM_STAGES = 2
_MIN_BLOCK = 16  # of a matrix product
_MAX_KEYS = 64
_MAX_TURNS = 32
_KEYS_PER_TURN = 256
_MANY_SUMS = 64 * 64


@dataclass(frozen=True)
class Blocks:
    """Of one program: its rows (query tokens x heads that share a key), the keys it reads at a
    time, the dimensions of keys and values in powers of two."""

    num_rows: int
    num_keys: int
    key_dim: int
    value_dim: int
    num_warps: int
    num_stages: int = _NUM_STAGES


def choose_blocks(
    layer: LayerShape, *, num_groups: int, itemsize_bytes: int, is_decode: bool
) -> Blocks:
    """For a layer whose `num_groups` query heads share a key head."""
    key_dim, value_dim = (
        max(_MIN_BLOCK, round_up_to_power(dim)) for dim in (layer.key_dim, layer.value_dim)
    )
    least = max(_MIN_BLOCK, round_up_to_power(num_groups))
    num_rows = least
    if not is_decode:
        num_rows = 128 if itemsize_bytes == 2 else 32
        while num_rows * max(key_dim, value_dim) * itemsize_bytes > _QUERY_BYTES:
            num_rows //= 2
        num_rows = max(num_rows, least)
    num_keys = _MAX_KEYS
    while num_keys * (key_dim + value_dim) * itemsize_bytes * _NUM_STAGES > _KEY_BYTES:
        num_keys //= 2
    num_warps = 8 if num_rows * value_dim > _MANY_SUMS else 4
    return Blocks(num_rows, max(num_keys, _MIN_BLOCK), key_dim, value_dim, num_warps)


def count_turns(num_programs: int, *, wanted_programs: int, max_tokens: int) -> int:
    """Into how many turns, a power of two, programs over contexts of up to `max_tokens` part."""
    most = min(_MAX_TURNS, -(-max_tokens // _KEYS_PER_TURN), wanted_programs // num_programs)
    return 1 << (max(most, 1).bit_length() - 1)


def round_up_to_power(number: int) -> int:
    """The least power of two that is not below a number."""
    return 1 << (number - 1).bit_length()
