/* Pairs of bfloat16 in the place of a float: AVX512_BF16. Over simd/avx512.h. */
#define VF_PAIRS

/* Rounds sixteen floats to eight pairs; p is aligned to half a vector. */
MXN_INLINE void vf_store_pairs(float *p, vf a) { _mm256_store_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh(a)); }
/* Adds both products of a pair to a float. */
MXN_INLINE vf vf_dot_pairs(vf a, vf b, vf sum) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }
