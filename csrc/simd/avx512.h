/* Vectors of sixteen floats: AVX-512F. A broadcast folds into the multiply-add as a memory operand. */
enum { VF_LANES = 16, VF_REGISTERS = 32 };
typedef __m512 vf;

MXN_INLINE vf vf_zero(void) { return _mm512_setzero_ps(); }
MXN_INLINE vf vf_constant(float value) { return _mm512_set1_ps(value); }
MXN_INLINE vf vf_load(const float *p) { return _mm512_load_ps(p); }
MXN_INLINE vf vf_load_unaligned(const float *p) { return _mm512_loadu_ps(p); }
MXN_INLINE vf vf_broadcast(const float *p) { return _mm512_set1_ps(*p); }
MXN_INLINE void vf_store(float *p, vf a) { _mm512_store_ps(p, a); }
MXN_INLINE vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
MXN_INLINE vf vf_subtract(vf a, vf b) { return _mm512_sub_ps(a, b); }
MXN_INLINE vf vf_multiply(vf a, vf b) { return _mm512_mul_ps(a, b); }
MXN_INLINE vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
MXN_INLINE vf vf_multiply_add(vf a, vf b, vf sum) { return _mm512_fmadd_ps(a, b, sum); }
MXN_INLINE void vf_tap_barrier(void) { __asm__ volatile("" ::: "memory"); }
