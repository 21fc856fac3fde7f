/* Vectors of eight floats: AVX2 with FMA. */
enum { VF_LANES = 8, VF_REGISTERS = 16, VF_WIDENS = 1, VF_BROADCASTS = 1 };
typedef __m256 vf;

MXN_INLINE vf vf_zero(void) { return _mm256_setzero_ps(); }
MXN_INLINE vf vf_constant(float value) { return _mm256_set1_ps(value); }
MXN_INLINE vf vf_load(const float *p) { return _mm256_load_ps(p); }
/* The vector one float behind that at p, which is aligned; its last lane means nothing. */
MXN_INLINE vf vf_load_next(const float *p) { return _mm256_loadu_ps(p + 1); }
MXN_INLINE vf vf_load_u8(const uint8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
MXN_INLINE vf vf_load_s8(const int8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
MXN_INLINE vf vf_broadcast(const float *p) { return _mm256_broadcast_ss(p); }
#include "broadcast_load.h"
MXN_INLINE void vf_store(float *p, vf a) { _mm256_store_ps(p, a); }
MXN_INLINE vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
MXN_INLINE vf vf_subtract(vf a, vf b) { return _mm256_sub_ps(a, b); }
MXN_INLINE vf vf_multiply(vf a, vf b) { return _mm256_mul_ps(a, b); }
MXN_INLINE vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
MXN_INLINE float vf_sum(vf a) {
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}
MXN_INLINE vf vf_multiply_add(vf a, vf b, vf sum) { return _mm256_fmadd_ps(a, b, sum); }
MXN_INLINE void vf_tap_barrier(void) { __asm__ volatile("" ::: "memory"); }

/* As many 32-bit integers. Not __m256i, which are 64-bit ones to GCC: where it changes the type of a sum, it copies and spills
 * it. */
typedef int32_t vi __attribute__((vector_size(32)));

MXN_INLINE vi vi_zero(void) { return (vi)_mm256_setzero_si256(); }
MXN_INLINE vi vi_load(const int32_t *p) { return (vi)_mm256_load_si256((const __m256i *)p); }
MXN_INLINE vi vi_add(vi a, vi b) { return a + b; }
MXN_INLINE vi vi_max(vi a, vi b) { return (vi)_mm256_max_epi32((__m256i)a, (__m256i)b); }
/* The larger, for a ReLU: where neither is positive, anything that is not. As integers, see avx512.h. */
MXN_INLINE vf vf_max_positive(vf a, vf b) { return (vf)vi_max((vi)a, (vi)b); }
MXN_INLINE vf vi_to_float(vi a) { return _mm256_cvtepi32_ps((__m256i)a); }
/* Rounds, halves to even, and clamps to bytes 0 to 255; p need not be aligned. */
MXN_INLINE void vf_store_bytes(uint8_t *p, vf a) {
    const __m256i wide = _mm256_cvtps_epi32(_mm256_min_ps(a, _mm256_set1_ps(255.0f)));
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    _mm_storel_epi64((__m128i *)p, _mm_packus_epi16(words, words));
}
/* The same of two vectors, one behind the other. */
MXN_INLINE void vf_store_bytes_pair(uint8_t *p, vf a, vf b) {
    const vf most = _mm256_set1_ps(255.0f);
    const __m256i low = _mm256_cvtps_epi32(_mm256_min_ps(a, most)), high = _mm256_cvtps_epi32(_mm256_min_ps(b, most));
    const __m256i words = _mm256_packus_epi32(low, high), packed = _mm256_packus_epi16(words, words);
    /* Each half holds four bytes of a, then four of b. */
    const __m256i bytes = _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5));
    _mm_storeu_si128((__m128i *)p, _mm256_castsi256_si128(bytes));
}
/* Rounds grey levels, 0 to 255, halves up, as they are common where a picture is enlarged; p need not be aligned. */
MXN_INLINE void vf_store_levels(uint8_t *p, vf a) {
    const __m256i wide = _mm256_cvttps_epi32(_mm256_add_ps(a, _mm256_set1_ps(0.5f)));
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    _mm_storel_epi64((__m128i *)p, _mm_packus_epi16(words, words));
}

#include "integers_avx2.h"
