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

static inline __m512 cap(__m512 score, float limit) {
    __m512 twice = exponential(_mm512_mul_ps(score, _mm512_set1_ps(2.0f / limit)));
    __m512 one = _mm512_set1_ps(1.0f);
    __m512 tanh = _mm512_div_ps(_mm512_sub_ps(twice, one), _mm512_add_ps(twice, one));
    return _mm512_mul_ps(tanh, _mm512_set1_ps(limit));
}

typedef struct {
    const bf16 *queries[MAX_ROWS];
    long positions[MAX_ROWS];
    float highest[MAX_ROWS], total[MAX_ROWS];
    __attribute__((aligned(64))) float sums[MAX_ROWS][MAX_DIM];
    __attribute__((aligned(64))) bf16 weights[MAX_ROWS][PAGE];
} Tile;

/* Softmax weights of one page's tokens for a row, and the correction of what was summed before. */
static inline float weigh(const Attention *a, Tile *tile, int r, __m512 score, long first_key) {
    score = _mm512_mul_ps(score, _mm512_set1_ps((float)a->scale));
    if (a->softcap > 0) score = cap(score, (float)a->softcap);
    long last = tile->positions[r] - first_key; /* the last lane that is seen */
    __mmask16 seen = last >= 15 ? 0xffff : last < 0 ? 0 : (2u << last) - 1;
    long first = a->window ? last - a->window + 1 : 0;
    if (first > 15)
        seen = 0;
    else if (first > 0)
        seen &= 0xffffu << first;
    if (!seen) {
        _mm256_store_si256((__m256i *)tile->weights[r], _mm256_setzero_si256());
        return 1.0f;
    }
    float highest = fmaxf(tile->highest[r], _mm512_mask_reduce_max_ps(seen, score));
    __m512 weight = exponential(_mm512_sub_ps(score, _mm512_set1_ps(highest)));
    weight = _mm512_maskz_mov_ps(seen, weight);
    float correction = expf(tile->highest[r] - highest);
    tile->highest[r] = highest;
    tile->total[r] = tile->total[r] * correction + _mm512_reduce_add_ps(weight);
    _mm256_store_si256((__m256i *)tile->weights[r], (__m256i)_mm512_cvtneps_pbh(weight));
    return correction;
}

/* Adds `count` pages to the sums of a tile's rows; pages[last] is the tile's last page.
 *
 * Few rows leave the unit that multiplies waiting for its own sums: then several pages are scored,
 * and several registers of dimensions summed, side by side. The order of each sum stays the same.
 */
static inline __attribute__((always_inline)) void add_pages(const int rows, const int count,
                                                            const int width, const Attention *a,
                                                            Tile *tile, const int32_t *pages,
                                                            long last, long head, long first_key) {
    long key_size = PAGE * a->key_dim, value_size = PAGE * a->value_dim;
    const bf16 *k[4], *v[4];
    __m512 scores[4][MAX_ROWS];
    for (int p = 0; p < count; p++) {
        k[p] = a->keys + (pages[p] * a->num_heads + head) * key_size;
        v[p] = a->values + (pages[p] * a->num_heads + head) * value_size;
        for (int r = 0; r < rows; r++) scores[p][r] = _mm512_setzero_ps();
    }
    for (long pair = 0; pair < a->key_dim / 2; pair++) {
#pragma GCC unroll 4
        for (int p = 0; p < count; p++) {
            __m512bh column = (__m512bh)_mm512_loadu_si512(k[p] + pair * PAGE * 2);
            _mm_prefetch((const char *)(v[p] + pair * PAGE * 2), _MM_HINT_T0);
#pragma GCC unroll 16
            for (int r = 0; r < rows; r++)
                scores[p][r] = _mm512_dpbf16_ps(scores[p][r],
                                                repeat_pair(tile->queries[r] + pair * 2), column);
        }
    }
    for (int p = 0; p < count; p++) {
        float corrections[MAX_ROWS];
        long next = p + count < last ? p + count : last;
        const bf16 *ahead = a->keys + (pages[next] * a->num_heads + head) * key_size;
        for (int r = 0; r < rows; r++)
            corrections[r] = weigh(a, tile, r, scores[p][r], first_key + p * PAGE);
        for (long dim = 0; dim < a->value_dim; dim += 16 * width) {
            __m512 sums[4][MAX_ROWS];
            for (int w = 0; w < width; w++)
                for (int r = 0; r < rows; r++)
                    sums[w][r] = _mm512_mul_ps(_mm512_load_ps(tile->sums[r] + dim + w * 16),
                                               _mm512_set1_ps(corrections[r]));
            for (long pair = 0; pair < PAGE / 2; pair++) {
#pragma GCC unroll 4
                for (int w = 0; w < width; w++) {
                    long at = (pair * a->value_dim + dim + w * 16) * 2;
                    __m512bh row = (__m512bh)_mm512_loadu_si512(v[p] + at);
                    _mm_prefetch((const char *)(ahead + at), _MM_HINT_T0);
#pragma GCC unroll 16
                    for (int r = 0; r < rows; r++)
                        sums[w][r] = _mm512_dpbf16_ps(
                            sums[w][r], repeat_pair(tile->weights[r] + pair * 2), row);
                }
            }
            for (int w = 0; w < width; w++)
                for (int r = 0; r < rows; r++)
                    _mm512_store_ps(tile->sums[r] + dim + w * 16, sums[w][r]);
        }
    }
}

/* `rows` rows (token by token, in each the heads of one group) from `first_row` on, of one chunk
 * and head. */
static inline __attribute__((always_inline)) void
attend_tile(const int rows, const Attention *a, long chunk, long head, long first_row) {
    Tile tile;
    long lowest = 0;
    for (int r = 0; r < rows; r++) {
        long token = (first_row + r) / a->num_groups, group = (first_row + r) % a->num_groups;
        tile.queries[r] = a->query + (head * a->num_groups + group) * a->query_head_stride +
                          (a->rows[chunk] + token) * a->query_token_stride;
        tile.positions[r] = a->num_before[chunk] + token;
        tile.highest[r] = -INFINITY;
        tile.total[r] = 0;
        for (long dim = 0; dim < a->value_dim; dim += 16)
            _mm512_store_ps(tile.sums[r] + dim, _mm512_setzero_ps());
    }
    if (a->window && tile.positions[0] >= a->window) lowest = tile.positions[0] - a->window + 1;
    long last = tile.positions[rows - 1] / PAGE;
    const int32_t *pages = a->pages[chunk];
    long index = lowest / PAGE;
    const int few = rows <= 2 ? 4 : rows <= 4 ? 2 : 1;
    const int wide = a->value_dim % 64 == 0;
#define ADD(count, width)                                                                          \
    add_pages(rows, count, width, a, &tile, pages + index, last - index, head, index * PAGE)
    for (; index + few <= last; index += few) {
        if (rows <= 4 && wide)
            ADD(few, rows <= 4 ? 4 : 1);
        else
            ADD(few, 1);
    }
    for (; index <= last; index++) ADD(1, 1);
#undef ADD
    for (int r = 0; r < rows; r++) {
        long token = (first_row + r) / a->num_groups, group = (first_row + r) % a->num_groups;
        bf16 *out = a->out + ((a->rows[chunk] + token) * a->num_heads * a->num_groups +
                              head * a->num_groups + group) *
                                 a->value_dim;
        __m512 share = _mm512_set1_ps(1.0f / tile.total[r]);
        for (long dim = 0; dim < a->value_dim; dim += 16)
            _mm256_storeu_si256((__m256i *)(out + dim),
                                (__m256i)_mm512_cvtneps_pbh(
                                    _mm512_mul_ps(_mm512_load_ps(tile.sums[r] + dim), share)));
    }
}

static void attend_rows(const Attention *a, long chunk, long head, long first_row, long num_rows) {
    while (num_rows >= 16) {
        attend_tile(16, a, chunk, head, first_row);
        first_row += 16;
        num_rows -= 16;
    }
    if (num_rows >= 8) {
        attend_tile(8, a, chunk, head, first_row);
        first_row += 8;
        num_rows -= 8;
    }
    if (num_rows >= 4) {
        attend_tile(4, a, chunk, head, first_row);
        first_row += 4;
        num_rows -= 4;
    }
    if (num_rows >= 2) {
        attend_tile(2, a, chunk, head, first_row);
        first_row += 2;
        num_rows -= 2;
    }
    if (num_rows) attend_tile(1, a, chunk, head, first_row);
}

void llmos_attend(const Attention *a) {
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
