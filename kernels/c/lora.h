/* Low-rank deltas y += (x A) B of the rows that are adapted; weights as LoraStack has them. */
#pragma once

#include "common.h"

#define MAX_LOW 768 /* three parts of rank 256 */
#define LORA_ROWS 8 /* that share what is read of a weight */
#define AHEAD 16    /* rows of a weight that are fetched before they are read: each is too short to be seen coming */
#define MAX_VECS 12 /* registers of columns that are computed at once, by few rows: weights then come in their order */

/* One slab of adapters' weights for one projection; a and b of a slot lie together. A zeroed one adapts nothing. */
typedef struct {
    int64_t in, rank, num_parts, num_tiles, tile;
    const bf16 *a;            /* [slots, in, num_parts * rank] */
    const bf16 *b;            /* [slots, num_tiles, rank, tile] */
    const int64_t *tile_part; /* [num_tiles] */
    const int64_t *column;    /* [num_tiles], where a tile begins in y */
} Lora;

/* Registers that the columns of A fill. */
INLINE int64_t low_vecs(const Lora *lora) { return (lora->num_parts * lora->rank + VEC - 1) / VEC; }

/* Whose delta a row gets; slab -1 for none. */
typedef struct {
    int64_t slab, slot;
} Adapted;

/* Rows from `first` on that get the same delta as it does: 1 to 4 or 8. */
INLINE int64_t alike(const Adapted *adapted, int64_t rows, int64_t first) {
    int64_t n = 1;
    while (n < LORA_ROWS && first + n < rows && adapted[first + n].slab == adapted[first].slab &&
           adapted[first + n].slot == adapted[first].slot)
        n++;
    return n < LORA_ROWS && n > 4 ? 4 : n;
}

/* `call(n)`, n being a constant. */
#define WITH_ROWS(n, call) \
    switch (n) { \
        case 1: call(1); break; \
        case 2: call(2); break; \
        case 3: call(3); break; \
        case 4: call(4); break; \
        case 8: call(8); break; \
    }

/* Ask for `vecs` registers of bfloat16 numbers; a constant. There need be none. */
INLINE void fetch(const bf16 *from, int vecs) {
    for (int v = 0; v < vecs; v += 2) _mm_prefetch((const char *)(from + v * VEC), _MM_HINT_T0);
}

/* low[i] = x[i] A for `n` rows and `vecs` registers of columns, of which `there` columns are there; n and vecs are
 * constants. */
INLINE void shrink_rows(int n, int vecs, int64_t in, int64_t columns, int64_t there, const bf16 *a, const bf16 *x,
                        float *low) {
    __m512 sum[LORA_ROWS][MAX_VECS];
    __mmask16 mask[MAX_VECS];
    for (int v = 0; v < vecs; v++) {
        const int64_t left = there - v * VEC;
        mask[v] = left >= VEC ? 0xffff : left <= 0 ? 0 : (__mmask16)((1u << left) - 1);
        for (int i = 0; i < n; i++) sum[i][v] = _mm512_setzero_ps();
    }
    for (int64_t k = 0; k < in; k++) {
        __m512 weight[MAX_VECS];
        fetch(a + (k + AHEAD) * columns, vecs);
        for (int v = 0; v < vecs; v++) weight[v] = load_bf16_masked(mask[v], a + k * columns + v * VEC);
        for (int i = 0; i < n; i++) {
            const __m512 input = _mm512_set1_ps(float_of(x[i * in + k]));
            for (int v = 0; v < vecs; v++) sum[i][v] = _mm512_fmadd_ps(input, weight[v], sum[i][v]);
        }
    }
    for (int i = 0; i < n; i++)
        for (int v = 0; v < vecs; v++) _mm512_mask_storeu_ps(low + i * MAX_LOW + v * VEC, mask[v], sum[i][v]);
}

/* y[i] += low[i] B for `n` rows and `vecs` registers of columns; both are constants. */
INLINE void expand_rows(int n, int vecs, const Lora *lora, const bf16 *b, const float *low, bf16 *y, int64_t out) {
    __m512 sum[LORA_ROWS][MAX_VECS];
    for (int i = 0; i < n; i++)
        for (int v = 0; v < vecs; v++) sum[i][v] = load_bf16(y + i * out + v * VEC);
    for (int64_t r = 0; r < lora->rank; r++) {
        __m512 weight[MAX_VECS];
        fetch(b + (r + AHEAD) * lora->tile, vecs);
        for (int v = 0; v < vecs; v++) weight[v] = load_bf16(b + r * lora->tile + v * VEC);
        for (int i = 0; i < n; i++) {
            const __m512 input = _mm512_set1_ps(low[i * MAX_LOW + r]);
            for (int v = 0; v < vecs; v++) sum[i][v] = _mm512_fmadd_ps(input, weight[v], sum[i][v]);
        }
    }
    for (int i = 0; i < n; i++)
        for (int v = 0; v < vecs; v++) store_bf16(y + i * out + v * VEC, sum[i][v]);
}

/* Registers of columns that `n` rows compute at once, of A and of B. */
INLINE int64_t shrink_vecs(int64_t n) { return n <= 2 ? 6 : n <= 4 ? 4 : 2; }
INLINE int64_t expand_vecs(int64_t n) { return n <= 2 ? MAX_VECS : n <= 4 ? 4 : 2; }

/* low[row] = x[row] A; the columns of all groups of rows are shared out, so that a thread reads whole A where there are
 * several. low: float [rows, MAX_LOW]. */
static void lora_shrink(Team team, const Lora *slabs, int64_t slab_stride, const Adapted *adapted, int64_t rows,
                        const bf16 *x, float *low) {
    int64_t n, all = 0, first = 0;
    for (int64_t row = 0; row < rows; row += n) {
        n = alike(adapted, rows, row);
        if (adapted[row].slab >= 0) all += low_vecs(slabs + adapted[row].slab * slab_stride);
    }
    const Range mine = team_share(team, all);
    for (int64_t row = 0; row < rows; row += n) {
        n = alike(adapted, rows, row);
        if (adapted[row].slab < 0) continue;
        const Lora *lora = slabs + adapted[row].slab * slab_stride;
        const int64_t columns = lora->num_parts * lora->rank, vecs = low_vecs(lora);
        const int64_t start = mine.start > first ? mine.start - first : 0;
        const int64_t end = mine.end < first + vecs ? mine.end - first : vecs;
        const bf16 *a = lora->a + adapted[row].slot * lora->in * columns;
        first += vecs;
        for (int64_t v = start; v < end;) {
            const int64_t column = v * VEC, last = end * VEC < columns ? end * VEC : columns;
            float *to = low + row * MAX_LOW + column;
#define SHRINK(n) \
    shrink_rows(n, (int)shrink_vecs(n), lora->in, columns, last - column, a + column, x + row * lora->in, to)
            WITH_ROWS(n, SHRINK)
            v += shrink_vecs(n);
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
            const int64_t end = columns.end < first + lora->tile ? columns.end : first + lora->tile;
            const float *inputs = low + row * MAX_LOW + lora->tile_part[t] * lora->rank;
            int64_t column = columns.start > first ? columns.start : first;
            while (column < end) {
                bf16 *to = y + row * out + column;
                const int64_t vecs = (end - column) / VEC >= expand_vecs(n) ? expand_vecs(n) : 1;
#define EXPAND(n, vecs) expand_rows(n, vecs, lora, b + column - first, inputs, to, out)
#define EXPAND_MANY(n) EXPAND(n, (int)expand_vecs(n))
#define EXPAND_ONE(n) EXPAND(n, 1)
                if (vecs > 1)
                    WITH_ROWS(n, EXPAND_MANY)
                else
                    WITH_ROWS(n, EXPAND_ONE)
#undef EXPAND_ONE
#undef EXPAND_MANY
#undef EXPAND
                column += vecs * VEC;
            }
        }
    }
}
