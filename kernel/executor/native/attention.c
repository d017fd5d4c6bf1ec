/* Attention over pages of 16 tokens, in bfloat16 with float32 sums.
 *
 * In a page's keys, for every head and every pair of dimensions, the 16 tokens' pairs stand side by
 * side: a register holds one pair of all tokens. In its values, for every head and every pair of
 * tokens, the dimensions stand side by side. So scores and outputs are made by the same instruction
 * as the linear layers, without a sum across lanes. The softmax is taken page by page with a
 * running maximum (Milakov and Gimelshein 2018; Dao et al. 2022). A row's arithmetic follows its
 * own pages alone: a result does not depend on the rows beside it, nor on how a prompt was cut into
 * chunks.
 */
#include "kernels.h"

#define PAGE 16
#define MAX_ROWS 16
#define MAX_DIM 512

typedef struct {
    const bf16 *query; /* [heads x groups, tokens, key_dim] by strides */
    long query_head_stride, query_token_stride;
    bf16 *out;                 /* [tokens, heads x groups, value_dim] */
    const bf16 *keys, *values; /* one layer's pool */
    long num_heads, num_groups, key_dim, value_dim;
    long num_chunks;
    const int64_t *rows, *num_new, *num_before; /* per chunk */
    const int32_t *const *pages;                /* per chunk, its page table */
    double scale, softcap;                      /* softcap 0: none */
    long window;                                /* 0: none */
} Attention;

/* Zeros in the values of a page and head from place `first` on. */
static void clear_values(bf16 *values, long first, long value_dim) {
    if (first % 2)
        for (long dim = 0; dim < value_dim; dim++) values[(first / 2 * value_dim + dim) * 2 + 1] = 0;
    long pairs = (first + 1) / 2;
    memset(values + pairs * value_dim * 2, 0, (PAGE / 2 - pairs) * value_dim * 2 * sizeof(bf16));
}

/* The first token in a page clears what an earlier owner left in the places after the last token:
 * they have weight 0, and 0 times what is no number is none. */
void llmos_write(const bf16 *key, const bf16 *value, long key_head_stride, long key_token_stride,
                 long value_head_stride, long value_token_stride, const int64_t *slots,
                 long num_tokens, long num_heads, long key_dim, long value_dim, bf16 *keys,
                 bf16 *values) {
#pragma omp parallel for schedule(static) if (num_tokens > 32)
    for (long token = 0; token < num_tokens; token++) {
        long page = slots[token] / PAGE, place = slots[token] % PAGE;
        long filled = 1;
        while (place + filled < PAGE && token + filled < num_tokens &&
               slots[token + filled] == slots[token] + filled)
            filled++;
        for (long head = 0; head < num_heads; head++) {
            const bf16 *k = key + head * key_head_stride + token * key_token_stride;
            const bf16 *v = value + head * value_head_stride + token * value_token_stride;
            bf16 *to_k = keys + (page * num_heads + head) * PAGE * key_dim + place * 2;
            bf16 *page_v = values + (page * num_heads + head) * PAGE * value_dim;
            bf16 *to_v = page_v + place / 2 * value_dim * 2 + place % 2;
            if (place == 0) clear_values(page_v, filled, value_dim);
            for (long pair = 0; pair < key_dim / 2; pair++)
                memcpy(to_k + pair * PAGE * 2, k + pair * 2, 4);
            for (long dim = 0; dim < value_dim; dim++) to_v[dim * 2] = v[dim];
        }
    }
}

INLINE vec cap(vec score, float limit) {
    vec twice = exponential(multiply(score, fill(2.0f / limit))), one = fill(1.0f);
    return multiply(divide(subtract(twice, one), add(twice, one)), fill(limit));
}

typedef struct {
    const operand *queries[TILE_ROWS];
    long positions[TILE_ROWS];
    float highest[TILE_ROWS], total[TILE_ROWS];
    __attribute__((aligned(64))) float sums[TILE_ROWS][MAX_DIM];
    __attribute__((aligned(64))) operand weights[TILE_ROWS][PAGE];
    __attribute__((aligned(64))) operand room[TILE_ROWS][MAX_DIM];
} Tile;

/* Softmax weights of one page's tokens for a row, and the correction of what was summed before. */
INLINE float weigh(const Attention *a, Tile *tile, int r, vec score, long first_key) {
    score = multiply(score, fill((float)a->scale));
    if (a->softcap > 0) score = cap(score, (float)a->softcap);
    long last = tile->positions[r] - first_key; /* the last lane that is seen */
    uint32_t seen = last >= 15 ? 0xffff : last < 0 ? 0 : (2u << last) - 1;
    long first = a->window ? last - a->window + 1 : 0;
    if (first > 15)
        seen = 0;
    else if (first > 0)
        seen &= 0xffffu << first;
    if (!seen) {
        store_operands(tile->weights[r], zero());
        return 1.0f;
    }
    float highest = fmaxf(tile->highest[r], find_highest(seen, score));
    vec weight = keep(seen, exponential(subtract(score, fill(highest))));
    float correction = highest == tile->highest[r] ? 1.0f : expf(tile->highest[r] - highest);
    tile->highest[r] = highest;
    tile->total[r] = tile->total[r] * correction + sum_lanes(weight);
    store_operands(tile->weights[r], weight);
    return correction;
}

/* The products of a tile's queries with the keys of `count` pages; fetches their values. */
INLINE void score_pages(const int rows, const int count, const Attention *a, const Tile *tile,
                        const bf16 *const *keys, const bf16 *const *values,
                        float (*scores)[TILE_ROWS][PAGE]) {
    vec sums[4][TILE_ROWS];
    for (int p = 0; p < count; p++)
        for (int r = 0; r < rows; r++) sums[p][r] = zero();
    for (long pair = 0; pair < a->key_dim / 2; pair++) {
#pragma GCC unroll 4
        for (int p = 0; p < count; p++)
            _mm_prefetch((const char *)(values[p] + pair * PAGE * 2), _MM_HINT_T0);
#pragma GCC unroll 2
        for (int half = 0; half < HALVES; half++)
#pragma GCC unroll 4
            for (int p = 0; p < count; p++) {
                column numbers = load_column(keys[p] + pair * PAGE * 2, half);
#pragma GCC unroll 16
                for (int r = 0; r < rows; r++)
                    sums[p][r] =
                        add_products(sums[p][r], tile->queries[r] + pair * 2, half, numbers);
            }
    }
    for (int p = 0; p < count; p++)
        for (int r = 0; r < rows; r++) store(scores[p][r], sums[p][r]);
}

/* Adds the values of one page, weighted, to a tile's rows, and fetches the page `ahead`. */
INLINE void add_values(const int rows, const int width, const Attention *a, Tile *tile,
                       const float *corrections, const bf16 *values, const bf16 *ahead) {
    for (long dim = 0; dim < a->value_dim; dim += LANES * width) {
        vec sums[4][TILE_ROWS];
        for (int w = 0; w < width; w++)
            for (int r = 0; r < rows; r++)
                sums[w][r] =
                    multiply(load(tile->sums[r] + dim + w * LANES), fill(corrections[r]));
        for (long pair = 0; pair < PAGE / 2; pair++) {
            long at = (pair * a->value_dim + dim) * 2;
#pragma GCC unroll 2
            for (int half = 0; half < HALVES; half++)
#pragma GCC unroll 4
                for (int w = 0; w < width; w++) {
                    column row = load_column(values + at + w * LANES * 2, half);
                    if (half == 0)
                        _mm_prefetch((const char *)(ahead + at + w * LANES * 2), _MM_HINT_T0);
#pragma GCC unroll 16
                    for (int r = 0; r < rows; r++)
                        sums[w][r] =
                            add_products(sums[w][r], tile->weights[r] + pair * 2, half, row);
                }
        }
        for (int w = 0; w < width; w++)
            for (int r = 0; r < rows; r++) store(tile->sums[r] + dim + w * LANES, sums[w][r]);
    }
}

/* Adds `count` pages to the sums of a tile's rows; pages[last] is the tile's last page.
 *
 * Few rows leave the unit that multiplies waiting for its own sums: then several pages are scored,
 * and several registers of dimensions summed, side by side. The order of each sum stays the same.
 */
INLINE void add_pages(const int rows, const int count, const int width, const Attention *a,
                      Tile *tile, const int32_t *pages, long last, long head, long first_key) {
    long key_size = PAGE * a->key_dim, value_size = PAGE * a->value_dim;
    const bf16 *k[4], *v[4];
    float scores[4][TILE_ROWS][PAGE];
    for (int p = 0; p < count; p++) {
        k[p] = a->keys + (pages[p] * a->num_heads + head) * key_size;
        v[p] = a->values + (pages[p] * a->num_heads + head) * value_size;
    }
    score_pages(rows, count, a, tile, k, v, scores);
    for (int p = 0; p < count; p++) {
        float corrections[TILE_ROWS];
        long next = p + count < last ? p + count : last;
        for (int r = 0; r < rows; r++)
            corrections[r] = weigh(a, tile, r, load(scores[p][r]), first_key + p * PAGE);
        add_values(rows, width, a, tile, corrections, v[p],
                   a->keys + (pages[next] * a->num_heads + head) * key_size);
    }
}

/* A row of a chunk and head, as a token and one of the heads of the group. */
INLINE void begin_row(const Attention *a, Tile *tile, int r, long chunk, long head, long row) {
    long token = row / a->num_groups, group = row % a->num_groups;
    const bf16 *query = a->query + (head * a->num_groups + group) * a->query_head_stride +
                        (a->rows[chunk] + token) * a->query_token_stride;
    tile->queries[r] = as_operands(query);
    if (!tile->queries[r]) {
        place_operands(query, tile->room[r], 2, a->key_dim / 2);
        tile->queries[r] = tile->room[r];
    }
    tile->positions[r] = a->num_before[chunk] + token;
    tile->highest[r] = -INFINITY;
    tile->total[r] = 0;
    for (long dim = 0; dim < a->value_dim; dim += LANES) store(tile->sums[r] + dim, zero());
}

INLINE void end_row(const Attention *a, const Tile *tile, int r, long chunk, long head, long row) {
    long token = row / a->num_groups, group = row % a->num_groups;
    bf16 *out =
        a->out +
        (((a->rows[chunk] + token) * a->num_heads + head) * a->num_groups + group) * a->value_dim;
    vec share = fill(1.0f / tile->total[r]);
    for (long dim = 0; dim < a->value_dim; dim += LANES)
        narrow(out + dim, multiply(load(tile->sums[r] + dim), share));
}

/* `rows` rows (token by token, in each the heads of one group) from `first_row` on, of one chunk
 * and head. */
INLINE void attend_tile(const int rows, const Attention *a, long chunk, long head, long first_row) {
    Tile tile;
    long lowest = 0;
    for (int r = 0; r < rows; r++) begin_row(a, &tile, r, chunk, head, first_row + r);
    if (a->window && tile.positions[0] >= a->window) lowest = tile.positions[0] - a->window + 1;
    long last = tile.positions[rows - 1] / PAGE;
    const int32_t *pages = a->pages[chunk];
    long index = lowest / PAGE;
    const int few = PAGES(rows);
    const int is_wide = a->value_dim % (4 * LANES) == 0;
#define ADD(count, width)                                                                          \
    add_pages(rows, count, width, a, &tile, pages + index, last - index, head, index * PAGE)
    for (; index + few <= last; index += few) {
        if (WIDTH(rows) > 1 && is_wide)
            ADD(few, WIDTH(rows));
        else
            ADD(few, 1);
    }
    for (; index <= last; index++) ADD(1, 1);
#undef ADD
    for (int r = 0; r < rows; r++) end_row(a, &tile, r, chunk, head, first_row + r);
}

static void attend_rows(const Attention *a, long chunk, long head, long first_row, long num_rows) {
#define TAKE(rows)                                                                                 \
    for (; TILE_ROWS >= rows && num_rows >= rows; first_row += rows, num_rows -= rows)             \
    attend_tile(rows, a, chunk, head, first_row)
    TAKE(16);
    TAKE(8);
    if (TILE_ROWS == 6) TAKE(6);
    TAKE(4);
    TAKE(2);
    TAKE(1);
#undef TAKE
}

static void attend(const Attention *a) {
    long num_units = 0;
    for (long chunk = 0; chunk < a->num_chunks; chunk++)
        num_units += (a->num_new[chunk] * a->num_groups + MAX_ROWS - 1) / MAX_ROWS * a->num_heads;
#pragma omp parallel for schedule(dynamic, 1)
    for (long unit = 0; unit < num_units; unit++) {
        long chunk = 0, left = unit, tiles;
        for (;; chunk++) {
            tiles = (a->num_new[chunk] * a->num_groups + MAX_ROWS - 1) / MAX_ROWS;
            if (left < tiles * a->num_heads) break;
            left -= tiles * a->num_heads;
        }
        long first_row = left % tiles * MAX_ROWS,
             num_rows = a->num_new[chunk] * a->num_groups - first_row;
        attend_rows(a, chunk, left / tiles, first_row, num_rows < MAX_ROWS ? num_rows : MAX_ROWS);
    }
}

void llmos_attend(const bf16 *query, long query_head_stride, long query_token_stride, bf16 *out,
                  const bf16 *keys, const bf16 *values, long num_heads, long num_groups,
                  long key_dim, long value_dim, long num_chunks, const int64_t *rows,
                  const int64_t *num_new, const int64_t *num_before, const int32_t *const *pages,
                  double scale, double softcap, long window) {
    Attention a = {query, query_head_stride, query_token_stride, out, keys, values, num_heads,
                   num_groups, key_dim, value_dim, num_chunks, rows, num_new, num_before, pages,
                   scale, softcap, window};
    attend(&a);
}
