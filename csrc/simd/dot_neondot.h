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

/* The same of the quad at p + offset, a lane of a vector that other quads share: it begins offset % 4 bytes behind p, or
 * behind a whole number of vectors. Where `narrow` it has two lanes only, so that no more than 8 bytes are read. */
#define VI_DOTS_LANES
MXN_INLINE vi vi_dot_lane(vi sum, const uint8_t *p, const int offset, const bool narrow, vi_weights w) {
    const int lane = offset % 16 / 4;
    p += offset / 16 * 16 + offset % 4;
    if (narrow) {
        const int8x8_t x = vreinterpret_s8_u8(veor_u8(vld1_u8(p), vdup_n_u8(0x80)));
        return lane == 0 ? vdotq_lane_s32(sum, w, x, 0) : vdotq_lane_s32(sum, w, x, 1);
    }
    const int8x16_t x = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(p), vdupq_n_u8(0x80)));
    return lane == 0   ? vdotq_laneq_s32(sum, w, x, 0)
           : lane == 1 ? vdotq_laneq_s32(sum, w, x, 1)
           : lane == 2 ? vdotq_laneq_s32(sum, w, x, 2)
                       : vdotq_laneq_s32(sum, w, x, 3);
}
