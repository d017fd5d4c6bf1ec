/* y = x W^T + b in bfloat16 with float32 sums, for any number of rows.
 *
 * The weights are packed once, in blocks of 64 outputs: in each, for every pair of inputs, the 64
 * pairs of weights side by side. So a thread reads its blocks as one stream, and a register holds
 * 16 outputs. Every output is summed over its inputs in the same order whatever rows are beside
 * it: a result does not depend on its batch.
 */
#include "kernels.h"

#define OUTPUTS 64
#define LANES 16
#define COLUMNS (OUTPUTS / LANES)
#define ROWS 6 /* 6 x 4 sums and 4 columns of weights fill the 32 registers */

/* `packed` holds num_outputs, rounded up to 64, times num_inputs; num_inputs is even. */
void llmos_pack(const bf16 *weight, bf16 *packed, long num_outputs, long num_inputs) {
    long num_blocks = (num_outputs + OUTPUTS - 1) / OUTPUTS;
#pragma omp parallel for schedule(static)
    for (long block = 0; block < num_blocks; block++)
        for (long pair = 0; pair < num_inputs / 2; pair++)
            for (long lane = 0; lane < OUTPUTS; lane++) {
                long output = block * OUTPUTS + lane;
                bf16 *to = packed + ((block * (num_inputs / 2) + pair) * OUTPUTS + lane) * 2;
                if (output < num_outputs)
                    memcpy(to, weight + output * num_inputs + pair * 2, 2 * sizeof(bf16));
                else
                    memset(to, 0, 2 * sizeof(bf16));
            }
}

static inline __attribute__((always_inline)) void tile(const int rows, const bf16 *x, const bf16 *w,
                                                       const float *bias, bf16 *y, long num_inputs,
                                                       long num_outputs, long first_output) {
    __m512 sums[ROWS][COLUMNS];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < COLUMNS; c++) sums[r][c] = _mm512_setzero_ps();
    for (long pair = 0; pair < num_inputs / 2; pair++) {
        __m512bh columns[COLUMNS];
        for (int c = 0; c < COLUMNS; c++)
            columns[c] = (__m512bh)_mm512_loadu_si512(w + (pair * OUTPUTS + c * LANES) * 2);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            __m512bh input = repeat_pair(x + r * num_inputs + pair * 2);
#pragma GCC unroll 4
            for (int c = 0; c < COLUMNS; c++)
                sums[r][c] = _mm512_dpbf16_ps(sums[r][c], input, columns[c]);
        }
    }
    for (int c = 0; c < COLUMNS; c++) {
        long output = first_output + c * LANES, left = num_outputs - output;
        if (left <= 0) break;
        __mmask16 mask = left >= LANES ? 0xffff : (1u << left) - 1;
        __m512 add = bias ? _mm512_maskz_loadu_ps(mask, bias + output) : _mm512_setzero_ps();
        for (int r = 0; r < rows; r++) {
            __m256i rounded = (__m256i)_mm512_cvtneps_pbh(_mm512_add_ps(sums[r][c], add));
            _mm256_mask_storeu_epi16(y + r * num_outputs + output, mask, rounded);
        }
    }
}

/* x [num_rows, num_inputs] and y [num_rows, num_outputs] are contiguous; bias may be null. */
void llmos_linear(const bf16 *x, const bf16 *packed, const float *bias, bf16 *y, long num_rows,
                  long num_inputs, long num_outputs) {
    long num_blocks = (num_outputs + OUTPUTS - 1) / OUTPUTS;
#pragma omp parallel for schedule(static)
    for (long block = 0; block < num_blocks; block++) {
        const bf16 *w = packed + block * num_inputs * OUTPUTS;
        long row = 0;
#define RUN(rows)                                                                                  \
    tile(rows, x + row * num_inputs, w, bias, y + row * num_outputs, num_inputs, num_outputs,      \
         block * OUTPUTS)
        for (; num_rows - row >= ROWS; row += ROWS) RUN(ROWS);
        switch (num_rows - row) {
        case 5: RUN(5); break;
        case 4: RUN(4); break;
        case 3: RUN(3); break;
        case 2: RUN(2); break;
        case 1: RUN(1); break;
        }
#undef RUN
    }
}
