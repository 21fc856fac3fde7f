/* Vectors of eight floats: AVX2 with FMA. */
enum { VF_LANES = 8, VF_REGISTERS = 16 };
typedef __m256 vf;

MXN_INLINE vf vf_zero(void) { return _mm256_setzero_ps(); }
MXN_INLINE vf vf_constant(float value) { return _mm256_set1_ps(value); }
MXN_INLINE vf vf_load(const float *p) { return _mm256_load_ps(p); }
MXN_INLINE vf vf_load_unaligned(const float *p) { return _mm256_loadu_ps(p); }
MXN_INLINE vf vf_broadcast(const float *p) { return _mm256_broadcast_ss(p); }
MXN_INLINE void vf_store(float *p, vf a) { _mm256_store_ps(p, a); }
MXN_INLINE vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
MXN_INLINE vf vf_subtract(vf a, vf b) { return _mm256_sub_ps(a, b); }
MXN_INLINE vf vf_multiply(vf a, vf b) { return _mm256_mul_ps(a, b); }
MXN_INLINE vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
MXN_INLINE vf vf_multiply_add(vf a, vf b, vf sum) { return _mm256_fmadd_ps(a, b, sum); }
MXN_INLINE void vf_tap_barrier(void) { __asm__ volatile("" ::: "memory"); }
