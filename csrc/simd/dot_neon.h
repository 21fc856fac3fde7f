/* Sums of four products of unsigned and signed bytes: one product fits 16 bits, two are added up to 32. Over simd/neon.h. */
enum { VI_WEIGHT_BYTES = 2, VI_BYTE_OFFSET = 0 };
typedef struct vi_pairs {
    int16x8_t even, odd; /* bytes 0 and 2, 1 and 3 of each four, as 16-bit numbers */
} vi_bytes, vi_weights;

MXN_INLINE vi_bytes vi_broadcast(const uint8_t *p) {
    uint32_t four;
    memcpy(&four, p, sizeof four);
    const uint16x8_t x = vreinterpretq_u16_u32(vdupq_n_u32(four));
    return (vi_bytes){vreinterpretq_s16_u16(vandq_u16(x, vdupq_n_u16(0xFF))), vreinterpretq_s16_u16(vshrq_n_u16(x, 8))};
}
MXN_INLINE vi_weights vi_load_weights(const int8_t *p) {
    return (vi_weights){vreinterpretq_s16_s8(vld1q_s8(p)), vreinterpretq_s16_s8(vld1q_s8(p + 16))};
}
MXN_INLINE vi vi_dot(vi sum, vi_bytes x, vi_weights w) {
    sum = vpadalq_s16(sum, vmulq_s16(x.even, w.even));
    return vpadalq_s16(sum, vmulq_s16(x.odd, w.odd));
}
