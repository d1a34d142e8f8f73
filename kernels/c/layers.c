/* The decoder's layers: `model.Decoder.run_layers` in one call, so that nothing but the work takes time.
 *
 * Rounds to bfloat16 where the torch path does: after every projection, norm, rotary embedding and residual.
 */
#include "attention.h"
#include "common.h"
#include "linear.h"
#include "lora.h"

enum { QKV, O, GATE_UP, DOWN, PROJECTIONS };

typedef struct {
    const bf16 *input_norm, *post_norm; /* [hidden] */
    const bf16 *q_norm, *k_norm;        /* [dim] or NULL */
    Linear projection[PROJECTIONS];
    int64_t plan; /* which of the step's plans it attends by */
} Layer;

typedef struct {
    int64_t num_layers, hidden, intermediate;
    Heads heads;
    float eps, residual;
    const Layer *layers;
    const bf16 *final_norm;
} Model;

typedef struct {
    int64_t rows;
    bf16 *x;               /* [rows, hidden], from the embedding; the result of the final norm replaces it */
    const bf16 *cos, *sin; /* [rows, dim], as `ops.rope` has them */
    bf16 *cache;           /* [layers, 2, kv_heads, slots, dim] */
    const int64_t *slots;  /* [rows] */
    const Attention *plans;
    const Adapted *adapted; /* [rows], or NULL */
    const Lora *loras;     /* [slabs, layers, PROJECTIONS] */
    char *scratch;         /* `scratch_size` bytes */
} Step;

/* Where intermediate results lie, by all threads. */
typedef struct {
    bf16 *normed, *y, *attended, *activated;
    float *low;
    char *seen; /* of each thread, seen_size bytes */
    int64_t seen_size;
} Scratch;

INLINE int64_t take(int64_t *used, int64_t bytes) {
    const int64_t at = *used;
    *used += (bytes + 63) / 64 * 64;
    return at;
}

static int64_t widest(const Model *m) {
    const int64_t qkv = (m->heads.heads + 2 * m->heads.kv_heads) * m->heads.dim, up = 2 * m->intermediate;
    const int64_t most = qkv > up ? qkv : up;
    return most > m->hidden ? most : m->hidden;
}

static int64_t lay_out(const Model *m, const Step *step, int64_t num_plans, Team team, Scratch *to) {
    const int64_t rows = step->rows, q_size = m->heads.heads * m->heads.dim;
    int64_t used = 0;
    to->seen_size = 0;
    for (int64_t p = 0; p < num_plans; p++) {
        const int64_t size = seen_size(step->plans + p, &m->heads);
        to->seen_size = size > to->seen_size ? size : to->seen_size;
    }
    to->normed = (bf16 *)(step->scratch + take(&used, rows * m->hidden * (int64_t)sizeof(bf16)));
    to->y = (bf16 *)(step->scratch + take(&used, rows * widest(m) * (int64_t)sizeof(bf16)));
    to->attended = (bf16 *)(step->scratch + take(&used, rows * q_size * (int64_t)sizeof(bf16)));
    to->activated = (bf16 *)(step->scratch + take(&used, rows * m->intermediate * (int64_t)sizeof(bf16)));
    to->low = (float *)(step->scratch + take(&used, rows * MAX_LOW * (int64_t)sizeof(float)));
    to->seen = step->scratch + take(&used, to->seen_size * team.size);
    return used;
}

/* y = x / sqrt(mean(x^2) + eps) * weight over `size` numbers, a multiple of 16; y may be x. */
static void rms_norm(bf16 *y, const bf16 *x, const bf16 *weight, int64_t size, float eps) {
    __m512 sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < size; i += VEC) {
        const __m512 value = load_bf16(x + i);
        sum = _mm512_fmadd_ps(value, value, sum);
    }
    const __m512 factor = _mm512_set1_ps(1.0f / sqrtf(_mm512_reduce_add_ps(sum) / (float)size + eps));
    for (int64_t i = 0; i < size; i += VEC)
        store_bf16(y + i, _mm512_mul_ps(_mm512_mul_ps(load_bf16(x + i), factor), load_bf16(weight + i)));
}

/* One head, in place: x * cos + roll(x, dim / 2) * sin. */
static void rope(bf16 *x, const bf16 *cos, const bf16 *sin, int64_t dim) {
    const int64_t half = dim / 2;
    for (int64_t i = 0; i < half; i += VEC) {
        const __m512 a = load_bf16(x + i), b = load_bf16(x + half + i);
        store_bf16(x + i, _mm512_fmadd_ps(b, load_bf16(sin + i), round_bf16(_mm512_mul_ps(a, load_bf16(cos + i)))));
        store_bf16(x + half + i, _mm512_fmadd_ps(a, load_bf16(sin + half + i),
                                                 round_bf16(_mm512_mul_ps(b, load_bf16(cos + half + i)))));
    }
}

/* This thread's columns of y = x W^T and of the adapted rows' deltas; all threads must have come to x. */
static Range project(Team team, const Model *m, const Step *step, int64_t layer, int projection, const bf16 *x, bf16 *y,
                     float *low) {
    const Linear *weights = &m->layers[layer].projection[projection];
    const Range columns = column_share(team, weights->out);
    const Lora *loras = step->adapted ? step->loras + layer * PROJECTIONS + projection : 0;
    const int64_t slab = m->num_layers * PROJECTIONS;
    if (loras) lora_shrink(team, loras, slab, step->adapted, step->rows, x, low);
    linear(weights, step->rows, x, y, columns);
    if (loras) {
        team_wait();
        lora_expand(loras, slab, step->adapted, step->rows, low, y, weights->out, columns);
    }
    return columns;
}

/* Queries, keys and values as projected -> queries and keys normed and turned, keys and values in the cache. */
static void place(Team team, const Model *m, const Step *step, const Layer *layer, bf16 *cache, bf16 *qkv) {
    const Heads *h = &m->heads;
    const int64_t per_row = h->heads + 2 * h->kv_heads, dim = h->dim;
    const Range mine = team_share(team, step->rows * per_row);
    for (int64_t index = mine.start; index < mine.end; index++) {
        const int64_t row = index / per_row, head = index % per_row, kv_head = head - h->heads;
        bf16 *x = qkv + index * dim;
        if (kv_head < h->kv_heads) {
            const bf16 *norm = kv_head < 0 ? layer->q_norm : layer->k_norm;
            if (norm) rms_norm(x, x, norm, dim, m->eps);
            rope(x, step->cos + row * dim, step->sin + row * dim, dim);
        }
        /* Keys of all KV heads, then values, as the cache has them. */
        if (kv_head >= 0) memcpy(cache + (kv_head * h->slots + step->slots[row]) * dim, x, dim * sizeof(bf16));
    }
}

/* x = x + residual * y in `columns`. */
static void add_residual(const Model *m, int64_t rows, bf16 *x, const bf16 *y, Range columns) {
    const __m512 scale = _mm512_set1_ps(m->residual);
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = row * m->hidden + columns.start; i < row * m->hidden + columns.end; i += VEC)
            store_bf16(x + i, _mm512_fmadd_ps(load_bf16(y + i), scale, load_bf16(x + i)));
}

/* This thread's share of the rows, y and x [rows, hidden]. */
static void norm_rows(Team team, const Model *m, int64_t rows, bf16 *y, const bf16 *x, const bf16 *weight) {
    const Range mine = team_share(team, rows);
    for (int64_t i = mine.start * m->hidden; i < mine.end * m->hidden; i += m->hidden)
        rms_norm(y + i, x + i, weight, m->hidden, m->eps);
}

/* silu(gate) * up of this thread's share. gate_up: [rows, 2 * intermediate]. */
static void activate(Team team, const Model *m, int64_t rows, bf16 *out, const bf16 *gate_up) {
    const Range columns = column_share(team, m->intermediate);
    const __m512 one = _mm512_set1_ps(1.0f);
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = columns.start; i < columns.end; i += VEC) {
            const bf16 *gate = gate_up + row * 2 * m->intermediate + i;
            const __m512 g = load_bf16(gate), power = exp2_ps(_mm512_mul_ps(g, _mm512_set1_ps(-1.44269504f)));
            const __m512 silu = round_bf16(_mm512_div_ps(g, _mm512_add_ps(one, power)));
            store_bf16(out + row * m->intermediate + i, _mm512_mul_ps(silu, load_bf16(gate + m->intermediate)));
        }
}

static void run_layer(Team team, const Model *m, const Step *step, int64_t index, const Scratch *s) {
    const Layer *layer = m->layers + index;
    const int64_t rows = step->rows, qkv_size = (m->heads.heads + 2 * m->heads.kv_heads) * m->heads.dim;
    const Attention *plan = step->plans + layer->plan;
    bf16 *cache = step->cache + index * 2 * m->heads.kv_heads * m->heads.slots * m->heads.dim;

    norm_rows(team, m, rows, s->normed, step->x, layer->input_norm);
    team_wait();
    project(team, m, step, index, QKV, s->normed, s->y, s->low);
    team_wait();
    place(team, m, step, layer, cache, s->y);
    team_wait();
    attention(team, s->seen, s->seen_size, plan, &m->heads, cache, s->y, qkv_size, s->attended);
    add_residual(m, rows, step->x, s->y, project(team, m, step, index, O, s->attended, s->y, s->low));
    team_wait();
    norm_rows(team, m, rows, s->normed, step->x, layer->post_norm);
    team_wait();
    project(team, m, step, index, GATE_UP, s->normed, s->y, s->low);
    team_wait();
    activate(team, m, rows, s->activated, s->y);
    team_wait();
    add_residual(m, rows, step->x, s->y, project(team, m, step, index, DOWN, s->activated, s->y, s->low));
    team_wait();
}

/* Bytes of scratch that a step needs with so many threads. */
int64_t scratch_size(const Model *m, const Step *step, int64_t num_plans, int64_t threads) {
    Scratch unused;
    return lay_out(m, step, num_plans, (Team){0, threads}, &unused);
}

/* All layers and the final norm, in place of `step->x`. */
void run_layers(const Model *m, const Step *step, int64_t num_plans, int64_t threads) {
#pragma omp parallel num_threads(threads)
    {
        const Team team = {omp_get_thread_num(), omp_get_num_threads()};
        Scratch scratch;
        lay_out(m, step, num_plans, team, &scratch);
        for (int64_t layer = 0; layer < m->num_layers; layer++) run_layer(team, m, step, layer, &scratch);
        norm_rows(team, m, step->rows, step->x, step->x, m->final_norm);
    }
}

/* y = x W^T + bias. */
void run_linear(const Linear *layer, int64_t rows, const bf16 *x, bf16 *y, int64_t threads) {
#pragma omp parallel num_threads(threads)
    {
        const Team team = {omp_get_thread_num(), omp_get_num_threads()};
        linear(layer, rows, x, y, column_share(team, layer->out));
    }
}
