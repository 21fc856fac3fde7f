/* Vectors of four floats: SSE2, the baseline of x86-64. No fused multiply-add, no broadcasting load. */
enum { VF_LANES = 4, VF_REGISTERS = 16 };
typedef __m128 vf;

MXN_INLINE vf vf_zero(void) { return _mm_setzero_ps(); }
MXN_INLINE vf vf_constant(float value) { return _mm_set1_ps(value); }
MXN_INLINE vf vf_load(const float *p) { return _mm_load_ps(p); }
MXN_INLINE vf vf_load_unaligned(const float *p) { return _mm_loadu_ps(p); }
MXN_INLINE vf vf_broadcast(const float *p) { return _mm_load1_ps(p); }
MXN_INLINE void vf_store(float *p, vf a) { _mm_store_ps(p, a); }
MXN_INLINE vf vf_add(vf a, vf b) { return _mm_add_ps(a, b); }
MXN_INLINE vf vf_subtract(vf a, vf b) { return _mm_sub_ps(a, b); }
MXN_INLINE vf vf_multiply(vf a, vf b) { return _mm_mul_ps(a, b); }
MXN_INLINE vf vf_max(vf a, vf b) { return _mm_max_ps(a, b); }
MXN_INLINE vf vf_multiply_add(vf a, vf b, vf sum) { return _mm_add_ps(_mm_mul_ps(a, b), sum); }
MXN_INLINE void vf_tap_barrier(void) { __asm__ volatile("" ::: "memory"); }
