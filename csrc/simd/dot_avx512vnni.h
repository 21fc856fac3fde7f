/* Sums of four products of unsigned and signed bytes: AVX-512 VNNI. Over simd/avx512.h. */
enum { VI_WEIGHT_BYTES = 1, VI_BYTE_OFFSET = 0 };
typedef vi vi_bytes, vi_weights;

MXN_INLINE vi_bytes vi_broadcast(const uint8_t *p) {
    int32_t four;
    memcpy(&four, p, sizeof four);
    return (vi)_mm512_set1_epi32(four);
}
MXN_INLINE vi_weights vi_load_weights(const int8_t *p) { return (vi)_mm512_load_si512(p); }
MXN_INLINE vi vi_dot(vi sum, vi_bytes x, vi_weights w) {
    return (vi)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)x, (__m512i)w);
}

/* Sums of two products of 16-bit integers; a pair is in the place of a 32-bit integer. */
#define VI_PAIRS
MXN_INLINE vi vi_broadcast_pair(const int16_t *p) {
    int32_t pair;
    memcpy(&pair, p, sizeof pair);
    return (vi)_mm512_set1_epi32(pair);
}
MXN_INLINE vi vi_dot_pairs(vi sum, vi x, vi w) { return (vi)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)x, (__m512i)w); }
/* Rounds, halves to even, and clamps to 16 bits; p is aligned to half a vector. */
MXN_INLINE void vf_store_s16(int16_t *p, vf a) {
    __m256i words = _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(a));
    __asm__("" : "+x"(words)); /* the form that stores takes twice as long on Intel's CPUs */
    _mm256_store_si256((__m256i *)p, words);
}
