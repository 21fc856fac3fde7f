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
