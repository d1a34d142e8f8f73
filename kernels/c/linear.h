/* y = x W^T, the weight as oneDNN packs it (its format BA16a64b2a):
 *
 *     panel of 64 columns | panel of 64 | …     each [in / 2][64][2]: for each pair of inputs, a pair of every column
 *
 * so that a register holds one pair of 16 columns, what vdpbf16ps takes. Few rows read a weight once, in its own order;
 * many are cut into blocks whose inputs stay in a core's cache while all panels pass.
 */
#pragma once

#include "common.h"

#define PANEL 64
#define BLOCK_BYTES (1 << 19)
#define MAX_TILE_ROWS 6 /* 6 rows of 4 registers, 4 of weights and one of x fit the 32 there are */

typedef struct {
    int64_t in, out;    /* features; even, and a multiple of 16 */
    int64_t panel_size; /* elements of a panel: inputs are padded to a multiple of 32 */
    const bf16 *weight; /* packed */
    const bf16 *bias;   /* [out] or NULL */
} Linear;

/* `rows` rows against `vecs` registers of columns; rows and vecs are constants wherever it is inlined. */
INLINE void linear_tile(int rows, int vecs, int64_t pairs, const bf16 *x, int64_t x_stride, const bf16 *w,
                        const bf16 *bias, bf16 *y, int64_t y_stride) {
    __m512 sum[MAX_TILE_ROWS][4];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vecs; v++) sum[r][v] = bias ? load_bf16(bias + v * VEC) : _mm512_setzero_ps();
    for (int64_t pair = 0; pair < pairs; pair++) {
        __m512bh weights[4];
        for (int v = 0; v < vecs; v++) weights[v] = (__m512bh)_mm512_loadu_si512(w + (pair * PANEL + v * VEC) * 2);
        for (int r = 0; r < rows; r++) {
            const __m512bh inputs = broadcast_pair(x + r * x_stride + pair * 2);
            for (int v = 0; v < vecs; v++) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], inputs, weights[v]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vecs; v++) store_bf16(y + r * y_stride + v * VEC, sum[r][v]);
}

INLINE void linear_rows(int vecs, int64_t rows, int64_t pairs, const bf16 *x, int64_t x_stride, const bf16 *w,
                        const bf16 *bias, bf16 *y, int64_t y_stride) {
    int64_t row = 0;
#define TILE(n) linear_tile(n, vecs, pairs, x + row * x_stride, x_stride, w, bias, y + row * y_stride, y_stride)
    for (; row + 6 <= rows; row += 6) TILE(6);
    switch (rows - row) {
        case 1: TILE(1); break;
        case 2: TILE(2); break;
        case 3: TILE(3); break;
        case 4: TILE(4); break;
        case 5: TILE(5); break;
    }
#undef TILE
}

/* Columns `columns`, multiples of 16, of a block of rows. */
static void linear_block(const Linear *layer, int64_t rows, const bf16 *x, bf16 *y, Range columns) {
    const int64_t pairs = layer->in / 2;
    int64_t column = columns.start;
    while (column < columns.end) {
        const int64_t within = column % PANEL;
        const bf16 *w = layer->weight + column / PANEL * layer->panel_size + within * 2;
        const bf16 *bias = layer->bias ? layer->bias + column : 0;
        const int64_t left = columns.end - column;
        if (within == 0 && left >= PANEL) {
            linear_rows(4, rows, pairs, x, layer->in, w, bias, y + column, layer->out);
            column += PANEL;
        } else {
            linear_rows(1, rows, pairs, x, layer->in, w, bias, y + column, layer->out);
            column += VEC;
        }
    }
}

/* Columns `columns`, multiples of 16, of y [rows, out] from x [rows, in]. */
static void linear(const Linear *layer, int64_t rows, const bf16 *x, bf16 *y, Range columns) {
    int64_t block = BLOCK_BYTES / (layer->in * (int64_t)sizeof(bf16)) / MAX_TILE_ROWS * MAX_TILE_ROWS;
    if (block < 4 * MAX_TILE_ROWS) block = 4 * MAX_TILE_ROWS;
    for (int64_t row = 0; row < rows; row += block)
        linear_block(layer, rows - row < block ? rows - row : block, x + row * layer->in, y + row * layer->out,
                     columns);
}

/* This thread's share of `count` columns. */
INLINE Range column_share(Team team, int64_t count) {
    const Range share = team_share(team, count / VEC);
    return (Range){share.start * VEC, share.end * VEC};
}
