/* Low-rank deltas y += (x A) B of the rows that are adapted; weights as LoraStack has them. */
#pragma once

#include "common.h"

#define MAX_LOW 768 /* three parts of rank 256 */
#define LORA_ROWS 8 /* that share what is read of a weight */

/* One slab of adapters' weights for one projection; a and b of a slot lie together. A zeroed one adapts nothing. */
typedef struct {
    int64_t in, rank, num_parts, num_tiles, tile;
    const bf16 *a;            /* [slots, in, num_parts * rank] */
    const bf16 *b;            /* [slots, num_tiles, rank, tile] */
    const int64_t *tile_part; /* [num_tiles] */
    const int64_t *column;    /* [num_tiles], where a tile begins in y */
} Lora;

/* Whose delta a row gets; slab -1 for none. */
typedef struct {
    int64_t slab, slot;
} Adapted;

/* Rows from `first` on, at most LORA_ROWS, that get the same delta as it does. */
INLINE int64_t alike(const Adapted *adapted, int64_t rows, int64_t first) {
    int64_t n = 1;
    while (n < LORA_ROWS && first + n < rows && adapted[first + n].slab == adapted[first].slab &&
           adapted[first + n].slot == adapted[first].slot)
        n++;
    return n;
}

/* low[i] = x[i] A for `n` rows and the columns of one register from `column` on; n is a constant. */
INLINE void shrink_rows(int n, const Lora *lora, const bf16 *a, const bf16 *x, float *low, int64_t column) {
    const int64_t columns = lora->num_parts * lora->rank, left = columns - column;
    const __mmask16 there = left >= VEC ? 0xffff : (__mmask16)((1u << left) - 1);
    /* Two sums for each row, since one would wait for itself. */
    __m512 sum[LORA_ROWS][2];
    for (int i = 0; i < n; i++) sum[i][0] = sum[i][1] = _mm512_setzero_ps();
    for (int64_t k = 0; k < lora->in; k += 2) {
        for (int v = 0; v < 2; v++) {
            const __m512 weight = load_bf16_masked(there, a + (k + v) * columns + column);
            for (int i = 0; i < n; i++)
                sum[i][v] = _mm512_fmadd_ps(_mm512_set1_ps(float_of(x[i * lora->in + k + v])), weight, sum[i][v]);
        }
    }
    for (int i = 0; i < n; i++)
        _mm512_mask_storeu_ps(low + i * MAX_LOW + column, there, _mm512_add_ps(sum[i][0], sum[i][1]));
}

/* y[i] += low[i] B for `n` rows and one register's columns; b: the column's first weight. n is a constant. */
INLINE void expand_rows(int n, const Lora *lora, const bf16 *b, const float *low, bf16 *y, int64_t out) {
    __m512 sum[LORA_ROWS];
    for (int i = 0; i < n; i++) sum[i] = load_bf16(y + i * out);
    for (int64_t r = 0; r < lora->rank; r++) {
        const __m512 weight = load_bf16(b + r * lora->tile);
        for (int i = 0; i < n; i++) sum[i] = _mm512_fmadd_ps(_mm512_set1_ps(low[i * MAX_LOW + r]), weight, sum[i]);
    }
    for (int i = 0; i < n; i++) store_bf16(y + i * out, sum[i]);
}

/* low[row] = x[row] A, this thread's share of the columns. low: float [rows, MAX_LOW]. */
static void lora_shrink(Team team, const Lora *slabs, int64_t slab_stride, const Adapted *adapted, int64_t rows,
                        const bf16 *x, float *low) {
    int64_t n;
    for (int64_t row = 0; row < rows; row += n) {
        n = alike(adapted, rows, row);
        if (adapted[row].slab < 0) continue;
        const Lora *lora = slabs + adapted[row].slab * slab_stride;
        const int64_t columns = lora->num_parts * lora->rank;
        const Range share = team_share(team, (columns + VEC - 1) / VEC);
        const bf16 *a = lora->a + adapted[row].slot * lora->in * columns;
        for (int64_t column = share.start * VEC; column < share.end * VEC; column += VEC) {
#define SHRINK(i, count) shrink_rows(count, lora, a, x + (row + i) * lora->in, low + (row + i) * MAX_LOW, column)
            if (n == LORA_ROWS)
                SHRINK(0, LORA_ROWS);
            else
                for (int64_t i = 0; i < n; i++) SHRINK(i, 1);
#undef SHRINK
        }
    }
}

/* y[row] += low[row] B in the columns `columns`, multiples of 16. y: [rows, out]. */
static void lora_expand(const Lora *slabs, int64_t slab_stride, const Adapted *adapted, int64_t rows, const float *low,
                        bf16 *y, int64_t out, Range columns) {
    int64_t n;
    for (int64_t row = 0; row < rows; row += n) {
        n = alike(adapted, rows, row);
        if (adapted[row].slab < 0) continue;
        const Lora *lora = slabs + adapted[row].slab * slab_stride;
        const bf16 *b = lora->b + adapted[row].slot * lora->num_tiles * lora->rank * lora->tile;
        for (int64_t t = 0; t < lora->num_tiles; t++, b += lora->rank * lora->tile) {
            const int64_t first = lora->column[t];
            const int64_t start = columns.start > first ? columns.start : first;
            const int64_t end = columns.end < first + lora->tile ? columns.end : first + lora->tile;
            const float *inputs = low + row * MAX_LOW + lora->tile_part[t] * lora->rank;
            for (int64_t column = start; column < end; column += VEC) {
                const bf16 *weights = b + column - first;
#define EXPAND(i, count) expand_rows(count, lora, weights, inputs + (i) * MAX_LOW, y + (row + i) * out + column, out)
                if (n == LORA_ROWS)
                    EXPAND(0, LORA_ROWS);
                else
                    for (int64_t i = 0; i < n; i++) EXPAND(i, 1);
#undef EXPAND
            }
        }
    }
}
