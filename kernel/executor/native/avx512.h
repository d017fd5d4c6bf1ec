/* The operations of kernels.h by AVX-512 bf16: a register holds 16 sums. */
#pragma once

#define HALVES 1
#define SIDE_BY_SIDE 64 /* outputs of a packed block: a thread reads its blocks as one stream */
/* Of a product: 6 x 4 sums and 4 columns of weights fill the 32 registers. */
#define ROWS 6
#define COLUMNS(rows) 4
#define DEPTH LONG_MAX     /* pairs of inputs in one go: all */
#define PASS_ROWS LONG_MAX /* rows for which the weights are read once: all */
#define KEPT_ROWS ROWS     /* rows whose sums are kept while a part of the inputs is taken in */
#define ROW_STRIDE(num_inputs) (num_inputs) /* between the operands of two rows */
#define PAIR_STRIDE(rows) 2                 /* and of two pairs of inputs */
#define WIDENS_ONCE 1       /* whether many rows take int8 weights that were widened for all */
#define AHEAD_BYTES 0                       /* weights are fetched so far ahead: by the processor */
/* Of attention: rows, and pages and registers of dimensions side by side. */
#define TILE_ROWS 16
#define PAGES(rows) ((rows) <= 2 ? 4 : (rows) <= 4 ? 2 : 1)
#define WIDTH(rows) ((rows) <= 4 ? 4 : 1)

typedef __m512 vec;
typedef __m512bh column;
typedef bf16 operand;

INLINE vec zero(void) { return _mm512_setzero_ps(); }
INLINE vec fill(float x) { return _mm512_set1_ps(x); }
INLINE vec load(const float *x) { return _mm512_loadu_ps(x); }
INLINE void store(float *y, vec x) { _mm512_storeu_ps(y, x); }
INLINE vec add(vec a, vec b) { return _mm512_add_ps(a, b); }
INLINE vec subtract(vec a, vec b) { return _mm512_sub_ps(a, b); }
INLINE vec multiply(vec a, vec b) { return _mm512_mul_ps(a, b); }
INLINE vec divide(vec a, vec b) { return _mm512_div_ps(a, b); }
INLINE vec minimum(vec a, vec b) { return _mm512_min_ps(a, b); }
INLINE vec maximum(vec a, vec b) { return _mm512_max_ps(a, b); }
INLINE vec multiply_add(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vec multiply_subtract(vec a, vec b, vec c) { return _mm512_fmsub_ps(a, b, c); }
INLINE vec subtract_product(vec a, vec b, vec c) { return _mm512_fnmadd_ps(b, c, a); }
INLINE float sum_lanes(vec x) { return _mm512_reduce_add_ps(x); }

INLINE vec round_nearest(vec x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT); }

/* x times 2 to the n. */
INLINE vec scale_by_power(vec x, vec n) { return _mm512_scalef_ps(x, n); }

/* x, and 0 in the lanes where `number` is below `limit`. */
INLINE vec zero_below(vec number, float limit, vec x) {
    return _mm512_maskz_mov_ps(~_mm512_cmp_ps_mask(number, fill(limit), _CMP_LT_OQ), x);
}

/* x, and 0 in the lanes that are not in `seen`. */
INLINE vec keep(uint32_t seen, vec x) { return _mm512_maskz_mov_ps((__mmask16)seen, x); }

/* The highest of the lanes in `seen`. */
INLINE float find_highest(uint32_t seen, vec x) {
    return _mm512_mask_reduce_max_ps((__mmask16)seen, x);
}

INLINE vec widen(const bf16 *x) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

INLINE void narrow(bf16 *y, vec x) {
    _mm256_storeu_si256((__m256i *)y, (__m256i)_mm512_cvtneps_pbh(x));
}

/* The first `count` lanes alone are written. */
INLINE void narrow_some(bf16 *y, vec x, long count) {
    _mm256_mask_storeu_epi16(y, (1u << count) - 1, (__m256i)_mm512_cvtneps_pbh(x));
}

INLINE column load_column(const bf16 *pairs, int half) {
    (void)half;
    return (column)_mm512_loadu_si512(pairs);
}

INLINE __m512i widen_int8(const int8_t *x) {
    __m512i numbers = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)x));
    return _mm512_castps_si512(_mm512_cvtepi32_ps(numbers));
}

/* 16 pairs of int8, whose first numbers lie before the second ones. None needs more than the high
 * bits of a float32. */
INLINE column widen_column(const int8_t *pairs, int half) {
    (void)half;
    __m512i first = _mm512_srli_epi32(widen_int8(pairs), 16);
    return (column)_mm512_or_si512(first, widen_int8(pairs + LANES));
}

INLINE void widen_pairs(const int8_t *pairs, bf16 *to) {
    _mm512_storeu_si512(to, (__m512i)widen_column(pairs, 0));
}

/* `pair` is a row's two numbers. */
INLINE vec add_products(vec sum, const operand *pair, int half, column numbers) {
    (void)half;
    int32_t both;
    memcpy(&both, pair, sizeof both);
    return _mm512_dpbf16_ps(sum, (column)_mm512_set1_epi32(both), numbers);
}

/* Operands are bfloat16 as it lies in memory: nobody needs room for them. */
INLINE const operand *as_operands(const bf16 *x) { return x; }
INLINE operand *allocate_operands(long count) { return (void)count, NULL; }
INLINE void place_operands(const bf16 *x, operand *to, long pair_stride, long num_pairs) {
    (void)x, (void)to, (void)pair_stride, (void)num_pairs;
}

INLINE void store_operands(operand *y, vec x) { narrow(y, x); }
