/* Vectors of one float: plain C for every CPU. */
enum { VF_LANES = 1, VF_REGISTERS = 16, VF_WIDENS = 0, VF_BROADCASTS = 1 };
typedef float vf;

MXN_INLINE vf vf_zero(void) { return 0.0f; }
MXN_INLINE vf vf_constant(float value) { return value; }
MXN_INLINE vf vf_load(const float *p) { return *p; }
/* The vector one float behind that at p, which is aligned; its last lane means nothing. */
MXN_INLINE vf vf_load_next(const float *p) { return p[1]; }
MXN_INLINE vf vf_load_u8(const uint8_t *p) { return *p; }
MXN_INLINE vf vf_load_s8(const int8_t *p) { return *p; }
MXN_INLINE vf vf_broadcast(const float *p) { return *p; }
#include "broadcast_load.h"
MXN_INLINE void vf_store(float *p, vf a) { *p = a; }
MXN_INLINE vf vf_add(vf a, vf b) { return a + b; }
MXN_INLINE vf vf_subtract(vf a, vf b) { return a - b; }
MXN_INLINE vf vf_multiply(vf a, vf b) { return a * b; }
MXN_INLINE vf vf_max(vf a, vf b) { return a > b ? a : b; }
/* The larger, for a ReLU: where neither is positive, anything that is not. */
MXN_INLINE vf vf_max_positive(vf a, vf b) { return vf_max(a, b); }
MXN_INLINE float vf_sum(vf a) { return a; }
MXN_INLINE vf vf_multiply_add(vf a, vf b, vf sum) { return a * b + sum; }
MXN_INLINE void vf_tap_barrier(void) {}

/* A 32-bit integer. */
typedef int32_t vi;

MXN_INLINE vi vi_zero(void) { return 0; }
MXN_INLINE vi vi_load(const int32_t *p) { return *p; }
MXN_INLINE vi vi_add(vi a, vi b) { return a + b; }
MXN_INLINE vi vi_max(vi a, vi b) { return a > b ? a : b; }
MXN_INLINE vf vi_to_float(vi a) { return (float)a; }
/* Rounds, halves to even, and clamps to bytes 0 to 255; p need not be aligned. */
MXN_INLINE void vf_store_bytes(uint8_t *p, vf a) {
    *p = a > 255 ? 255 : a > 0 ? (uint8_t)lrintf(a) : 0;
}
/* The same of two vectors, one behind the other. */
MXN_INLINE void vf_store_bytes_pair(uint8_t *p, vf a, vf b) {
    vf_store_bytes(p, a);
    vf_store_bytes(p + VF_LANES, b);
}
/* Rounds grey levels, 0 to 255, halves up, as they are common where a picture is enlarged; p need not be aligned. */
MXN_INLINE void vf_store_levels(uint8_t *p, vf a) { *p = (uint8_t)(a + 0.5f); }

/* A 16-bit integer without sign. */
enum { VH_LANES = 1 };
typedef uint16_t vh;

MXN_INLINE vh vh_zero(void) { return 0; }
MXN_INLINE vh vh_constant(uint16_t value) { return value; }
MXN_INLINE vh vh_load(const uint16_t *p) { return *p; }
MXN_INLINE vh vh_load_u8(const uint8_t *p) { return *p; }
MXN_INLINE void vh_store(uint16_t *p, vh a) { *p = a; }
MXN_INLINE vh vh_multiply_add(vh a, vh b, vh sum) { return (vh)(a * b + sum); }
/* Bytes times weights below 256. */
MXN_INLINE vh vh_multiply_add_u8(const uint8_t *p, vh weight, vh sum) { return vh_multiply_add(vh_load_u8(p), weight, sum); }
/* A vector of one has no halves and no order. */
MXN_INLINE vh vh_load_halves(const uint16_t *low, const uint16_t *high) { return (void)high, *low; }
MXN_INLINE vh vh_interleave_low(vh a, vh b) { return (void)b, a; }
MXN_INLINE vh vh_interleave_high(vh a, vh b) { return (void)a, b; }
/* Twice the same number -> all lanes. */
MXN_INLINE vh vh_repeat(const uint32_t *twice) { return (vh)*twice; }
/* The upper halves of the products. */
MXN_INLINE vh vh_multiply_high(vh a, vh b) { return (vh)(((uint32_t)a * b) >> 16); }
MXN_INLINE vh vh_add_saturated(vh a, vh b) { return (vh)(a > UINT16_MAX - b ? UINT16_MAX : a + b); }

/* A byte. A vector of one has no halves: the lower one is the first vector, the upper one the second. */
enum { VB_LANES = 1 };
typedef uint8_t vb;

MXN_INLINE vb vb_load(const uint8_t *p) { return *p; }
MXN_INLINE void vb_store(uint8_t *p, vb a) { *p = a; }
MXN_INLINE vb vb_pad_before(vb a) { return (void)a, 0; }
MXN_INLINE vb vb_pad_after(vb a) { return (void)a, 0; }
MXN_INLINE vb vb_interleave_low(vb a, vb b) { return (void)b, a; }
MXN_INLINE vb vb_interleave_high(vb a, vb b) { return (void)a, b; }
