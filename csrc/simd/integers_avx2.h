/* Vectors of sixteen 16-bit integers without sign: AVX2. Wider ones would need AVX-512BW. Memory need not be aligned. Over
 * simd/avx2.h or simd/avx512.h. */
enum { VH_LANES = 16 };
typedef __m256i vh;

MXN_INLINE vh vh_zero(void) { return _mm256_setzero_si256(); }
MXN_INLINE vh vh_constant(uint16_t value) { return _mm256_set1_epi16((short)value); }
MXN_INLINE vh vh_load(const uint16_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
MXN_INLINE vh vh_load_u8(const uint8_t *p) { return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p)); }
MXN_INLINE void vh_store(uint16_t *p, vh a) { _mm256_storeu_si256((__m256i *)p, a); }
MXN_INLINE vh vh_multiply_add(vh a, vh b, vh sum) { return _mm256_add_epi16(_mm256_mullo_epi16(a, b), sum); }
/* Bytes times weights below 256. */
MXN_INLINE vh vh_multiply_add_u8(const uint8_t *p, vh weight, vh sum) { return vh_multiply_add(vh_load_u8(p), weight, sum); }
/* Half a vector from each of two places. */
MXN_INLINE vh vh_load_halves(const uint16_t *low, const uint16_t *high) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)low)),
                                   _mm_loadu_si128((const __m128i *)high), 1);
}
/* Twice the same number -> all lanes. */
MXN_INLINE vh vh_repeat(const uint32_t *twice) { return _mm256_set1_epi32((int)*twice); }
/* Of each half of both vectors, the lower or upper half, lane by lane. */
MXN_INLINE vh vh_interleave_low(vh a, vh b) { return _mm256_unpacklo_epi16(a, b); }
MXN_INLINE vh vh_interleave_high(vh a, vh b) { return _mm256_unpackhi_epi16(a, b); }
/* The upper halves of the products. */
MXN_INLINE vh vh_multiply_high(vh a, vh b) { return _mm256_mulhi_epu16(a, b); }
MXN_INLINE vh vh_add_saturated(vh a, vh b) { return _mm256_adds_epu16(a, b); }

/* Grey of eight pixels of 3 or 4 bytes: the sum of luma[c] * byte c over c < 3, times `scale`. Reads 28 or 32 bytes. */
#define VF_LUMA 8
MXN_INLINE void vf_store_luma(float *gray, const uint8_t *pixel, const int step, const int32_t *luma, float scale) {
    const __m256i bytes = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)pixel)),
                                                  _mm_loadu_si128((const __m128i *)(pixel + 4 * step)), 1);
    const int s = step;
    /* Bytes 0 and 1 of each pixel as a pair of 16-bit integers, then byte 2 and nothing. */
    const __m256i first = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, -1, 1, -1, (char)s, -1, (char)(s + 1), -1, (char)(2 * s), -1,
                                                                    (char)(2 * s + 1), -1, (char)(3 * s), -1, (char)(3 * s + 1), -1));
    const __m256i second = _mm256_broadcastsi128_si256(_mm_setr_epi8(2, -1, -1, -1, (char)(s + 2), -1, -1, -1, (char)(2 * s + 2), -1,
                                                                     -1, -1, (char)(3 * s + 2), -1, -1, -1));
    const __m256i sum = _mm256_add_epi32(
        _mm256_madd_epi16(_mm256_shuffle_epi8(bytes, first), _mm256_set1_epi32((int)(luma[0] | luma[1] << 16))),
        _mm256_madd_epi16(_mm256_shuffle_epi8(bytes, second), _mm256_set1_epi32(luma[2])));
    _mm256_storeu_ps(gray, _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_set1_ps(scale)));
}

#include "bytes_sse2.h"
