/* Vectors of sixteen 16-bit integers without sign: AVX2. Wider ones would need AVX-512BW. Memory need not be aligned. */
enum { VH_LANES = 16 };
typedef __m256i vh;

MXN_INLINE vh vh_zero(void) { return _mm256_setzero_si256(); }
MXN_INLINE vh vh_constant(uint16_t value) { return _mm256_set1_epi16((short)value); }
MXN_INLINE vh vh_load(const uint16_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
MXN_INLINE vh vh_load_u8(const uint8_t *p) { return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p)); }
MXN_INLINE void vh_store(uint16_t *p, vh a) { _mm256_storeu_si256((__m256i *)p, a); }
MXN_INLINE vh vh_multiply_add(vh a, vh b, vh sum) { return _mm256_add_epi16(_mm256_mullo_epi16(a, b), sum); }
