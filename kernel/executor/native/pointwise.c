/* What stands between the products: normalization by the root mean square, and the gate of a
 * feed-forward layer. Read as bfloat16, computed in float32, rounded once.
 */
#include "kernels.h"

static inline __m512 widen(const bf16 *x) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

static inline void narrow(bf16 *y, __m512 x) {
    _mm256_storeu_si256((__m256i *)y, (__m256i)_mm512_cvtneps_pbh(x));
}

/* y = x / sqrt(mean(x^2) + epsilon) * weight, row by row; dim is a multiple of 16. */
void llmos_rms_norm(const bf16 *x, const float *weight, bf16 *y, long num_rows, long dim,
                    double epsilon) {
#pragma omp parallel for schedule(static) if (num_rows * dim > 16384)
    for (long row = 0; row < num_rows; row++) {
        const bf16 *from = x + row * dim;
        __m512 squares = _mm512_setzero_ps();
        for (long i = 0; i < dim; i += 16) {
            __m512 value = widen(from + i);
            squares = _mm512_fmadd_ps(value, value, squares);
        }
        float mean = _mm512_reduce_add_ps(squares) / dim + (float)epsilon;
        __m512 scale = _mm512_set1_ps(1.0f / sqrtf(mean));
        for (long i = 0; i < dim; i += 16) {
            __m512 value = _mm512_mul_ps(widen(from + i), scale);
            narrow(y + row * dim + i, _mm512_mul_ps(value, _mm512_loadu_ps(weight + i)));
        }
    }
}

/* y = gate * sigmoid(factor * gate (1 + cubic gate^2)) * up: SiLU with factor 1 and cubic 0, and
 * GELU's tanh form with factor 2 sqrt(2 / pi) and cubic 0.044715. count is a multiple of 16. */
void llmos_gate(const bf16 *gate, const bf16 *up, bf16 *y, long count, double factor,
                double cubic) {
    __m512 one = _mm512_set1_ps(1.0f), minus = _mm512_set1_ps(-(float)factor);
#pragma omp parallel for schedule(static) if (count > 16384)
    for (long i = 0; i < count; i += 16) {
        __m512 value = widen(gate + i);
        __m512 bent =
            _mm512_fmadd_ps(_mm512_set1_ps((float)cubic), _mm512_mul_ps(value, value), one);
        __m512 power = exponential(_mm512_mul_ps(minus, _mm512_mul_ps(value, bent)));
        __m512 share = _mm512_div_ps(value, _mm512_add_ps(one, power));
        narrow(y + i, _mm512_mul_ps(share, widen(up + i)));
    }
}

/* Rotates pairs (i, i + dim / 2) of every head in place (Su et al. 2021), by cosines and sines
 * [tokens, dim]; dim is a multiple of 32. */
void llmos_rotate(bf16 *x, long head_stride, long token_stride, const bf16 *cosines,
                  const bf16 *sines, long num_heads, long num_tokens, long dim) {
    long half = dim / 2;
#pragma omp parallel for schedule(static) if (num_heads * num_tokens * dim > 16384)
    for (long token = 0; token < num_tokens; token++)
        for (long head = 0; head < num_heads; head++) {
            bf16 *low = x + head * head_stride + token * token_stride, *high = low + half;
            const bf16 *c = cosines + token * dim, *s = sines + token * dim;
            for (long i = 0; i < half; i += 16) {
                __m512 a = widen(low + i), b = widen(high + i);
                narrow(low + i, _mm512_fmsub_ps(a, widen(c + i), _mm512_mul_ps(b, widen(s + i))));
                narrow(high + i, _mm512_fmadd_ps(b, widen(c + half + i),
                                                 _mm512_mul_ps(a, widen(s + half + i))));
            }
        }
}
