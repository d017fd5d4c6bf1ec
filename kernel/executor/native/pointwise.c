/* What stands between the products: norms, the gate of a feed-forward layer, rotation, sums. Read
 * as bfloat16, computed in float32, rounded once.
 */
#include "kernels.h"

/* y = x / sqrt(mean(x^2) + epsilon) * weight, row by row; dim is a multiple of 16. */
void llmos_rms_norm(const bf16 *x, const float *weight, bf16 *y, long num_rows, long dim,
                    double epsilon) {
#pragma omp parallel for schedule(static) if (num_rows * dim > 16384)
    for (long row = 0; row < num_rows; row++) {
        const bf16 *from = x + row * dim;
        vec squares = zero();
        for (long i = 0; i < dim; i += LANES) {
            vec value = widen(from + i);
            squares = multiply_add(value, value, squares);
        }
        float mean = sum_lanes(squares) / dim + (float)epsilon;
        vec scale = fill(1.0f / sqrtf(mean));
        for (long i = 0; i < dim; i += LANES) {
            vec value = multiply(widen(from + i), scale);
            narrow(y + row * dim + i, multiply(value, load(weight + i)));
        }
    }
}

/* y = gate * sigmoid(factor * gate (1 + cubic gate^2)) * up: SiLU with factor 1 and cubic 0, and
 * GELU's tanh form with factor 2 sqrt(2 / pi) and cubic 0.044715. count is a multiple of 16. */
void llmos_gate(const bf16 *gate, const bf16 *up, bf16 *y, long count, double factor,
                double cubic) {
    vec one = fill(1.0f), minus = fill(-(float)factor);
#pragma omp parallel for schedule(static) if (count > 16384)
    for (long i = 0; i < count; i += LANES) {
        vec value = widen(gate + i);
        vec bent =
            multiply_add(fill((float)cubic), multiply(value, value), one);
        vec power = exponential(multiply(minus, multiply(value, bent)));
        vec share = divide(value, add(one, power));
        narrow(y + i, multiply(share, widen(up + i)));
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
            for (long i = 0; i < half; i += LANES) {
                vec a = widen(low + i), b = widen(high + i);
                narrow(low + i, multiply_subtract(a, widen(c + i), multiply(b, widen(s + i))));
                narrow(high + i, multiply_add(b, widen(c + half + i),
                                                 multiply(a, widen(s + half + i))));
            }
        }
}

/* z = x + y; count is a multiple of 16. */
void llmos_add(const bf16 *x, const bf16 *y, bf16 *z, long count) {
#pragma omp parallel for schedule(static) if (count > 16384)
    for (long i = 0; i < count; i += LANES) narrow(z + i, add(widen(x + i), widen(y + i)));
}
