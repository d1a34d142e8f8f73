/* Softmax attention of few rows over a paged KV cache, in one pass over the keys (Dao et al. 2022).
 *
 * A piece is rows and the keys that they see. Its keys are taken in chunks of at most 64 neighbours; the chunks of all
 * pieces and KV heads are shared out to the threads, and every thread keeps what it has seen of a piece's row and head:
 * the largest score, the sum of exponentials and the weighted sum of values. `attend_merge` puts these together.
 *
 * Keys and values of a chunk are laid out once for all rows and heads, so that vdpbf16ps multiplies pairs of them:
 *
 *     keys    [dim / 2][64][2]   for each pair of dimensions, a pair of every key
 *     values  [32][dim][2]       for each pair of keys, a pair of every dimension
 */
#pragma once

#include "common.h"

#define CHUNK 64
#define MAX_DIM 128

typedef struct {
    int64_t num_rows, first_row; /* where its rows are in `Attention.rows` */
    int64_t num_runs, first_run; /* and its runs of slots in `Attention.runs` */
    int64_t num_keys;
    int64_t tail;     /* the last keys that `mask` is for; 0 for none */
    const bf16 *mask; /* additive, [num_rows, tail] */
} Piece;

typedef struct {
    int64_t num_pieces, num_piece_rows;
    const Piece *pieces;
    const int64_t *rows;  /* [num_piece_rows] rows of the batch */
    const int64_t *runs;  /* (first, one past last) slots */
    const int64_t *found; /* [batch rows + 1]: a row's entries in `parts` */
    const int64_t *parts; /* indices into `rows`, batch row by batch row */
} Attention;

typedef struct {
    int64_t heads, kv_heads, dim, slots;
    float scale;
} Heads;

/* What one thread has seen for one row and head; `sum` is followed by float [dim]. */
typedef struct {
    float largest, total;
} Seen;

typedef struct {
    uint32_t keys[MAX_DIM / 2][CHUNK] __attribute__((aligned(64)));
    uint32_t values[CHUNK / 2][MAX_DIM] __attribute__((aligned(64)));
} Chunk;

/* 16 registers of 16 32-bit numbers, transposed. */
INLINE void transpose16(__m512i r[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

/* Lay out `count` neighbouring keys and values, each [count, dim]; what is missing to 64 is zeros. */
INLINE void load_chunk(Chunk *chunk, const bf16 *keys, const bf16 *values, int count, int dim) {
    for (int first = 0; first < CHUNK; first += VEC) {
        for (int pair = 0; pair < dim / 2; pair += VEC) {
            __m512i block[16];
            for (int i = 0; i < 16; i++)
                block[i] = first + i < count ? _mm512_loadu_si512(keys + (first + i) * dim + pair * 2)
                                             : _mm512_setzero_si512();
            transpose16(block);
            for (int i = 0; i < 16; i++) _mm512_store_si512(&chunk->keys[pair + i][first], block[i]);
        }
    }
    const __m512i order = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6,
                                           37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    for (int pair = 0; pair < CHUNK / 2; pair++) {
        for (int d = 0; d < dim; d += VEC) {
            const bf16 *even = values + pair * 2 * dim + d;
            const __m512i a = pair * 2 < count ? _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)even))
                                               : _mm512_setzero_si512();
            const __m512i b = pair * 2 + 1 < count
                                  ? _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(even + dim)))
                                  : _mm512_setzero_si512();
            _mm512_store_si512(&chunk->values[pair][d], _mm512_permutex2var_epi16(a, order, b));
        }
    }
}

/* One row and head against a chunk. `mask`: additive, for the keys from `masked` on; `factor`: scale * log2(e). */
INLINE void attend_row(Seen *seen, const Chunk *chunk, const bf16 *q, int count, const bf16 *mask, int64_t masked,
                       float factor, int dim) {
    __m512 score[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
    for (int pair = 0; pair < dim / 2; pair++) {
        int32_t both;
        memcpy(&both, q + pair * 2, sizeof both);
        const __m512bh query = (__m512bh)_mm512_set1_epi32(both);
        for (int v = 0; v < 4; v++)
            score[v] = _mm512_dpbf16_ps(score[v], query, (__m512bh)_mm512_load_si512(&chunk->keys[pair][v * VEC]));
    }
    const __m512 none = _mm512_set1_ps(-INFINITY);
    for (int v = 0; v < 4; v++) {
        const int here = count - v * VEC;
        const __mmask16 there = here >= VEC ? 0xffff : here <= 0 ? 0 : (__mmask16)((1u << here) - 1);
        score[v] = _mm512_mask_mul_ps(none, there, score[v], _mm512_set1_ps(factor));
        if (mask && v * VEC + VEC > masked) {
            /* The mask's number of a key before `masked` would lie before the mask. */
            const int before = masked > v * VEC ? (int)(masked - v * VEC) : 0;
            const __mmask16 some = there & (__mmask16)(0xffffu << before);
            score[v] = _mm512_mask_add_ps(score[v], some, score[v], load_bf16_masked(some, mask + v * VEC - masked));
        }
    }
    const __m512 high = _mm512_max_ps(_mm512_max_ps(score[0], score[1]), _mm512_max_ps(score[2], score[3]));
    const float largest = fmaxf(seen->largest, _mm512_reduce_max_ps(high));
    if (largest == -INFINITY) return; /* the row sees nothing of it */
    const float shrink = exp2f(seen->largest - largest);
    const __m512 top = _mm512_set1_ps(largest);
    uint32_t weights[CHUNK / 2] __attribute__((aligned(64)));
    __m512 total = _mm512_setzero_ps();
    for (int v = 0; v < 4; v += 2) {
        const __m512 first = exp2_ps(_mm512_sub_ps(score[v], top)), second = exp2_ps(_mm512_sub_ps(score[v + 1], top));
        total = _mm512_add_ps(total, _mm512_add_ps(first, second));
        _mm512_store_si512(weights + v * VEC / 2, (__m512i)_mm512_cvtne2ps_pbh(second, first));
    }
    seen->total = seen->total * shrink + _mm512_reduce_add_ps(total);
    seen->largest = largest;
    float *out = (float *)(seen + 1);
    __m512 sum[MAX_DIM / VEC];
    for (int d = 0; d < dim / VEC; d++)
        sum[d] = _mm512_mul_ps(_mm512_loadu_ps(out + d * VEC), _mm512_set1_ps(shrink));
    for (int pair = 0; pair < (count + 1) / 2; pair++) {
        const __m512bh weight = (__m512bh)_mm512_set1_epi32((int32_t)weights[pair]);
        for (int d = 0; d < dim / VEC; d++)
            sum[d] = _mm512_dpbf16_ps(sum[d], weight, (__m512bh)_mm512_load_si512(&chunk->values[pair][d * VEC]));
    }
    for (int d = 0; d < dim / VEC; d++) _mm512_storeu_ps(out + d * VEC, sum[d]);
}

INLINE int64_t num_chunks(const Attention *plan, const Piece *piece) {
    int64_t count = 0;
    for (int64_t run = piece->first_run; run < piece->first_run + piece->num_runs; run++)
        count += (plan->runs[2 * run + 1] - plan->runs[2 * run] + CHUNK - 1) / CHUNK;
    return count;
}

INLINE Seen *seen_of(char *seen, const Heads *heads, int64_t piece_row, int64_t head) {
    const int64_t size = sizeof(Seen) + heads->dim * sizeof(float);
    return (Seen *)(seen + (piece_row * heads->heads + head) * size);
}

/* The chunks `wanted` of a piece for one KV head; chunks are counted over the piece. */
INLINE void attend_chunks(char *seen, const Attention *plan, const Piece *piece, const Heads *heads, int64_t kv_head,
                          Range wanted, const bf16 *cache, const bf16 *q, int64_t q_stride, Chunk *chunk, int dim) {
    const int64_t group = heads->heads / heads->kv_heads;
    const bf16 *keys = cache + kv_head * heads->slots * dim;
    const bf16 *values = keys + heads->kv_heads * heads->slots * dim;
    const float factor = heads->scale * 1.44269504f;
    int64_t index = 0, key = 0;
    for (int64_t run = piece->first_run; run < piece->first_run + piece->num_runs && index < wanted.end; run++) {
        const int64_t end = plan->runs[2 * run + 1];
        for (int64_t slot = plan->runs[2 * run]; slot < end && index < wanted.end; slot += CHUNK, index++) {
            const int count = end - slot < CHUNK ? (int)(end - slot) : CHUNK;
            if (index >= wanted.start) {
                load_chunk(chunk, keys + slot * dim, values + slot * dim, count, dim);
                const int64_t masked = piece->num_keys - piece->tail - key; /* of this chunk's keys */
                for (int64_t i = 0; i < piece->num_rows; i++) {
                    const bf16 *row = q + plan->rows[piece->first_row + i] * q_stride;
                    const bf16 *mask = piece->tail && masked < count ? piece->mask + i * piece->tail : 0;
                    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++)
                        attend_row(seen_of(seen, heads, piece->first_row + i, head), chunk, row + head * dim, count,
                                   mask, masked, factor, dim);
                }
            }
            key += count;
        }
    }
}

/* This thread's share of all chunks; `seen` is its own, and q is [rows, q_stride]. */
static void attend(Team team, char *seen, const Attention *plan, const Heads *heads, const bf16 *cache, const bf16 *q,
                   int64_t q_stride) {
    Chunk chunk;
    int64_t all = 0, first = 0;
    for (int64_t p = 0; p < plan->num_pieces; p++) all += num_chunks(plan, plan->pieces + p) * heads->kv_heads;
    const Range mine = team_share(team, all);
    for (int64_t row = 0; row < plan->num_piece_rows; row++)
        for (int64_t head = 0; head < heads->heads; head++) {
            Seen *one = seen_of(seen, heads, row, head);
            *one = (Seen){-INFINITY, 0};
            memset(one + 1, 0, heads->dim * sizeof(float));
        }
    for (int64_t p = 0; p < plan->num_pieces; p++) {
        const Piece *piece = plan->pieces + p;
        const int64_t chunks = num_chunks(plan, piece);
        for (int64_t kv_head = 0; kv_head < heads->kv_heads; kv_head++, first += chunks) {
            const int64_t start = mine.start > first ? mine.start - first : 0;
            const int64_t end = mine.end < first + chunks ? mine.end - first : chunks;
            if (start >= end) continue;
            const Range wanted = {start, end};
            if (heads->dim == 64)
                attend_chunks(seen, plan, piece, heads, kv_head, wanted, cache, q, q_stride, &chunk, 64);
            else
                attend_chunks(seen, plan, piece, heads, kv_head, wanted, cache, q, q_stride, &chunk, 128);
        }
    }
}

/* This thread's share of the rows' heads, put together from all threads' `seen`: out [rows, heads * dim]. */
static void attend_merge(Team team, const char *seen, int64_t seen_size, const Attention *plan, const Heads *heads,
                         int64_t num_rows, bf16 *out) {
    const Range mine = team_share(team, num_rows * heads->heads);
    for (int64_t index = mine.start; index < mine.end; index++) {
        const int64_t row = index / heads->heads, head = index % heads->heads;
        float largest = -INFINITY, total = 0;
        __m512 sum[MAX_DIM / VEC];
        for (int d = 0; d < heads->dim / VEC; d++) sum[d] = _mm512_setzero_ps();
        for (int64_t part = plan->found[row]; part < plan->found[row + 1]; part++)
            for (int64_t thread = 0; thread < team.size; thread++) {
                const Seen *one = seen_of((char *)seen + thread * seen_size, heads, plan->parts[part], head);
                if (one->largest == -INFINITY) continue;
                const float high = fmaxf(largest, one->largest);
                const float before = exp2f(largest - high), now = exp2f(one->largest - high);
                const float *values = (const float *)(one + 1);
                for (int d = 0; d < heads->dim / VEC; d++)
                    sum[d] = _mm512_fmadd_ps(_mm512_loadu_ps(values + d * VEC), _mm512_set1_ps(now),
                                             _mm512_mul_ps(sum[d], _mm512_set1_ps(before)));
                total = total * before + one->total * now;
                largest = high;
            }
        bf16 *to = out + (row * heads->heads + head) * heads->dim;
        for (int d = 0; d < heads->dim / VEC; d++)
            store_bf16(to + d * VEC, _mm512_div_ps(sum[d], _mm512_set1_ps(total)));
    }
}
