/* Sums of four products of unsigned and signed bytes, as products of 16-bit numbers that are added up in pairs to 32 bits:
 * AVX2 adds products of bytes up to 16 bits only, which two of 255 * 127 exceed. Over simd/avx2.h. */
enum { VI_WEIGHT_BYTES = 2, VI_BYTE_OFFSET = 0 };
typedef struct vi_pairs {
    __m256i even, odd; /* bytes 0 and 2, 1 and 3 of each four, as 16-bit numbers */
} vi_bytes, vi_weights;

MXN_INLINE vi_bytes vi_broadcast(const uint8_t *p) {
    int32_t four;
    memcpy(&four, p, sizeof four);
    const __m256i x = _mm256_set1_epi32(four);
    return (vi_bytes){_mm256_and_si256(x, _mm256_set1_epi16(0xFF)), _mm256_srli_epi16(x, 8)};
}
MXN_INLINE vi_weights vi_load_weights(const int8_t *p) {
    return (vi_weights){_mm256_load_si256((const __m256i *)p), _mm256_load_si256((const __m256i *)p + 1)};
}
MXN_INLINE vi vi_dot(vi sum, vi_bytes x, vi_weights w) {
    sum += (vi)_mm256_madd_epi16(x.even, w.even);
    return sum + (vi)_mm256_madd_epi16(x.odd, w.odd);
}

#include "pairs_avx2.h"

MXN_INLINE vi vi_dot_pairs(vi sum, vi x, vi w) { return sum + (vi)_mm256_madd_epi16((__m256i)x, (__m256i)w); }
