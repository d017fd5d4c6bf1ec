/* y = x W^T + b in bfloat16 with float32 sums, for any number of rows.
 *
 * The weights are packed once, in blocks of as many outputs as are read side by side: in each, for
 * every pair of inputs, the outputs' pairs of weights. So a thread reads its blocks as one stream,
 * and 16 outputs are summed at once. Many rows take a part of the inputs at a time, so that its
 * weights stay near (Goto and van de Geijn 2008). Every output is summed over its inputs in the same
 * order whatever rows are beside it: a result does not depend on its batch.
 */
#include "kernels.h"

#define OUTPUTS 64 /* a thread's unit of work */

const long llmos_side_by_side = SIDE_BY_SIDE;

typedef struct {
    const bf16 *packed;
    const float *bias; /* may be null */
    long num_inputs, num_outputs;
    bf16 *y;
} Product;

/* `packed` holds num_outputs, rounded up to 64, times num_inputs; num_inputs is even. */
void llmos_pack(const bf16 *weight, bf16 *packed, long num_outputs, long num_inputs) {
    long num_units = (num_outputs + OUTPUTS - 1) / OUTPUTS;
#pragma omp parallel for schedule(static)
    for (long block = 0; block < num_units * OUTPUTS / SIDE_BY_SIDE; block++)
        for (long pair = 0; pair < num_inputs / 2; pair++)
            for (long lane = 0; lane < SIDE_BY_SIDE; lane++) {
                long output = block * SIDE_BY_SIDE + lane;
                bf16 *to = packed + ((block * (num_inputs / 2) + pair) * SIDE_BY_SIDE + lane) * 2;
                if (output < num_outputs)
                    memcpy(to, weight + output * num_inputs + pair * 2, 2 * sizeof(bf16));
                else
                    memset(to, 0, 2 * sizeof(bf16));
            }
}

/* What a tile computes: the pairs from `first` to `end`, of outputs from `output` on. `sums` has the
 * sums of the pairs before, and takes those of the pairs up to here. */
typedef struct {
    const operand *x; /* of the tile's first row */
    long row, output, first, end;
    float *sums;
} Tile;

INLINE void multiply_tile(const int rows, const int columns, const Product *p, const Tile *t) {
    vec sums[ROWS][4];
    const long row_stride = ROW_STRIDE(p->num_inputs), pair_stride = PAIR_STRIDE(rows);
    const long column_stride = (SIDE_BY_SIDE == LANES ? p->num_inputs : 2) * LANES;
    const bf16 *w = p->packed + t->output * p->num_inputs + t->first * SIDE_BY_SIDE * 2;
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
                numbers[c] = load_column(w + c * column_stride, half);
#pragma GCC unroll 6
            for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
                for (int c = 0; c < columns; c++)
                    sums[r][c] = add_products(sums[r][c], x + r * row_stride, half, numbers[c]);
        }
        if (AHEAD_BYTES)
            for (int c = 0; c < columns; c++)
                _mm_prefetch((const char *)(w + c * column_stride) + AHEAD_BYTES, _MM_HINT_T0);
        w += SIDE_BY_SIDE * 2;
        x += pair_stride;
    }
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) store(t->sums + (r * columns + c) * LANES, sums[r][c]);
}

/* Adds the bias and rounds. */
static void finish_tile(long rows, long columns, const Product *p, const Tile *t) {
    for (long c = 0; c < columns; c++) {
        long output = t->output + c * LANES, left = p->num_outputs - output;
        float bias[LANES] = {0};
        if (p->bias && left > 0)
            memcpy(bias, p->bias + output, (left < LANES ? left : LANES) * sizeof(float));
        for (long r = 0; r < rows; r++) {
            vec sum = add(load(t->sums + (r * columns + c) * LANES), load(bias));
            bf16 *y = p->y + (t->row + r) * p->num_outputs + output;
            if (left >= LANES)
                narrow(y, sum);
            else if (left > 0)
                narrow_some(y, sum, left);
        }
    }
}

static void multiply_rows(long num_rows, int is_alone, const Product *p, const Tile *t) {
#define CASE(n)                                                                                    \
    case n:                                                                                        \
        if (is_alone)                                                                              \
            multiply_tile(n, COLUMNS(n), p, t);                                                    \
        else                                                                                       \
            multiply_tile(n, COLUMNS(ROWS), p, t);                                                 \
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

static void multiply_unit(const Product *p, const Pass *pass, long unit) {
    float sums[KEPT_ROWS * COLUMNS(ROWS) * LANES];
    int is_alone = pass->num_rows <= pass->tile_rows;
    long num_pairs = p->num_inputs / 2, depth = is_alone || DEPTH > num_pairs ? num_pairs : DEPTH;
    long columns = is_alone ? COLUMNS(pass->num_rows) : COLUMNS(ROWS);
    for (long output = unit * OUTPUTS; output < (unit + 1) * OUTPUTS; output += columns * LANES)
        for (long first = 0; first < num_pairs; first += depth)
            for (long row = 0; row < pass->num_rows; row += pass->tile_rows) {
                long rows = count_rows(pass, row);
                long end = first + depth < num_pairs ? first + depth : num_pairs;
                float *kept = sums + (depth < num_pairs ? row * columns * LANES : 0);
                Tile t = {find_operands(p, pass, row), pass->first_row + row, output, first, end,
                          kept};
                multiply_rows(rows, is_alone, p, &t);
                if (end == num_pairs) finish_tile(rows, columns, p, &t);
            }
}

static void multiply_pass(const Product *p, const Pass *pass) {
    long num_units = (p->num_outputs + OUTPUTS - 1) / OUTPUTS;
#pragma omp parallel
    {
        if (pass->room)
#pragma omp for schedule(static)
            for (long row = 0; row < pass->num_rows; row += pass->tile_rows) lay_out(p, pass, row);
#pragma omp for schedule(static)
        for (long unit = 0; unit < num_units; unit++) multiply_unit(p, pass, unit);
    }
}

/* x [num_rows, num_inputs] and y [num_rows, num_outputs] are contiguous; bias may be null. */
void llmos_linear(const bf16 *x, const bf16 *packed, const float *bias, bf16 *y, long num_rows,
                  long num_inputs, long num_outputs) {
    Product p = {packed, bias, num_inputs, num_outputs, y};
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
