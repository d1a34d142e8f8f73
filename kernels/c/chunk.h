/* Keys and values of a few neighbouring slots, laid out so that vdpbf16ps multiplies pairs of them:
 *
 *     keys    [dim / 2][64][2]   for each pair of dimensions, a pair of every key
 *     values  [32][dim][2]       for each pair of keys, a pair of every dimension
 */
#pragma once

#include "common.h"

#define CHUNK 64
#define MAX_DIM 128

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
