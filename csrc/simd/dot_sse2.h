/* Sums of four products of unsigned and signed bytes, as products of 16-bit numbers that are added up in pairs to 32 bits:
 * SSE2 has no products of bytes. Over simd/sse2.h. */
enum { VI_WEIGHT_BYTES = 2, VI_BYTE_OFFSET = 0 };
typedef struct vi_pairs {
    __m128i even, odd; /* bytes 0 and 2, 1 and 3 of each four, as 16-bit numbers */
} vi_bytes, vi_weights;

MXN_INLINE vi_bytes vi_broadcast(const uint8_t *p) {
    int32_t four;
    memcpy(&four, p, sizeof four);
    const __m128i x = _mm_set1_epi32(four);
    return (vi_bytes){_mm_and_si128(x, _mm_set1_epi16(0xFF)), _mm_srli_epi16(x, 8)};
}
MXN_INLINE vi_weights vi_load_weights(const int8_t *p) {
    return (vi_weights){_mm_load_si128((const __m128i *)p), _mm_load_si128((const __m128i *)p + 1)};
}
MXN_INLINE vi vi_dot(vi sum, vi_bytes x, vi_weights w) {
    sum += (vi)_mm_madd_epi16(x.even, w.even);
    return sum + (vi)_mm_madd_epi16(x.odd, w.odd);
}

/* Sums of two products of 16-bit integers; a pair is in the place of a 32-bit integer. */
#define VI_PAIRS
MXN_INLINE vi vi_broadcast_pair(const int16_t *p) {
    int32_t pair;
    memcpy(&pair, p, sizeof pair);
    return (vi)_mm_set1_epi32(pair);
}
MXN_INLINE vi vi_dot_pairs(vi sum, vi x, vi w) { return sum + (vi)_mm_madd_epi16((__m128i)x, (__m128i)w); }
/* Rounds, halves to even, and clamps to 16 bits; p is aligned to half a vector. */
MXN_INLINE void vf_store_s16(int16_t *p, vf a) {
    const __m128i wide = _mm_cvtps_epi32(a);
    _mm_storel_epi64((__m128i *)p, _mm_packs_epi32(wide, wide));
}
