/* Vectors of sixteen floats: AVX-512F. A broadcast folds into the multiply-add as a memory operand. */
enum { VF_LANES = 16, VF_REGISTERS = 32, VF_WIDENS = 1, VF_BROADCASTS = 1 };
typedef __m512 vf;

MXN_INLINE vf vf_zero(void) { return _mm512_setzero_ps(); }
MXN_INLINE vf vf_constant(float value) { return _mm512_set1_ps(value); }
MXN_INLINE vf vf_load(const float *p) { return _mm512_load_ps(p); }
/* The vector one float behind that at p, which is aligned; its last lane means nothing. A load would touch two cache lines. */
MXN_INLINE vf vf_load_next(const float *p) {
    const __m512i a = _mm512_load_si512(p);
    return _mm512_castsi512_ps(_mm512_alignr_epi32(a, a, 1));
}
MXN_INLINE vf vf_load_u8(const uint8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_load_si128((const __m128i *)p)));
}
MXN_INLINE vf vf_load_s8(const int8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_load_si128((const __m128i *)p)));
}
MXN_INLINE vf vf_broadcast(const float *p) { return _mm512_set1_ps(*p); }
#include "broadcast_load.h"
MXN_INLINE void vf_store(float *p, vf a) { _mm512_store_ps(p, a); }
MXN_INLINE vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
MXN_INLINE vf vf_subtract(vf a, vf b) { return _mm512_sub_ps(a, b); }
MXN_INLINE vf vf_multiply(vf a, vf b) { return _mm512_mul_ps(a, b); }
MXN_INLINE vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
MXN_INLINE float vf_sum(vf a) { return _mm512_reduce_add_ps(a); }
MXN_INLINE vf vf_multiply_add(vf a, vf b, vf sum) { return _mm512_fmadd_ps(a, b, sum); }
MXN_INLINE void vf_tap_barrier(void) { __asm__ volatile("" ::: "memory"); }

/* As many 32-bit integers. Not __m512i, which are 64-bit ones to GCC: where it changes the type of a sum, it copies and spills
 * it. */
typedef int32_t vi __attribute__((vector_size(64)));

MXN_INLINE vi vi_zero(void) { return (vi)_mm512_setzero_si512(); }
MXN_INLINE vi vi_load(const int32_t *p) { return (vi)_mm512_load_si512(p); }
MXN_INLINE vi vi_add(vi a, vi b) { return a + b; }
MXN_INLINE vi vi_max(vi a, vi b) { return (vi)_mm512_max_epi32((__m512i)a, (__m512i)b); }
/* The larger, for a ReLU: where neither is positive, anything that is not. Bits of floats are in their order then, and as
 * integers they do not compete with sums for the adders. */
MXN_INLINE vf vf_max_positive(vf a, vf b) { return (vf)vi_max((vi)a, (vi)b); }
MXN_INLINE vf vi_to_float(vi a) { return _mm512_cvtepi32_ps((__m512i)a); }
/* Rounds, halves to even, and clamps to bytes 0 to 255; p need not be aligned. */
MXN_INLINE void vf_store_bytes(uint8_t *p, vf a) {
    /* What is too large for 32 bits becomes 2^31 when taken as unsigned. */
    const __m512i wide = _mm512_cvtps_epi32(_mm512_max_ps(a, _mm512_setzero_ps()));
    _mm_storeu_si128((__m128i *)p, _mm512_cvtusepi32_epi8(wide));
}
/* The same of two vectors, one behind the other. */
MXN_INLINE void vf_store_bytes_pair(uint8_t *p, vf a, vf b) {
    vf_store_bytes(p, a);
    vf_store_bytes(p + VF_LANES, b);
}
/* Rounds grey levels, 0 to 255, halves up, as they are common where a picture is enlarged; p need not be aligned. */
MXN_INLINE void vf_store_levels(uint8_t *p, vf a) {
    const __m512i wide = _mm512_cvttps_epi32(_mm512_add_ps(a, _mm512_set1_ps(0.5f)));
    _mm_storeu_si128((__m128i *)p, _mm512_cvtusepi32_epi8(wide));
}

#include "integers_avx2.h"
