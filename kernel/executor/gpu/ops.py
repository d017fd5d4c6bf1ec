"""The Triton ops: keys and values into their slots, and attention over pages.

A tile is a few consecutive tokens of one sequence: (first row, first position, tokens, row of its
page table), int32. A program attends for one tile and one key head, for all query heads that share
it, over the tile's share of its keys: as in flash attention, the softmax is corrected as larger
scores come. Where few programs would leave the device idle, several take a tile's keys in turns,
and `combine` joins what they found. A tile of no tokens is padding: it reads and writes nothing.

Sources: Dao, "FlashAttention-2" (2023), for the loop; Dao et al., "Flash-Decoding for long-context
inference" (2023), for the turns.
"""

import triton
import triton.language as tl


# fmt: off
@triton.jit
def write(
    key, value, slots, keys, values, num_tokens,
    key_head_stride, key_token_stride, value_head_stride, value_token_stride,
    NUM_HEADS: tl.constexpr, KEY_DIM: tl.constexpr, VALUE_DIM: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):
    """A few tokens' keys and values of one head into their slots; a slot below 0 is none."""
    token = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)[:, None]
    head = tl.program_id(1)
    slot = tl.load(slots + token, mask=token < num_tokens, other=-1)
    k = tl.arange(0, BLOCK_K)[None, :]
    v = tl.arange(0, BLOCK_V)[None, :]
    place = slot * NUM_HEADS + head
    is_k = (slot >= 0) & (k < KEY_DIM)
    is_v = (slot >= 0) & (v < VALUE_DIM)
    key += head.to(tl.int64) * key_head_stride
    value += head.to(tl.int64) * value_head_stride
    new_key = tl.load(key + token * key_token_stride + k, mask=is_k, other=0.0)
    new_value = tl.load(value + token * value_token_stride + v, mask=is_v, other=0.0)
    tl.store(keys + place * KEY_DIM + k, new_key.to(keys.dtype.element_ty), mask=is_k)
    tl.store(values + place * VALUE_DIM + v, new_value.to(values.dtype.element_ty), mask=is_v)


@triton.jit
def find_share(
    position, count, turn,
    WINDOW: tl.constexpr, NUM_TURNS: tl.constexpr, BLOCK_N: tl.constexpr,
):
    """The keys [start, stop) that a turn of a tile reads, in whole blocks."""
    start = position * 0
    if WINDOW > 0:
        start = tl.maximum(position - WINDOW + 1, 0) // BLOCK_N * BLOCK_N
    stop = tl.where(count > 0, position + count, 0)
    if NUM_TURNS > 1:
        num_blocks = tl.cdiv(tl.maximum(stop - start, 0), BLOCK_N)
        share = tl.cdiv(num_blocks, NUM_TURNS) * BLOCK_N
        start += turn * share
        stop = tl.minimum(stop, start + share)
    return start, stop


@triton.jit
def score(
    q, key, at, place, stop, scale, softcap,
    WINDOW: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
):
    """Scores of queries at `place` for keys at `at`, -inf for what they may not see."""
    scores = tl.dot(q, key, input_precision="ieee") * scale
    if HAS_SOFTCAP:
        scores = (2.0 * tl.sigmoid(2.0 * scores / softcap) - 1.0) * softcap
    is_seen = (at < stop)[None, :] & (at[None, :] <= place[:, None])
    if WINDOW > 0:
        is_seen = is_seen & (at[None, :] > place[:, None] - WINDOW)
    return tl.where(is_seen, scores, float("-inf"))


@triton.jit
def attend(
    query, keys, values, out, lse, tiles, tables, table_stride,
    query_head_stride, query_token_stride, out_head_stride, out_token_stride,
    out_turn_stride, lse_turn_stride, scale, softcap,
    NUM_HEADS: tl.constexpr, NUM_GROUPS: tl.constexpr,
    KEY_DIM: tl.constexpr, VALUE_DIM: tl.constexpr,
    WINDOW: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
    NUM_TURNS: tl.constexpr, PAGE_SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):
    """One tile's attention for one key head. A row of the block is a (token, query head) pair.

    With several turns `out` is [turns, ...] in float32, `lse` [turns, tokens, query heads] the
    logarithm of each softmax's sum.
    """
    tile, head, turn = tiles + tl.program_id(0) * 4, tl.program_id(1), tl.program_id(2)
    row = tl.load(tile).to(tl.int64)
    position, count = tl.load(tile + 1), tl.load(tile + 2)
    table = tables + tl.load(tile + 3).to(tl.int64) * table_stride

    m, n = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N)
    k, v = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_V)
    token = m // NUM_GROUPS
    query_head = head * NUM_GROUPS + m % NUM_GROUPS
    rows = query_head.to(tl.int64) * query_head_stride + (row + token) * query_token_stride
    places = query + rows[:, None] + k[None, :]
    is_q = (token < count)[:, None] & (k < KEY_DIM)[None, :]
    q = tl.load(places, mask=is_q, other=0.0).to(keys.dtype.element_ty)

    best = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    sums = tl.zeros([BLOCK_M, BLOCK_V], tl.float32)
    start, stop = find_share(position, count, turn, WINDOW, NUM_TURNS, BLOCK_N)
    for first in range(start, stop, BLOCK_N):
        at = first + n
        page = tl.load(table + at // PAGE_SIZE, mask=at < stop, other=0).to(tl.int64)
        slot = (page * PAGE_SIZE + at % PAGE_SIZE) * NUM_HEADS + head
        is_k = (k < KEY_DIM)[:, None] & (at < stop)[None, :]
        is_v = (v < VALUE_DIM)[None, :] & (at < stop)[:, None]
        key = tl.load(keys + slot[None, :] * KEY_DIM + k[:, None], mask=is_k, other=0.0)
        scores = score(q, key, at, position + token, stop, scale, softcap, WINDOW, HAS_SOFTCAP)
        largest = tl.maximum(best, tl.max(scores, 1))
        reference = tl.where(largest == float("-inf"), 0.0, largest)
        weights = tl.exp(scores - reference[:, None])
        shrink = tl.exp(best - reference)
        value = tl.load(values + slot[:, None] * VALUE_DIM + v[None, :], mask=is_v, other=0.0)
        part = tl.dot(weights.to(value.dtype), value, input_precision="ieee")
        sums = sums * shrink[:, None] + part
        total = total * shrink + tl.sum(weights, 1)
        best = largest

    whole = tl.where(total > 0, total, 1.0)
    rows = query_head * out_head_stride + (row + token) * out_token_stride
    places = out + turn.to(tl.int64) * out_turn_stride + rows[:, None] + v[None, :]
    is_out = (token < count)[:, None] & (v < VALUE_DIM)[None, :]
    tl.store(places, (sums / whole[:, None]).to(out.dtype.element_ty), mask=is_out)
    if NUM_TURNS > 1:
        place = (row + token) * (NUM_HEADS * NUM_GROUPS) + query_head
        found = best + tl.log(whole)  # -inf where nothing was seen
        tl.store(lse + turn * lse_turn_stride + place, found, mask=token < count)


@triton.jit
def combine(
    parts, lse, tiles, out, turn_stride, lse_turn_stride,
    NUM_QUERY_HEADS: tl.constexpr, VALUE_DIM: tl.constexpr, NUM_TURNS: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_V: tl.constexpr,
):
    """What several turns found for one token and query head, weighted by their softmax sums."""
    tile = tiles + tl.program_id(0) * 4
    count = tl.load(tile + 2)
    place = tl.load(tile).to(tl.int64) * NUM_QUERY_HEADS + tl.program_id(1)
    turn = tl.arange(0, BLOCK_T)
    v = tl.arange(0, BLOCK_V)
    is_turn = (turn < NUM_TURNS) & (count > 0)
    sums = tl.load(lse + turn * lse_turn_stride + place, mask=is_turn, other=float("-inf"))
    largest = tl.max(sums, 0)
    weights = tl.exp(sums - tl.where(largest == float("-inf"), 0.0, largest))
    part = tl.load(
        parts + turn.to(tl.int64)[:, None] * turn_stride + place * VALUE_DIM + v[None, :],
        mask=is_turn[:, None] & (v < VALUE_DIM)[None, :],
        other=0.0,
    )
    total = tl.sum(weights, 0)
    result = tl.sum(part * weights[:, None], 0) / tl.where(total > 0, total, 1.0)
    is_out = (v < VALUE_DIM) & (count > 0)
    tl.store(out + place * VALUE_DIM + v, result.to(out.dtype.element_ty), mask=is_out)
