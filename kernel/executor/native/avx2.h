/* The operations of kernels.h by AVX2 and FMA: two registers hold 16 sums. */
#pragma once

#define HALVES 2
#define SIDE_BY_SIDE 16 /* outputs of a packed block: many rows read one again and again from L1 */
/* Of a product: 6 x 2 sums, 2 registers of weights, one of inputs and a mask fill the 16. */
#define ROWS 6
#define COLUMNS(rows) ((rows) == 1 ? 4 : (rows) <= 3 ? 2 : 1)
#define DEPTH 256    /* pairs of inputs in one go: their weights, 16 KiB, stay in L1 */
#define PASS_ROWS 96 /* rows for which the weights are read once */
#define KEPT_ROWS PASS_ROWS    /* rows whose sums are kept while a part of the inputs is taken in */
#define ROW_STRIDE(num_inputs) 2 /* between the operands of two rows */
#define PAIR_STRIDE(rows) ((rows) * 2) /* and of two pairs of inputs */
#ifndef WIDENS_ONCE
#define WIDENS_ONCE 0 /* whether many rows take int8 weights that were widened for all of them */
#endif
#define AHEAD_BYTES 4096 /* weights are fetched so far ahead: it reads few streams too late itself */
/* Of attention: rows, and pages and registers of dimensions side by side. */
#define TILE_ROWS 6
#define PAGES(rows) ((rows) == 1 ? 4 : (rows) == 2 ? 3 : 1)
#define WIDTH(rows) ((rows) == 1 ? 4 : (rows) == 2 ? 2 : 1)

typedef struct {
    __m256 low, high; /* lanes 0 to 7 and 8 to 15 */
} vec;
typedef vec column; /* one half of its pairs */
typedef float operand;

/* The same for both registers. */
#define BOTH(name, parameters, low, high)                                                          \
    INLINE vec name parameters { return (vec){low, high}; }
#define BY_TWO(name, operation)                                                                    \
    BOTH(name, (vec a, vec b), operation(a.low, b.low), operation(a.high, b.high))

BOTH(zero, (void), _mm256_setzero_ps(), _mm256_setzero_ps())
BOTH(fill, (float x), _mm256_set1_ps(x), _mm256_set1_ps(x))
BOTH(load, (const float *x), _mm256_loadu_ps(x), _mm256_loadu_ps(x + 8))
BY_TWO(add, _mm256_add_ps)
BY_TWO(subtract, _mm256_sub_ps)
BY_TWO(multiply, _mm256_mul_ps)
BY_TWO(divide, _mm256_div_ps)
BY_TWO(minimum, _mm256_min_ps)
BY_TWO(maximum, _mm256_max_ps)
BOTH(multiply_add, (vec a, vec b, vec c), _mm256_fmadd_ps(a.low, b.low, c.low),
     _mm256_fmadd_ps(a.high, b.high, c.high))
BOTH(multiply_subtract, (vec a, vec b, vec c), _mm256_fmsub_ps(a.low, b.low, c.low),
     _mm256_fmsub_ps(a.high, b.high, c.high))
BOTH(subtract_product, (vec a, vec b, vec c), _mm256_fnmadd_ps(b.low, c.low, a.low),
     _mm256_fnmadd_ps(b.high, c.high, a.high))

#define NEAREST (_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
BOTH(round_nearest, (vec x), _mm256_round_ps(x.low, NEAREST), _mm256_round_ps(x.high, NEAREST))

INLINE void store(float *y, vec x) {
    _mm256_storeu_ps(y, x.low);
    _mm256_storeu_ps(y + 8, x.high);
}

INLINE float sum_lanes(vec x) {
    __m256 eight = _mm256_add_ps(x.low, x.high);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

INLINE __m256 make_power(__m256 n) {
    __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}

/* x times 2 to the n, for n from -126 to 127; what is no number in both stays none. */
BOTH(scale_by_power, (vec x, vec n), _mm256_mul_ps(x.low, make_power(n.low)),
     _mm256_mul_ps(x.high, make_power(n.high)))

/* x, and 0 in the lanes where `number` is below `limit`. */
INLINE vec zero_below(vec number, float limit, vec x) {
    __m256 bound = _mm256_set1_ps(limit);
    return (vec){_mm256_andnot_ps(_mm256_cmp_ps(number.low, bound, _CMP_LT_OQ), x.low),
                 _mm256_andnot_ps(_mm256_cmp_ps(number.high, bound, _CMP_LT_OQ), x.high)};
}

/* Ones in the lanes whose bit is set. */
INLINE __m256 spread(uint32_t bits) {
    __m256i each = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    __m256i found = _mm256_and_si256(_mm256_set1_epi32((int)bits), each);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(found, each));
}

/* x, and 0 in the lanes that are not in `seen`. */
BOTH(keep, (uint32_t seen, vec x), _mm256_and_ps(spread(seen), x.low),
     _mm256_and_ps(spread(seen >> 8), x.high))

/* The highest of the lanes in `seen`. */
INLINE float find_highest(uint32_t seen, vec x) {
    __m256 lowest = _mm256_set1_ps(-INFINITY);
    __m256 low = _mm256_blendv_ps(lowest, x.low, spread(seen));
    __m256 eight = _mm256_max_ps(low, _mm256_blendv_ps(lowest, x.high, spread(seen >> 8)));
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

INLINE __m256 widen_eight(const bf16 *x) {
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)x));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

BOTH(widen, (const bf16 *x), widen_eight(x), widen_eight(x + 8))

/* Rounded to even, in the low 16 bits of each lane; what is no number stays none. */
INLINE __m256i round_eight(__m256 x) {
    __m256i bits = _mm256_castps_si256(x);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    __m256i is_none = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, is_none), 16);
}

INLINE void narrow(bf16 *y, vec x) {
    __m256i mixed = _mm256_packus_epi32(round_eight(x.low), round_eight(x.high));
    _mm256_storeu_si256((__m256i *)y, _mm256_permute4x64_epi64(mixed, 0xd8));
}

/* The first `count` lanes alone are written. */
INLINE void narrow_some(bf16 *y, vec x, long count) {
    bf16 all[LANES];
    narrow(all, x);
    memcpy(y, all, count * sizeof(bf16));
}

INLINE __m256 widen_half(const bf16 *pairs, int half) {
    __m256i both = _mm256_loadu_si256((const __m256i *)pairs);
    return _mm256_castsi256_ps(half ? _mm256_and_si256(both, _mm256_set1_epi32((int)0xffff0000))
                                    : _mm256_slli_epi32(both, 16));
}

INLINE column load_column(const bf16 *pairs, int half) {
    return (column){widen_half(pairs, half), widen_half(pairs + 16, half)};
}

INLINE __m256 widen_eight_int8(const int8_t *x) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)x)));
}

/* One half of 16 pairs of int8: their first numbers lie before the second ones. */
INLINE column widen_column(const int8_t *pairs, int half) {
    const int8_t *numbers = pairs + half * LANES;
    return (column){widen_eight_int8(numbers), widen_eight_int8(numbers + 8)};
}

INLINE void store_pairs(bf16 *to, __m256 first, __m256 second) {
    __m256i low = _mm256_srli_epi32(_mm256_castps_si256(first), 16);
    _mm256_storeu_si256((__m256i *)to, _mm256_or_si256(low, _mm256_castps_si256(second)));
}

/* 16 pairs of int8 as pairs of bfloat16, which need no more than the high bits of a float32. */
INLINE void widen_pairs(const int8_t *pairs, bf16 *to) {
    column first = widen_column(pairs, 0), second = widen_column(pairs, 1);
    store_pairs(to, first.low, second.low);
    store_pairs(to + 16, first.high, second.high);
}

/* `pair` is a row's two numbers. Written out, as a compiler that is free to take registers for more
 * than one row's number at a time runs out of them, and keeps a sum in memory. */
INLINE vec add_products(vec sum, const operand *pair, int half, column numbers) {
    __m256 number;
    asm("vbroadcastss %3, %2\n\t"
        "vfmadd231ps %4, %2, %0\n\t"
        "vfmadd231ps %5, %2, %1"
        : "+x"(sum.low), "+x"(sum.high), "=&x"(number)
        : "m"(pair[half]), "x"(numbers.low), "x"(numbers.high));
    return sum;
}

/* Operands are float32, widened beforehand. */
INLINE const operand *as_operands(const bf16 *x) { return (void)x, NULL; }

INLINE operand *allocate_operands(long count) {
    return allocate(count * sizeof(operand));
}

/* Widens a row, its pairs `pair_stride` operands apart. */
INLINE void place_operands(const bf16 *x, operand *to, long pair_stride, long num_pairs) {
    for (long pair = 0; pair < num_pairs; pair++) {
        uint32_t bits[2] = {(uint32_t)x[pair * 2] << 16, (uint32_t)x[pair * 2 + 1] << 16};
        memcpy(to + pair * pair_stride, bits, sizeof bits);
    }
}

INLINE void store_operands(operand *y, vec x) { store(y, x); }
