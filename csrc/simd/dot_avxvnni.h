/* Sums of four products of unsigned and signed bytes: AVX-VNNI. Over simd/avx2.h. */
enum { VI_WEIGHT_BYTES = 1, VI_BYTE_OFFSET = 0 };
typedef vi vi_bytes, vi_weights;

MXN_INLINE vi_bytes vi_broadcast(const uint8_t *p) {
    int32_t four;
    memcpy(&four, p, sizeof four);
    return (vi)_mm256_set1_epi32(four);
}
MXN_INLINE vi_weights vi_load_weights(const int8_t *p) { return (vi)_mm256_load_si256((const __m256i *)p); }
MXN_INLINE vi vi_dot(vi sum, vi_bytes x, vi_weights w) {
    return (vi)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)x, (__m256i)w);
}

#include "pairs_avx2.h"

MXN_INLINE vi vi_dot_pairs(vi sum, vi x, vi w) { return (vi)_mm256_dpwssd_avx_epi32((__m256i)sum, (__m256i)x, (__m256i)w); }
