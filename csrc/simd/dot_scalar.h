/* Sums of four products of unsigned and signed bytes, in plain C. Over simd/scalar.h. */
enum { VI_WEIGHT_BYTES = 1, VI_BYTE_OFFSET = 0 };
typedef const uint8_t *vi_bytes;
typedef const int8_t *vi_weights;

MXN_INLINE vi_bytes vi_broadcast(const uint8_t *p) { return p; }
MXN_INLINE vi_weights vi_load_weights(const int8_t *p) { return p; }
MXN_INLINE vi vi_dot(vi sum, vi_bytes x, vi_weights w) { return sum + x[0] * w[0] + x[1] * w[1] + x[2] * w[2] + x[3] * w[3]; }
