/* Softmax attention over a paged KV cache, in one pass over the keys (Dao et al. 2022).
 *
 * A piece is rows and keys that they see. Its keys are taken in chunks of at most 64 neighbours; the chunks of a wave
 * of pieces, for each KV head, are shared out to the threads, and every thread keeps what it has seen for a piece's row
 * and head: the largest score, the sum of exponentials and the weighted sum of values. At the wave's end these are put
 * together for its targets, rows all of whose pieces are in the wave.
 */
#pragma once

#include "chunk.h"

#define MAX_QUERIES 6 /* of 4 registers of sums each, beside 4 of keys or values and one of the query */

typedef struct {
    int64_t num_rows, first_row; /* where its rows are in `Attention.rows` */
    int64_t num_runs, first_run; /* and its runs of slots in `Attention.runs` */
    int64_t num_keys;
    int64_t tail;     /* the last keys that `mask` is for; 0 for none */
    const bf16 *mask; /* additive, [num_rows, tail] */
} Piece;

typedef struct {
    Range pieces, rows, targets;
} Wave;

typedef struct {
    int64_t num_waves;
    const Wave *waves;
    const Piece *pieces;
    const int64_t *rows;    /* rows of the batch, piece by piece */
    const int64_t *runs;    /* (first, one past last) slots */
    const int64_t *targets; /* rows of the batch, each once, wave by wave */
    const int64_t *found;   /* [targets + 1]: a target's entries in `parts` */
    const int64_t *parts;   /* indices into `rows` */
} Attention;

typedef struct {
    int64_t heads, kv_heads, dim, slots;
    float scale;
} Heads;

/* What one thread has seen for one row and head; it is followed by the weighted sum of values, float [dim]. As large as
 * a register, so that those lie within cache lines. */
typedef struct {
    float largest, total, unused[14];
} Seen;

INLINE float *sums_of(Seen *seen) { return (float *)(seen + 1); }

/* What of a chunk's keys, from register `v` of them on, a row sees: added to its scores, already in units of log2. */
INLINE __m512 masked_scores(__m512 score, int v, int count, const bf16 *mask, int64_t masked) {
    const int here = count - v * VEC;
    const __mmask16 there = here >= VEC ? 0xffff : here <= 0 ? 0 : (__mmask16)((1u << here) - 1);
    score = _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), there, score);
    if (!mask || v * VEC + VEC <= masked) return score;
    /* The mask's number of a key before `masked` would lie before the mask. */
    const int before = masked > v * VEC ? (int)(masked - v * VEC) : 0;
    const __mmask16 some = there & (__mmask16)(0xffffu << before);
    return _mm512_mask_add_ps(score, some, score, load_bf16_masked(some, mask + v * VEC - masked));
}

/* A query (a row's head), what has been seen for it, and the additive mask of its row for the keys from `masked` on. */
typedef struct {
    Seen *seen;
    const bf16 *q, *mask;
} Query;

/* `n` queries against a chunk, at once: one would wait for its own sums. n and dim are constants; `factor`: scale *
 * log2(e). */
INLINE void attend_queries(int n, const Query *queries, const Chunk *chunk, int count, int64_t masked, float factor,
                           int dim) {
    __m512 score[MAX_QUERIES][4];
    for (int i = 0; i < n; i++)
        for (int v = 0; v < 4; v++) score[i][v] = _mm512_setzero_ps();
    for (int pair = 0; pair < dim / 2; pair++) {
        __m512bh keys[4];
        for (int v = 0; v < 4; v++) keys[v] = (__m512bh)_mm512_load_si512(&chunk->keys[pair][v * VEC]);
        for (int i = 0; i < n; i++) {
            const __m512bh both = broadcast_pair(queries[i].q + pair * 2);
            for (int v = 0; v < 4; v++) score[i][v] = _mm512_dpbf16_ps(score[i][v], both, keys[v]);
        }
    }
    uint32_t weights[MAX_QUERIES][CHUNK / 2] __attribute__((aligned(64)));
    __m512 shrink[MAX_QUERIES]; /* of what has been seen before, in every lane */
    for (int i = 0; i < n; i++) {
        Seen *seen = queries[i].seen;
        for (int v = 0; v < 4; v++) {
            score[i][v] = _mm512_mul_ps(score[i][v], _mm512_set1_ps(factor));
            if (queries[i].mask || count < CHUNK)
                score[i][v] = masked_scores(score[i][v], v, count, queries[i].mask, masked);
        }
        const __m512 high =
            _mm512_max_ps(_mm512_max_ps(score[i][0], score[i][1]), _mm512_max_ps(score[i][2], score[i][3]));
        const float largest = fmaxf(seen->largest, _mm512_reduce_max_ps(high));
        /* A query that has seen nothing yet has -inf, from which nothing can be taken away. */
        const __m512 top = _mm512_set1_ps(largest == -INFINITY ? 0.0f : largest);
        shrink[i] = exp2_ps(_mm512_sub_ps(_mm512_set1_ps(seen->largest), top));
        __m512 total = _mm512_setzero_ps();
        for (int v = 0; v < 4; v += 2) {
            const __m512 first = exp2_ps(_mm512_sub_ps(score[i][v], top));
            const __m512 second = exp2_ps(_mm512_sub_ps(score[i][v + 1], top));
            total = _mm512_add_ps(total, _mm512_add_ps(first, second));
            _mm512_store_si512(weights[i] + v * VEC / 2, (__m512i)_mm512_cvtne2ps_pbh(second, first));
        }
        seen->total = seen->total * _mm512_cvtss_f32(shrink[i]) + _mm512_reduce_add_ps(total);
        seen->largest = largest;
    }
    for (int d = 0; d < dim; d += 4 * VEC) {
        __m512 sum[MAX_QUERIES][4];
        for (int i = 0; i < n; i++)
            for (int v = 0; v < 4; v++)
                sum[i][v] = _mm512_mul_ps(_mm512_loadu_ps(sums_of(queries[i].seen) + d + v * VEC), shrink[i]);
        for (int pair = 0; pair < (count + 1) / 2; pair++) {
            __m512bh values[4];
            for (int v = 0; v < 4; v++) values[v] = (__m512bh)_mm512_load_si512(&chunk->values[pair][d + v * VEC]);
            for (int i = 0; i < n; i++) {
                const __m512bh both = (__m512bh)_mm512_set1_epi32((int32_t)weights[i][pair]);
                for (int v = 0; v < 4; v++) sum[i][v] = _mm512_dpbf16_ps(sum[i][v], both, values[v]);
            }
        }
        for (int i = 0; i < n; i++)
            for (int v = 0; v < 4; v++) _mm512_storeu_ps(sums_of(queries[i].seen) + d + v * VEC, sum[i][v]);
    }
}

INLINE int64_t num_chunks(const Attention *plan, const Piece *piece) {
    int64_t count = 0;
    for (int64_t run = piece->first_run; run < piece->first_run + piece->num_runs; run++)
        count += (plan->runs[2 * run + 1] - plan->runs[2 * run] + CHUNK - 1) / CHUNK;
    return count;
}

INLINE int64_t seen_bytes(const Heads *heads) { return (int64_t)sizeof(Seen) + heads->dim * (int64_t)sizeof(float); }

/* `index`: a piece's row, counted over the wave. */
INLINE Seen *seen_of(char *seen, const Heads *heads, int64_t index, int64_t head) {
    return (Seen *)(seen + (index * heads->heads + head) * seen_bytes(heads));
}

/* All rows' queries of one KV head against a chunk of `count` keys, the first `masked` of which all rows see. `next`:
 * keys and values that are fetched meanwhile. */
INLINE void attend_chunk(char *seen, const Attention *plan, const Piece *piece, const Heads *heads, int64_t kv_head,
                         const Chunk *chunk, int count, int64_t masked, const bf16 *q, int64_t q_stride,
                         const char *const next[2], int dim) {
    const int64_t group = heads->heads / heads->kv_heads, all = piece->num_rows * group;
    const int64_t next_bytes = CHUNK * dim * (int64_t)sizeof(bf16);
    const int64_t step = (next_bytes * MAX_QUERIES / all + 63) / 64 * 64; /* fetched before every few queries */
    const float factor = heads->scale * 1.44269504f;
    Query queries[MAX_QUERIES];
    int64_t fetched = 0, left = all;
    int n = 0;
    for (int64_t row = 0; row < piece->num_rows; row++) {
        const bf16 *mask = piece->tail && masked < count ? piece->mask + row * piece->tail : 0;
        const bf16 *of_row = q + plan->rows[piece->first_row + row] * q_stride;
        for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++) {
            queries[n++] = (Query){seen_of(seen, heads, row, head), of_row + head * dim, mask};
            if (--left > 0 && n < MAX_QUERIES) continue;
            for (int64_t end = fetched + step; fetched < end && fetched < next_bytes; fetched += 64) {
                _mm_prefetch(next[0] + fetched, _MM_HINT_T0);
                _mm_prefetch(next[1] + fetched, _MM_HINT_T0);
            }
            switch (n) {
                case 1: attend_queries(1, queries, chunk, count, masked, factor, dim); break;
                case 2: attend_queries(2, queries, chunk, count, masked, factor, dim); break;
                case 3: attend_queries(3, queries, chunk, count, masked, factor, dim); break;
                case 4: attend_queries(4, queries, chunk, count, masked, factor, dim); break;
                case 5: attend_queries(5, queries, chunk, count, masked, factor, dim); break;
                case 6: attend_queries(6, queries, chunk, count, masked, factor, dim); break;
            }
            n = 0;
        }
    }
}

/* The chunks `wanted` of a piece for one KV head; chunks are counted over the piece, and `seen` is of its first row. */
INLINE void attend_chunks(char *seen, const Attention *plan, const Piece *piece, const Heads *heads, int64_t kv_head,
                          Range wanted, const bf16 *cache, const bf16 *q, int64_t q_stride, Chunk *chunk, int dim) {
    const bf16 *keys = cache + kv_head * heads->slots * dim;
    const bf16 *values = keys + heads->kv_heads * heads->slots * dim;
    int64_t index = 0, key = 0;
    for (int64_t run = piece->first_run; run < piece->first_run + piece->num_runs && index < wanted.end; run++) {
        const int64_t end = plan->runs[2 * run + 1];
        for (int64_t slot = plan->runs[2 * run]; slot < end && index < wanted.end; slot += CHUNK, index++) {
            const int count = end - slot < CHUNK ? (int)(end - slot) : CHUNK;
            if (index >= wanted.start) {
                const int64_t next = slot + CHUNK < end ? slot + CHUNK : slot; /* a run's next chunk, if there is one */
                const char *const fetch[2] = {(const char *)(keys + next * dim), (const char *)(values + next * dim)};
                load_chunk(chunk, keys + slot * dim, values + slot * dim, count, dim);
                attend_chunk(seen, plan, piece, heads, kv_head, chunk, count, piece->num_keys - piece->tail - key, q,
                             q_stride, fetch, dim);
            }
            key += count;
        }
    }
}

/* This thread's share of a wave's chunks; `seen` is its own, and q is [rows, q_stride]. */
static void attend(Team team, char *seen, const Attention *plan, const Wave *wave, const Heads *heads,
                   const bf16 *cache, const bf16 *q, int64_t q_stride) {
    Chunk chunk;
    int64_t all = 0, first = 0;
    for (int64_t p = wave->pieces.start; p < wave->pieces.end; p++)
        all += num_chunks(plan, plan->pieces + p) * heads->kv_heads;
    const Range mine = team_share(team, all);
    for (int64_t index = 0; index < wave->rows.end - wave->rows.start; index++)
        for (int64_t head = 0; head < heads->heads; head++) {
            Seen *one = seen_of(seen, heads, index, head);
            one->largest = -INFINITY;
            one->total = 0;
            memset(sums_of(one), 0, heads->dim * sizeof(float));
        }
    for (int64_t p = wave->pieces.start; p < wave->pieces.end; p++) {
        const Piece *piece = plan->pieces + p;
        const int64_t chunks = num_chunks(plan, piece);
        char *own = (char *)seen_of(seen, heads, piece->first_row - wave->rows.start, 0);
        for (int64_t kv_head = 0; kv_head < heads->kv_heads; kv_head++, first += chunks) {
            const int64_t start = mine.start > first ? mine.start - first : 0;
            const int64_t end = mine.end < first + chunks ? mine.end - first : chunks;
            if (start >= end) continue;
            const Range wanted = {start, end};
            if (heads->dim == 64)
                attend_chunks(own, plan, piece, heads, kv_head, wanted, cache, q, q_stride, &chunk, 64);
            else
                attend_chunks(own, plan, piece, heads, kv_head, wanted, cache, q, q_stride, &chunk, 128);
        }
    }
}

/* This thread's share of a wave's targets, put together from all threads' `seen`: out [rows, heads * dim]. */
static void merge(Team team, const char *seen, int64_t seen_size, const Attention *plan, const Wave *wave,
                  const Heads *heads, bf16 *out) {
    const Range mine = team_share(team, (wave->targets.end - wave->targets.start) * heads->heads);
    for (int64_t index = mine.start; index < mine.end; index++) {
        const int64_t target = wave->targets.start + index / heads->heads, head = index % heads->heads;
        float largest = -INFINITY, total = 0;
        __m512 sum[MAX_DIM / VEC];
        for (int d = 0; d < heads->dim / VEC; d++) sum[d] = _mm512_setzero_ps();
        for (int64_t part = plan->found[target]; part < plan->found[target + 1]; part++)
            for (int64_t thread = 0; thread < team.size; thread++) {
                char *theirs = (char *)seen + thread * seen_size;
                Seen *one = seen_of(theirs, heads, plan->parts[part] - wave->rows.start, head);
                if (one->largest == -INFINITY) continue;
                const float high = fmaxf(largest, one->largest);
                const __m512 before = exp2_ps(_mm512_set1_ps(largest - high));
                const __m512 now = exp2_ps(_mm512_set1_ps(one->largest - high));
                for (int d = 0; d < heads->dim / VEC; d++)
                    sum[d] =
                        _mm512_fmadd_ps(_mm512_loadu_ps(sums_of(one) + d * VEC), now, _mm512_mul_ps(sum[d], before));
                total = total * _mm512_cvtss_f32(before) + one->total * _mm512_cvtss_f32(now);
                largest = high;
            }
        bf16 *to = out + (plan->targets[target] * heads->heads + head) * heads->dim;
        for (int d = 0; d < heads->dim / VEC; d++)
            store_bf16(to + d * VEC, _mm512_div_ps(sum[d], _mm512_set1_ps(total)));
    }
}

/* Bytes of `seen` for each thread. */
INLINE int64_t seen_size(const Attention *plan, const Heads *heads) {
    int64_t most = 0;
    for (int64_t w = 0; w < plan->num_waves; w++) {
        const int64_t rows = plan->waves[w].rows.end - plan->waves[w].rows.start;
        most = rows > most ? rows : most;
    }
    return most * heads->heads * seen_bytes(heads);
}

/* All rows' attention, out [rows, heads * dim]; `seen` is of all threads, `size` bytes each. */
static void attention(Team team, char *seen, int64_t size, const Attention *plan, const Heads *heads,
                      const bf16 *cache, const bf16 *q, int64_t q_stride, bf16 *out) {
    for (const Wave *wave = plan->waves; wave < plan->waves + plan->num_waves; wave++) {
        attend(team, seen + team.index * size, plan, wave, heads, cache, q, q_stride);
        team_wait();
        merge(team, seen, size, plan, wave, heads, out);
        team_wait();
    }
}
