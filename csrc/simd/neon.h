/* Vectors of four floats: Advanced SIMD (NEON) of 64-bit and 32-bit ARM, with fused multiply-add. The latter has half the
 * registers, sees subnormal numbers as zero, and rounds to integers towards zero only. */
#if defined(__aarch64__)
enum { VF_LANES = 4, VF_REGISTERS = 32, VF_WIDENS = 1, VF_BROADCASTS = 0 };
#else
enum { VF_LANES = 4, VF_REGISTERS = 16, VF_WIDENS = 1, VF_BROADCASTS = 1 };
#endif
typedef float32x4_t vf;

MXN_INLINE vf vf_zero(void) { return vdupq_n_f32(0.0f); }
MXN_INLINE vf vf_constant(float value) { return vdupq_n_f32(value); }
MXN_INLINE vf vf_load(const float *p) { return vld1q_f32(p); }
/* The vector one float behind that at p, which is aligned; its last lane means nothing. */
MXN_INLINE vf vf_load_next(const float *p) { return vld1q_f32(p + 1); }
MXN_INLINE vf vf_load_u8(const uint8_t *p) {
    uint32_t bytes;
    memcpy(&bytes, p, sizeof bytes);
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(bytes)))));
}
MXN_INLINE vf vf_load_s8(const int8_t *p) {
    uint32_t bytes;
    memcpy(&bytes, p, sizeof bytes);
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(bytes)))));
}
MXN_INLINE vf vf_broadcast(const float *p) { return vld1q_dup_f32(p); }
#if defined(__aarch64__)
/* Four neighbouring floats for vf_broadcast_lane(), which is part of a multiply-add. */
typedef vf vf_four;
MXN_INLINE vf_four vf_load_four(const float *p) { return vf_load(p); }
MXN_INLINE vf vf_broadcast_lane(vf_four a, int lane) {
    return lane == 0   ? vdupq_laneq_f32(a, 0)
           : lane == 1 ? vdupq_laneq_f32(a, 1)
           : lane == 2 ? vdupq_laneq_f32(a, 2)
                       : vdupq_laneq_f32(a, 3);
}
#else
#include "broadcast_load.h"
#endif
MXN_INLINE void vf_store(float *p, vf a) { vst1q_f32(p, a); }
MXN_INLINE vf vf_add(vf a, vf b) { return vaddq_f32(a, b); }
MXN_INLINE vf vf_subtract(vf a, vf b) { return vsubq_f32(a, b); }
MXN_INLINE vf vf_multiply(vf a, vf b) { return vmulq_f32(a, b); }
MXN_INLINE vf vf_max(vf a, vf b) { return vmaxq_f32(a, b); }
/* The larger, for a ReLU: where neither is positive, anything that is not. */
MXN_INLINE vf vf_max_positive(vf a, vf b) { return vf_max(a, b); }
MXN_INLINE float vf_sum(vf a) {
    const float32x2_t sum = vadd_f32(vget_low_f32(a), vget_high_f32(a));
    return vget_lane_f32(vpadd_f32(sum, sum), 0);
}
#if defined(__clang__)
/* arm_neon.h of Clang has no vfmaq_f32 where not the whole file may use it. */
MXN_INLINE vf vf_multiply_add(vf a, vf b, vf sum) { return __builtin_elementwise_fma(a, b, sum); }
#else
MXN_INLINE vf vf_multiply_add(vf a, vf b, vf sum) { return vfmaq_f32(sum, a, b); }
#endif
MXN_INLINE void vf_tap_barrier(void) { __asm__ volatile("" ::: "memory"); }

/* As many 32-bit integers. */
typedef int32x4_t vi;

MXN_INLINE vi vi_zero(void) { return vdupq_n_s32(0); }
MXN_INLINE vi vi_load(const int32_t *p) { return vld1q_s32(p); }
MXN_INLINE vi vi_add(vi a, vi b) { return vaddq_s32(a, b); }
MXN_INLINE vi vi_max(vi a, vi b) { return vmaxq_s32(a, b); }
MXN_INLINE vf vi_to_float(vi a) { return vcvtq_f32_s32(a); }
MXN_INLINE uint16x4_t vf_to_words(vf a) {
#if defined(__aarch64__)
    const uint32x4_t wide = vcvtnq_u32_f32(a);
#else
    /* Added to 1.5 * 2^23, a small number is rounded to an integer in the last bits of the sum. */
    const vf magic = vdupq_n_f32(12582912.0f), small = vminq_f32(vmaxq_f32(a, vdupq_n_f32(0.0f)), vdupq_n_f32(255.0f));
    const uint32x4_t wide = vandq_u32(vreinterpretq_u32_f32(vaddq_f32(small, magic)), vdupq_n_u32(0xFF));
#endif
    return vqmovn_u32(wide);
}
/* Rounds, halves to even, and clamps to bytes 0 to 255; p need not be aligned. */
MXN_INLINE void vf_store_bytes(uint8_t *p, vf a) {
    const uint16x4_t words = vf_to_words(a);
    const uint32_t bytes = vget_lane_u32(vreinterpret_u32_u8(vqmovn_u16(vcombine_u16(words, words))), 0);
    memcpy(p, &bytes, sizeof bytes);
}
/* The same of two vectors, one behind the other. */
MXN_INLINE void vf_store_bytes_pair(uint8_t *p, vf a, vf b) {
    vst1_u8(p, vqmovn_u16(vcombine_u16(vf_to_words(a), vf_to_words(b))));
}
/* Rounds grey levels, 0 to 255, halves up, as they are common where a picture is enlarged; p need not be aligned. */
MXN_INLINE void vf_store_levels(uint8_t *p, vf a) {
    const uint16x4_t words = vqmovn_u32(vcvtq_u32_f32(vaddq_f32(a, vdupq_n_f32(0.5f))));
    const uint32_t bytes = vget_lane_u32(vreinterpret_u32_u8(vqmovn_u16(vcombine_u16(words, words))), 0);
    memcpy(p, &bytes, sizeof bytes);
}

/* Eight 16-bit integers without sign. */
enum { VH_LANES = 8 };
typedef uint16x8_t vh;

MXN_INLINE vh vh_zero(void) { return vdupq_n_u16(0); }
MXN_INLINE vh vh_constant(uint16_t value) { return vdupq_n_u16(value); }
MXN_INLINE vh vh_load(const uint16_t *p) { return vld1q_u16(p); }
MXN_INLINE vh vh_load_u8(const uint8_t *p) { return vmovl_u8(vld1_u8(p)); }
MXN_INLINE void vh_store(uint16_t *p, vh a) { vst1q_u16(p, a); }
MXN_INLINE vh vh_multiply_add(vh a, vh b, vh sum) { return vmlaq_u16(sum, a, b); }
/* Bytes times weights below 256. */
MXN_INLINE vh vh_multiply_add_u8(const uint8_t *p, vh weight, vh sum) { return vmlal_u8(sum, vld1_u8(p), vmovn_u16(weight)); }
/* Both places are the same: half a vector is all of it. */
MXN_INLINE vh vh_load_halves(const uint16_t *low, const uint16_t *high) {
    (void)high;
    return vh_load(low);
}
/* Twice the same number -> all lanes. */
MXN_INLINE vh vh_repeat(const uint32_t *twice) { return vreinterpretq_u16_u32(vdupq_n_u32(*twice)); }
/* The lower or upper halves of both vectors, lane by lane. */
MXN_INLINE vh vh_interleave_low(vh a, vh b) { return vzipq_u16(a, b).val[0]; }
MXN_INLINE vh vh_interleave_high(vh a, vh b) { return vzipq_u16(a, b).val[1]; }
/* The upper halves of the products. */
MXN_INLINE vh vh_multiply_high(vh a, vh b) {
    return vuzpq_u16(vreinterpretq_u16_u32(vmull_u16(vget_low_u16(a), vget_low_u16(b))),
                     vreinterpretq_u16_u32(vmull_u16(vget_high_u16(a), vget_high_u16(b)))).val[1];
}
MXN_INLINE vh vh_add_saturated(vh a, vh b) { return vqaddq_u16(a, b); }

/* Grey of sixteen pixels of 3 or 4 bytes: the sum of luma[c] * byte c over c < 3, times `scale`, 2^-14. */
#define VF_LUMA 16
MXN_INLINE void vf_store_luma(float *gray, const uint8_t *pixel, const int step, const int32_t *luma, float scale) {
    (void)scale;
    uint8x16_t channel[3];
    if (step == 3) {
        const uint8x16x3_t pixels = vld3q_u8(pixel);
        channel[0] = pixels.val[0], channel[1] = pixels.val[1], channel[2] = pixels.val[2];
    } else {
        const uint8x16x4_t pixels = vld4q_u8(pixel);
        channel[0] = pixels.val[0], channel[1] = pixels.val[1], channel[2] = pixels.val[2];
    }
    uint32x4_t sum[4];
#pragma GCC unroll 3
    for (int c = 0; c < 3; c++) {
        const uint16x4_t weight = vdup_n_u16((uint16_t)luma[c]);
        const uint16x8_t low = vmovl_u8(vget_low_u8(channel[c])), high = vmovl_u8(vget_high_u8(channel[c]));
        const uint16x4_t part[4] = {vget_low_u16(low), vget_high_u16(low), vget_low_u16(high), vget_high_u16(high)};
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) sum[i] = c == 0 ? vmull_u16(part[i], weight) : vmlal_u16(sum[i], part[i], weight);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) vst1q_f32(gray + 4 * i, vcvtq_n_f32_u32(sum[i], 14));
}

/* Sixteen bytes; p need not be aligned. */
enum { VB_LANES = 16 };
typedef uint8x16_t vb;

MXN_INLINE vb vb_load(const uint8_t *p) { return vld1q_u8(p); }
MXN_INLINE void vb_store(uint8_t *p, vb a) { vst1q_u8(p, a); }
/* A vector where padding begins, or ends: lanes move up, or down, and zeros follow. */
MXN_INLINE vb vb_pad_before(vb a) { return vextq_u8(vdupq_n_u8(0), a, VB_LANES - MXN_IMAGE_PADDING); }
MXN_INLINE vb vb_pad_after(vb a) { return vextq_u8(a, vdupq_n_u8(0), MXN_IMAGE_PADDING); }
/* The lower or upper halves of both vectors, lane by lane. */
MXN_INLINE vb vb_interleave_low(vb a, vb b) { return vzipq_u8(a, b).val[0]; }
MXN_INLINE vb vb_interleave_high(vb a, vb b) { return vzipq_u8(a, b).val[1]; }
