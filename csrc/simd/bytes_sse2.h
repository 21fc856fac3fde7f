/* Vectors of sixteen bytes: SSE2, and whatever includes it. Memory need not be aligned. Over shapes.h. */
enum { VB_LANES = 16 };
typedef __m128i vb;

MXN_INLINE vb vb_load(const uint8_t *p) { return _mm_loadu_si128((const __m128i *)p); }
MXN_INLINE void vb_store(uint8_t *p, vb a) { _mm_storeu_si128((__m128i *)p, a); }
/* A vector where padding begins, or ends: lanes move up, or down, and zeros follow. */
MXN_INLINE vb vb_pad_before(vb a) { return _mm_slli_si128(a, MXN_IMAGE_PADDING); }
MXN_INLINE vb vb_pad_after(vb a) { return _mm_srli_si128(a, MXN_IMAGE_PADDING); }
/* The lower or upper halves of both vectors, lane by lane. */
MXN_INLINE vb vb_interleave_low(vb a, vb b) { return _mm_unpacklo_epi8(a, b); }
MXN_INLINE vb vb_interleave_high(vb a, vb b) { return _mm_unpackhi_epi8(a, b); }
