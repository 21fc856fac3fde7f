/* Sums of four products of signed bytes: the dot products of ARMv8.2. Data are shifted to -128..127, and the sums start at
 * 128 times the sum of the weights. Over simd/neon.h. */
enum { VI_WEIGHT_BYTES = 1, VI_BYTE_OFFSET = 128 };
typedef int8x16_t vi_bytes, vi_weights;

MXN_INLINE vi_bytes vi_broadcast(const uint8_t *p) {
    uint32_t four;
    memcpy(&four, p, sizeof four);
    return vreinterpretq_s8_u8(veorq_u8(vreinterpretq_u8_u32(vdupq_n_u32(four)), vdupq_n_u8(0x80)));
}
MXN_INLINE vi_weights vi_load_weights(const int8_t *p) { return vld1q_s8(p); }
MXN_INLINE vi vi_dot(vi sum, vi_bytes x, vi_weights w) { return vdotq_s32(sum, x, w); }
