/* bfloat16 and threads, for kernels on a CPU with AVX512-BF16.
 *
 * A team of OpenMP threads runs every function together: each takes its share of the work, and `team_wait` is where all
 * have to have come. Numbers are bfloat16 in memory and float32 in registers.
 */
#pragma once

#include <immintrin.h>
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define VEC 16 /* float32 numbers of a register */

typedef uint16_t bf16;

typedef struct {
    int64_t index, size;
} Team;

typedef struct {
    int64_t start, end;
} Range;

INLINE void team_wait(void) {
#pragma omp barrier
}

/* This thread's share of `count` things, as even as can be. */
INLINE Range team_share(Team team, int64_t count) {
    return (Range){count * team.index / team.size, count * (team.index + 1) / team.size};
}

INLINE __m512 load_bf16(const bf16 *from) {
    const __m256i narrow = _mm256_loadu_si256((const __m256i *)from);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16));
}

INLINE __m512 load_bf16_masked(__mmask16 mask, const bf16 *from) {
    const __m256i narrow = _mm256_maskz_loadu_epi16(mask, from);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16));
}

INLINE void store_bf16(bf16 *to, __m512 value) {
    _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(value));
}

/* `value` as it is once it has been stored. */
INLINE __m512 round_bf16(__m512 value) {
    const __m256i narrow = (__m256i)_mm512_cvtneps_pbh(value);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16));
}

/* Two neighbours, in every pair of lanes. */
INLINE __m512bh broadcast_pair(const bf16 *from) {
    int32_t both;
    memcpy(&both, from, sizeof both);
    return (__m512bh)_mm512_set1_epi32(both);
}

INLINE float float_of(bf16 value) {
    const uint32_t bits = (uint32_t)value << 16;
    float wide;
    memcpy(&wide, &bits, sizeof wide);
    return wide;
}

/* 2^x, relative error below 3e-7; 0 for -inf. The polynomial is that of Cephes' exp2f. */
INLINE __m512 exp2_ps(__m512 x) {
    const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 part = _mm512_sub_ps(x, whole);
    __m512 sum = _mm512_set1_ps(1.535336188319500e-4f);
    sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(1.339887440266574e-3f));
    sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(9.618437357674640e-3f));
    sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(5.550332471162809e-2f));
    sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(2.402264791363012e-1f));
    sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(6.931472028550421e-1f));
    sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(1.0f));
    /* -inf - -inf is not a number, and scalef of that neither. */
    const __mmask16 none = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-150.0f), _CMP_LT_OQ);
    return _mm512_maskz_scalef_ps(~none, sum, whole);
}
