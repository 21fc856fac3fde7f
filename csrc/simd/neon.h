/* Vectors of four floats: AArch64 Advanced SIMD (NEON), with fused multiply-add. */
enum { VF_LANES = 4, VF_REGISTERS = 32 };
typedef float32x4_t vf;

MXN_INLINE vf vf_zero(void) { return vdupq_n_f32(0.0f); }
MXN_INLINE vf vf_constant(float value) { return vdupq_n_f32(value); }
MXN_INLINE vf vf_load(const float *p) { return vld1q_f32(p); }
MXN_INLINE vf vf_load_unaligned(const float *p) { return vld1q_f32(p); }
MXN_INLINE vf vf_broadcast(const float *p) { return vld1q_dup_f32(p); }
MXN_INLINE void vf_store(float *p, vf a) { vst1q_f32(p, a); }
MXN_INLINE vf vf_add(vf a, vf b) { return vaddq_f32(a, b); }
MXN_INLINE vf vf_subtract(vf a, vf b) { return vsubq_f32(a, b); }
MXN_INLINE vf vf_multiply(vf a, vf b) { return vmulq_f32(a, b); }
MXN_INLINE vf vf_max(vf a, vf b) { return vmaxq_f32(a, b); }
MXN_INLINE vf vf_multiply_add(vf a, vf b, vf sum) { return vfmaq_f32(sum, a, b); }
MXN_INLINE void vf_tap_barrier(void) { __asm__ volatile("" ::: "memory"); }
