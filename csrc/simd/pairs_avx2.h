/* What AVX-VNNI and AVX2 share of sums of two products of 16-bit integers; a pair is in the place of a 32-bit integer. Over
 * simd/avx2.h. */
#define VI_PAIRS
MXN_INLINE vi vi_broadcast_pair(const int16_t *p) {
    int32_t pair;
    memcpy(&pair, p, sizeof pair);
    return (vi)_mm256_set1_epi32(pair);
}
/* Rounds, halves to even, and clamps to 16 bits; p is aligned to half a vector. */
MXN_INLINE void vf_store_s16(int16_t *p, vf a) {
    const __m256i wide = _mm256_cvtps_epi32(a);
    _mm_store_si128((__m128i *)p, _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1)));
}
