/* Low-rank deltas y += (x A) B of the rows that are adapted; weights as LoraStack has them. */
#pragma once

#include "common.h"

#define MAX_LOW 768 /* three parts of rank 256 */

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

/* `low[row]` = x[row] A, this thread's share of the columns. low: float [rows, MAX_LOW]. */
static void lora_shrink(Team team, const Lora *slabs, int64_t slab_stride, const Adapted *adapted, int64_t rows,
                        const bf16 *x, float *low) {
    for (int64_t row = 0; row < rows; row++) {
        if (adapted[row].slab < 0) continue;
        const Lora *lora = slabs + adapted[row].slab * slab_stride;
        const int64_t columns = lora->num_parts * lora->rank;
        if (!columns) continue;
        const Range share = team_share(team, (columns + VEC - 1) / VEC);
        const bf16 *a = lora->a + adapted[row].slot * lora->in * columns;
        for (int64_t block = share.start; block < share.end;) {
            const int wide = block + 4 <= share.end && (block + 4) * VEC <= columns ? 4 : 1;
            const int64_t column = block * VEC, left = columns - column;
            __m512 sum[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
            if (wide == 4) {
                for (int64_t k = 0; k < lora->in; k++) {
                    const __m512 input = _mm512_set1_ps(float_of(x[row * lora->in + k]));
                    for (int v = 0; v < 4; v++)
                        sum[v] = _mm512_fmadd_ps(input, load_bf16(a + k * columns + column + v * VEC), sum[v]);
                }
                for (int v = 0; v < 4; v++) _mm512_storeu_ps(low + row * MAX_LOW + column + v * VEC, sum[v]);
            } else {
                const __mmask16 there = left >= VEC ? 0xffff : (__mmask16)((1u << left) - 1);
                /* Two sums, since one would wait for itself. */
                for (int64_t k = 0; k < lora->in; k += 2) {
                    const bf16 *input = x + row * lora->in + k, *weight = a + k * columns + column;
                    for (int v = 0; v < 2; v++)
                        sum[v] = _mm512_fmadd_ps(_mm512_set1_ps(float_of(input[v])),
                                                 load_bf16_masked(there, weight + v * columns), sum[v]);
                }
                _mm512_mask_storeu_ps(low + row * MAX_LOW + column, there, _mm512_add_ps(sum[0], sum[1]));
            }
            block += wide;
        }
    }
}

/* y[row] += low[row] B in the columns `columns`, multiples of 16. y: [rows, out]. */
static void lora_expand(const Lora *slabs, int64_t slab_stride, const Adapted *adapted, int64_t rows, const float *low,
                        bf16 *y, int64_t out, Range columns) {
    for (int64_t row = 0; row < rows; row++) {
        if (adapted[row].slab < 0) continue;
        const Lora *lora = slabs + adapted[row].slab * slab_stride;
        if (!lora->num_tiles) continue;
        const bf16 *b = lora->b + adapted[row].slot * lora->num_tiles * lora->rank * lora->tile;
        for (int64_t t = 0; t < lora->num_tiles; t++, b += lora->rank * lora->tile) {
            const int64_t first = lora->column[t];
            const int64_t start = columns.start > first ? columns.start : first;
            const int64_t end = columns.end < first + lora->tile ? columns.end : first + lora->tile;
            const float *inputs = low + row * MAX_LOW + lora->tile_part[t] * lora->rank;
            for (int64_t column = start; column < end; column += VEC) {
                __m512 sum = load_bf16(y + row * out + column);
                for (int64_t r = 0; r < lora->rank; r++)
                    sum = _mm512_fmadd_ps(_mm512_set1_ps(inputs[r]), load_bf16(b + r * lora->tile + column - first), sum);
                store_bf16(y + row * out + column, sum);
            }
        }
    }
}
