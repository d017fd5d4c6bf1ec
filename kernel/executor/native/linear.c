/* y = x W^T + b in bfloat16 with float32 sums, for any number of rows.
 *
 * The weights are packed once, in blocks of as many outputs as are read side by side: in each, for
 * every pair of inputs, the outputs' pairs of weights. So a thread reads its blocks as one stream,
 * and 16 outputs are summed at once. Many rows take a part of the inputs at a time, so that its
 * weights stay near (Goto and van de Geijn 2008). Every output is summed over its inputs in the same
 * order whatever rows are beside it: a result does not depend on its batch.
 *
 * Weights may be int8 with a scale for each output, which its sum is multiplied by at the end. Such
 * a weight is exact in bfloat16 and widened as it is read; where that costs more than it hides
 * behind, many rows read a part of the weights that was widened for all of them.
 */
#include "kernels.h"

#define OUTPUTS 64 /* a thread's unit of work */

const long llmos_side_by_side = SIDE_BY_SIDE;

typedef struct {
    const void *packed;
    const float *scales; /* of int8 weights; null if they are bfloat16 */
    const float *bias;   /* may be null */
    long num_inputs, num_outputs;
    bf16 *y;
} Product;

/* The scale of an output's int8 weights: the greatest of them is 127 steps. */
static float find_scale(const bf16 *weight, long num_inputs) {
    float greatest = 0;
    for (long i = 0; i < num_inputs; i++) greatest = fmaxf(greatest, fabsf(as_float(weight[i])));
    return greatest / 127;
}

INLINE int8_t quantize(bf16 weight, float scale) {
    return scale > 0 ? (int8_t)lrintf(as_float(weight) / scale) : 0;
}

/* Packs the 16 outputs from `first` on: a column for each pair of inputs. In int8 the first numbers
 * of its pairs lie before the second ones, as they are widened by themselves. */
static void pack_columns(const bf16 *weight, void *packed, const float *scales, long num_outputs,
                         long num_inputs, long first) {
    long block = first / SIDE_BY_SIDE, left = num_outputs - first;
    long at = (block * (num_inputs / 2) * SIDE_BY_SIDE + first % SIDE_BY_SIDE) * 2;
    for (long pair = 0; pair < num_inputs / 2; pair++, at += SIDE_BY_SIDE * 2)
        for (long lane = 0; lane < LANES && lane < left; lane++) {
            const bf16 *from = weight + (first + lane) * num_inputs + pair * 2;
            if (!scales) {
                memcpy((bf16 *)packed + at + lane * 2, from, 2 * sizeof(bf16));
                continue;
            }
            int8_t *to = (int8_t *)packed + at + lane;
            to[0] = quantize(from[0], scales[first + lane]);
            to[LANES] = quantize(from[1], scales[first + lane]);
        }
}

/* `packed` holds num_outputs, rounded up to 64, times num_inputs, of zeros; num_inputs is even. It
 * takes int8 weights if there is room for their `scales`. */
void llmos_pack(const bf16 *weight, void *packed, float *scales, long num_outputs,
                long num_inputs) {
#pragma omp parallel for schedule(static)
    for (long first = 0; first < num_outputs; first += LANES) {
        for (long i = first; i < first + LANES && i < num_outputs && scales; i++)
            scales[i] = find_scale(weight + i * num_inputs, num_inputs);
        pack_columns(weight, packed, scales, num_outputs, num_inputs, first);
    }
}

/* What a tile computes: the pairs from `first` to `end`, of outputs from `output` on. `sums` has the
 * sums of the pairs before, and takes those of the pairs up to here. */
typedef struct {
    const operand *x; /* of the tile's first row */
    const void *weights; /* from the first pair on */
    long row, output, first, end;
    float *sums;
} Tile;

INLINE void multiply_tile(const int rows, const int columns, const int is_int8, const Product *p,
                          const Tile *t) {
    vec sums[ROWS][4];
    const long row_stride = ROW_STRIDE(p->num_inputs), pair_stride = PAIR_STRIDE(rows);
    const long weight_bytes = is_int8 ? sizeof(int8_t) : sizeof(bf16);
    const long column_bytes = (SIDE_BY_SIDE == LANES ? p->num_inputs : 2) * LANES * weight_bytes;
    const char *w = t->weights;
    const operand *x = t->x + t->first * pair_stride;
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++)
            sums[r][c] = t->first ? load(t->sums + (r * columns + c) * LANES) : zero();
    for (long pair = t->first; pair < t->end; pair++) {
#pragma GCC unroll 2
        for (int half = 0; half < HALVES; half++) {
            column numbers[4];
#pragma GCC unroll 4
            for (int c = 0; c < columns; c++)
                numbers[c] = is_int8 ? widen_column((const int8_t *)(w + c * column_bytes), half)
                                     : load_column((const bf16 *)(w + c * column_bytes), half);
#pragma GCC unroll 6
            for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
                for (int c = 0; c < columns; c++)
                    sums[r][c] = add_products(sums[r][c], x + r * row_stride, half, numbers[c]);
        }
        if (AHEAD_BYTES)
            for (int c = 0; c < columns; c++)
                _mm_prefetch(w + c * column_bytes + AHEAD_BYTES, _MM_HINT_T0);
        w += SIDE_BY_SIDE * 2 * weight_bytes;
        x += pair_stride;
    }
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) store(t->sums + (r * columns + c) * LANES, sums[r][c]);
}

/* The numbers of 16 outputs; `other` beyond the last one, and where there are none. */
static vec load_outputs(const float *numbers, float other, const Product *p, long output) {
    float all[LANES];
    long left = p->num_outputs - output;
    for (long i = 0; i < LANES; i++) all[i] = numbers && i < left ? numbers[output + i] : other;
    return load(all);
}

/* Scales, adds the bias and rounds. */
static void finish_tile(long rows, long columns, const Product *p, const Tile *t) {
    for (long c = 0; c < columns; c++) {
        long output = t->output + c * LANES, left = p->num_outputs - output;
        vec scales = load_outputs(p->scales, 1, p, output);
        vec bias = load_outputs(p->bias, 0, p, output);
        for (long r = 0; r < rows; r++) {
            vec sum = load(t->sums + (r * columns + c) * LANES);
            sum = add(p->scales ? multiply(sum, scales) : sum, bias);
            bf16 *y = p->y + (t->row + r) * p->num_outputs + output;
            if (left >= LANES)
                narrow(y, sum);
            else if (left > 0)
                narrow_some(y, sum, left);
        }
    }
}

static void multiply_rows(long num_rows, int alone, int is_int8, const Product *p,
                          const Tile *t) {
#define CASE(n)                                                                                    \
    case n:                                                                                        \
        if (alone && is_int8)                                                                      \
            multiply_tile(n, COLUMNS(n), 1, p, t);                                                 \
        else if (alone)                                                                            \
            multiply_tile(n, COLUMNS(n), 0, p, t);                                                 \
        else if (is_int8)                                                                          \
            multiply_tile(n, COLUMNS(ROWS), 1, p, t);                                              \
        else                                                                                       \
            multiply_tile(n, COLUMNS(ROWS), 0, p, t);                                              \
        break;
    switch (num_rows) { CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) }
#undef CASE
}

/* The rows of a pass, in tiles of up to `tile_rows`; `room` has their operands, if they are not as
 * they lie in memory. */
typedef struct {
    const bf16 *x;
    operand *room;
    long first_row, num_rows, tile_rows;
} Pass;

static int is_alone(const Pass *pass) { return pass->num_rows <= pass->tile_rows; }

static long count_rows(const Pass *pass, long row) {
    long left = pass->num_rows - row;
    return left < pass->tile_rows ? left : pass->tile_rows;
}

static void lay_out(const Product *p, const Pass *pass, long row) {
    long num_rows = count_rows(pass, row);
    operand *to = pass->room + row * p->num_inputs;
    for (long r = 0; r < num_rows; r++)
        place_operands(pass->x + (row + r) * p->num_inputs, to + r * 2, PAIR_STRIDE(num_rows),
                       p->num_inputs / 2);
}

static const operand *find_operands(const Product *p, const Pass *pass, long row) {
    return pass->room ? pass->room + row * p->num_inputs
                      : as_operands(pass->x + row * p->num_inputs);
}

/* How many pairs of inputs are taken in one go. */
static long count_pairs(const Product *p, const Pass *pass) {
    long num_pairs = p->num_inputs / 2;
    return is_alone(pass) || DEPTH > num_pairs ? num_pairs : DEPTH;
}

/* The weights of a tile: as they are packed, or in the `room` for many rows, widened. */
static const void *find_weights(const Product *p, long output, long first, long num_pairs,
                                bf16 *room) {
    long at = output * p->num_inputs + first * SIDE_BY_SIDE * 2;
    if (!p->scales) return (const bf16 *)p->packed + at;
    const int8_t *narrow = (const int8_t *)p->packed + at;
    if (!room) return narrow;
    for (long i = 0; i < num_pairs * SIDE_BY_SIDE * 2; i += LANES * 2)
        widen_pairs(narrow + i, room + i);
    return room;
}

static void multiply_unit(const Product *p, const Pass *pass, long unit, bf16 *room) {
    float sums[KEPT_ROWS * COLUMNS(ROWS) * LANES];
    long num_pairs = p->num_inputs / 2, depth = count_pairs(p, pass);
    long columns = is_alone(pass) ? COLUMNS(pass->num_rows) : COLUMNS(ROWS);
    for (long output = unit * OUTPUTS; output < (unit + 1) * OUTPUTS; output += columns * LANES)
        for (long first = 0; first < num_pairs; first += depth) {
            long end = first + depth < num_pairs ? first + depth : num_pairs;
            const void *weights = find_weights(p, output, first, end - first, room);
            for (long row = 0; row < pass->num_rows; row += pass->tile_rows) {
                long rows = count_rows(pass, row);
                float *kept = sums + (depth < num_pairs ? row * columns * LANES : 0);
                Tile t = {find_operands(p, pass, row), weights, pass->first_row + row, output,
                          first, end, kept};
                multiply_rows(rows, is_alone(pass), p->scales && !room, p, &t);
                if (end == num_pairs) finish_tile(rows, columns, p, &t);
            }
        }
}

static void multiply_pass(const Product *p, const Pass *pass) {
    long num_units = (p->num_outputs + OUTPUTS - 1) / OUTPUTS;
    int widens = WIDENS_ONCE && p->scales && !is_alone(pass);
#pragma omp parallel
    {
        bf16 *room = widens ? allocate(count_pairs(p, pass) * SIDE_BY_SIDE * 2 * sizeof(bf16)) : NULL;
        if (pass->room)
#pragma omp for schedule(static)
            for (long row = 0; row < pass->num_rows; row += pass->tile_rows) lay_out(p, pass, row);
#pragma omp for schedule(static)
        for (long unit = 0; unit < num_units; unit++) multiply_unit(p, pass, unit, room);
        free(room);
    }
}

/* x [num_rows, num_inputs] and y [num_rows, num_outputs] are contiguous; bias may be null, and
 * scales are if the weights are no int8. */
void llmos_linear(const bf16 *x, const void *packed, const float *scales, const float *bias,
                  bf16 *y, long num_rows, long num_inputs, long num_outputs) {
    Product p = {packed, scales, bias, num_inputs, num_outputs, y};
    if (num_rows == 0) return;
    long most = num_rows < PASS_ROWS ? num_rows : PASS_ROWS;
    operand *room = allocate_operands(most * num_inputs);
    for (long first = 0; first < num_rows; first += most) {
        long left = num_rows - first < most ? num_rows - first : most;
        long num_tiles = (left + ROWS - 1) / ROWS;
        Pass pass = {x + first * num_inputs, room, first, left, (left + num_tiles - 1) / num_tiles};
        multiply_pass(&p, &pass);
    }
    free(room);
}
