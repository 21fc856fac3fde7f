/* Vectors of four floats: SSE2, the baseline of x86-64. No fused multiply-add, no broadcasting load. */
enum { VF_LANES = 4, VF_REGISTERS = 16, VF_WIDENS = 0, VF_BROADCASTS = 0 };
typedef __m128 vf;

MXN_INLINE vf vf_zero(void) { return _mm_setzero_ps(); }
MXN_INLINE vf vf_constant(float value) { return _mm_set1_ps(value); }
MXN_INLINE vf vf_load(const float *p) { return _mm_load_ps(p); }
/* The vector one float behind that at p, which is aligned; its last lane means nothing. */
MXN_INLINE vf vf_load_next(const float *p) { return _mm_loadu_ps(p + 1); }
MXN_INLINE vf vf_load_u8(const uint8_t *p) {
    int32_t bytes;
    memcpy(&bytes, p, sizeof bytes);
    const __m128i words = _mm_unpacklo_epi8(_mm_cvtsi32_si128(bytes), _mm_setzero_si128());
    return _mm_cvtepi32_ps(_mm_unpacklo_epi16(words, _mm_setzero_si128()));
}
/* Each byte goes to the top of its 32 bits and is shifted down with its sign. */
MXN_INLINE vf vf_load_s8(const int8_t *p) {
    int32_t bytes;
    memcpy(&bytes, p, sizeof bytes);
    const __m128i words = _mm_unpacklo_epi8(_mm_setzero_si128(), _mm_cvtsi32_si128(bytes));
    return _mm_cvtepi32_ps(_mm_srai_epi32(_mm_unpacklo_epi16(_mm_setzero_si128(), words), 24));
}
MXN_INLINE vf vf_broadcast(const float *p) { return _mm_load1_ps(p); }
/* Four neighbouring floats for vf_broadcast_lane(), which is a shuffle. p: aligned. */
typedef __m128i vf_four;
MXN_INLINE vf_four vf_load_four(const float *p) { return _mm_load_si128((const __m128i *)p); }
MXN_INLINE vf vf_broadcast_lane(vf_four a, int lane) {
    return _mm_castsi128_ps(lane == 0   ? _mm_shuffle_epi32(a, 0x00)
                            : lane == 1 ? _mm_shuffle_epi32(a, 0x55)
                            : lane == 2 ? _mm_shuffle_epi32(a, 0xAA)
                                        : _mm_shuffle_epi32(a, 0xFF));
}
MXN_INLINE void vf_store(float *p, vf a) { _mm_store_ps(p, a); }
MXN_INLINE vf vf_add(vf a, vf b) { return _mm_add_ps(a, b); }
MXN_INLINE vf vf_subtract(vf a, vf b) { return _mm_sub_ps(a, b); }
MXN_INLINE vf vf_multiply(vf a, vf b) { return _mm_mul_ps(a, b); }
MXN_INLINE vf vf_max(vf a, vf b) { return _mm_max_ps(a, b); }
/* The larger, for a ReLU: where neither is positive, anything that is not. */
MXN_INLINE vf vf_max_positive(vf a, vf b) { return vf_max(a, b); }
MXN_INLINE float vf_sum(vf a) {
    a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(a, _mm_shuffle_ps(a, a, 1)));
}
MXN_INLINE vf vf_multiply_add(vf a, vf b, vf sum) { return _mm_add_ps(_mm_mul_ps(a, b), sum); }
MXN_INLINE void vf_tap_barrier(void) { __asm__ volatile("" ::: "memory"); }

/* As many 32-bit integers. Not __m128i, which are 64-bit ones to GCC: where it changes the type of a sum, it copies and spills
 * it. */
typedef int32_t vi __attribute__((vector_size(16)));

MXN_INLINE vi vi_zero(void) { return (vi)_mm_setzero_si128(); }
MXN_INLINE vi vi_load(const int32_t *p) { return (vi)_mm_load_si128((const __m128i *)p); }
MXN_INLINE vi vi_add(vi a, vi b) { return a + b; }
MXN_INLINE vi vi_max(vi a, vi b) {
    const vi larger = a > b;
    return (a & larger) | (b & ~larger);
}
MXN_INLINE vf vi_to_float(vi a) { return _mm_cvtepi32_ps((__m128i)a); }
/* Rounds, halves to even, and clamps to bytes 0 to 255; p need not be aligned. */
MXN_INLINE void vf_store_bytes(uint8_t *p, vf a) {
    const __m128i wide = _mm_cvtps_epi32(_mm_min_ps(a, _mm_set1_ps(255.0f))), words = _mm_packs_epi32(wide, wide);
    const int32_t bytes = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));
    memcpy(p, &bytes, sizeof bytes);
}
/* The same of two vectors, one behind the other. */
MXN_INLINE void vf_store_bytes_pair(uint8_t *p, vf a, vf b) {
    const vf most = _mm_set1_ps(255.0f);
    const __m128i words = _mm_packs_epi32(_mm_cvtps_epi32(_mm_min_ps(a, most)), _mm_cvtps_epi32(_mm_min_ps(b, most)));
    _mm_storel_epi64((__m128i *)p, _mm_packus_epi16(words, words));
}
/* Rounds grey levels, 0 to 255, halves up, as they are common where a picture is enlarged; p need not be aligned. */
MXN_INLINE void vf_store_levels(uint8_t *p, vf a) {
    const __m128i wide = _mm_cvttps_epi32(_mm_add_ps(a, _mm_set1_ps(0.5f))), words = _mm_packs_epi32(wide, wide);
    const int32_t bytes = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));
    memcpy(p, &bytes, sizeof bytes);
}

/* Eight 16-bit integers without sign; p need not be aligned. */
enum { VH_LANES = 8 };
typedef __m128i vh;

MXN_INLINE vh vh_zero(void) { return _mm_setzero_si128(); }
MXN_INLINE vh vh_constant(uint16_t value) { return _mm_set1_epi16((short)value); }
MXN_INLINE vh vh_load(const uint16_t *p) { return _mm_loadu_si128((const __m128i *)p); }
MXN_INLINE vh vh_load_u8(const uint8_t *p) {
    return _mm_unpacklo_epi8(_mm_loadl_epi64((const __m128i *)p), _mm_setzero_si128());
}
MXN_INLINE void vh_store(uint16_t *p, vh a) { _mm_storeu_si128((__m128i *)p, a); }
MXN_INLINE vh vh_multiply_add(vh a, vh b, vh sum) { return _mm_add_epi16(_mm_mullo_epi16(a, b), sum); }
/* Bytes times weights below 256. */
MXN_INLINE vh vh_multiply_add_u8(const uint8_t *p, vh weight, vh sum) { return vh_multiply_add(vh_load_u8(p), weight, sum); }
/* Both places are the same: half a vector is all of it. */
MXN_INLINE vh vh_load_halves(const uint16_t *low, const uint16_t *high) {
    (void)high;
    return vh_load(low);
}
/* Twice the same number -> all lanes. */
MXN_INLINE vh vh_repeat(const uint32_t *twice) { return _mm_set1_epi32((int)*twice); }
/* The lower or upper halves of both vectors, lane by lane. */
MXN_INLINE vh vh_interleave_low(vh a, vh b) { return _mm_unpacklo_epi16(a, b); }
MXN_INLINE vh vh_interleave_high(vh a, vh b) { return _mm_unpackhi_epi16(a, b); }
/* The upper halves of the products. */
MXN_INLINE vh vh_multiply_high(vh a, vh b) { return _mm_mulhi_epu16(a, b); }
MXN_INLINE vh vh_add_saturated(vh a, vh b) { return _mm_adds_epu16(a, b); }

#include "bytes_sse2.h"
