/* What the kernels share: bfloat16 as its bits, and the operations that they are made of. Those are
 * on 16 float32 numbers, for each set of instructions.
 *
 * Weights, keys and values lie in pairs: a `column` is 16 pairs, one for each of 16 sums. A sum
 * takes in the products of a column and of one row's pair, in HALVES steps: AVX-512 bf16 multiplies
 * both numbers of a pair at once, AVX2 the first numbers and then the second ones, widened. An
 * `operand` is a number of a row as that multiplication reads it.
 */
#pragma once
#include <immintrin.h>
#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint16_t bf16;

#define LANES 16
#define INLINE static inline __attribute__((always_inline))

static inline void *allocate(long num_bytes) {
    void *room = malloc(num_bytes);
    if (!room) abort();
    return room;
}

INLINE float as_float(bf16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float number;
    memcpy(&number, &bits, sizeof number);
    return number;
}

#ifdef __AVX512BF16__
#include "avx512.h"
#else
#include "avx2.h"
#endif

/* e^x, after Cephes; 0 below the least normal number. What is no number stays none: of two
 * operands, minimum and maximum give the second when either is none. */
INLINE vec exponential(vec number) {
    vec x = minimum(fill(88.3f), maximum(fill(-87.3f), number));
    vec n = round_nearest(multiply(x, fill(1.44269504f)));
    x = subtract_product(x, n, fill(0.693359375f));
    x = subtract_product(x, n, fill(-2.12194440e-4f));
    vec y = fill(1.9875691500e-4f);
    y = multiply_add(y, x, fill(1.3981999507e-3f));
    y = multiply_add(y, x, fill(8.3334519073e-3f));
    y = multiply_add(y, x, fill(4.1665795894e-2f));
    y = multiply_add(y, x, fill(1.6666665459e-1f));
    y = multiply_add(y, x, fill(5.0000001201e-1f));
    y = multiply_add(y, multiply(x, x), add(x, fill(1.0f)));
    return zero_below(number, -87.3f, scale_by_power(y, n));
}

/* The kernels that a forward pass calls. */
void llmos_linear(const bf16 *x, const void *packed, const float *scales, const float *bias,
                  bf16 *y, long num_rows, long num_inputs, long num_outputs);
void llmos_write(const bf16 *key, const bf16 *value, long key_head_stride, long key_token_stride,
                 long value_head_stride, long value_token_stride, const int64_t *slots,
                 long num_tokens, long num_heads, long key_dim, long value_dim, bf16 *keys,
                 bf16 *values);
void llmos_attend(const bf16 *query, long query_head_stride, long query_token_stride, bf16 *out,
                  const bf16 *keys, const bf16 *values, long num_heads, long num_groups,
                  long key_dim, long value_dim, long num_chunks, const int64_t *rows,
                  const int64_t *num_new, const int64_t *num_before, const int32_t *const *pages,
                  double scale, double softcap, long window);
void llmos_rms_norm(const bf16 *x, const float *weight, bf16 *y, long num_rows, long dim,
                    double epsilon);
void llmos_rotate(bf16 *x, long head_stride, long token_stride, const bf16 *cosines,
                  const bf16 *sines, long num_heads, long num_tokens, long dim);
void llmos_gate(const bf16 *gate, const bf16 *up, bf16 *y, long count, double factor,
                double cubic);
void llmos_add(const bf16 *x, const bf16 *y, bf16 *z, long count);
