/* Vectors of one float: plain C for every CPU. */
enum { VF_LANES = 1, VF_REGISTERS = 16 };
typedef float vf;

MXN_INLINE vf vf_zero(void) { return 0.0f; }
MXN_INLINE vf vf_constant(float value) { return value; }
MXN_INLINE vf vf_load(const float *p) { return *p; }
MXN_INLINE vf vf_load_unaligned(const float *p) { return *p; }
MXN_INLINE vf vf_broadcast(const float *p) { return *p; }
MXN_INLINE void vf_store(float *p, vf a) { *p = a; }
MXN_INLINE vf vf_add(vf a, vf b) { return a + b; }
MXN_INLINE vf vf_subtract(vf a, vf b) { return a - b; }
MXN_INLINE vf vf_multiply(vf a, vf b) { return a * b; }
MXN_INLINE vf vf_max(vf a, vf b) { return a > b ? a : b; }
MXN_INLINE vf vf_multiply_add(vf a, vf b, vf sum) { return a * b + sum; }
MXN_INLINE void vf_tap_barrier(void) {}
