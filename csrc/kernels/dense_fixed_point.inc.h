/* fc1 of a float32 model whose weights are whole numbers times a scale, by products of bytes. Over simd/ and shapes.h.
 *
 *     weight: see int8.inc.h      src: face-in, not negative      bytes: face-digit-quad-4      dst: face-block-16 outputs
 *
 * The four inputs of a quad are a quarter of all inputs apart (pack.c), so that their digits come together without a shuffle.
 * The inputs of a face become fixed-point numbers of three digits to the base 256, and every digit has a sum of its own: three
 * dot products for weights that are used as they lie in memory, where fc1_s8 takes four multiply-adds and first makes them
 * floats. Sums of whole numbers are exact. An input loses less than 2^-23 of the face's largest, which is no more than what
 * a sum of floats is rounded by.
 */

enum {
    FIXED_POINT_DIGITS = 3,
    FIXED_POINT_PREFERRED = VI_WEIGHT_BYTES == 1 && VF_LANES > 1, /* products of bytes are one instruction */
    FIXED_POINT_SHARES = VF_LANES >= 16,                          /* faces share each load of their weights */
    /* At a time: 3 faces × 3 digits × 3 blocks are 27 sums of 16 lanes; 3 digits × 2 blocks are 12 sums of 8 lanes or 24 of
     * 4. Beside them the registers hold one weight, and the digits of a face. */
    FIXED_POINT_BLOCKS = VF_LANES >= 16 ? 3 : 2,
    FIXED_POINT_VECTORS = MXN_DENSE_BLOCK / VF_LANES,
};
_Static_assert(MXN_DENSE_FACES * FIXED_POINT_DIGITS * MXN_FLAT_MAX <= MXN_SCRATCH * sizeof(float),
               "the scratch memory holds the bytes");

/* Splits one face into digits, the lowest first; returns what a unit of the lowest is worth. */
static float fixed_point_split(const float *restrict src, const int inputs, uint8_t *bytes) {
    union number {
        float value;
        int32_t bits;
    };
    /* The bits of floats that are not negative are in the order of their values. */
    int32_t largest = 0;
    for (int i = 0; i < inputs; i++) {
        const union number input = {src[i]};
        largest = input.bits > largest ? input.bits : largest;
    }
    /* The largest becomes 2^23 to 2^24 - 1; what overflowed counts as the largest float, and nothing as denormal. */
    enum { BIAS = 127, TOP = 23, LEAST = TOP + 1, MOST = 2 * BIAS };
    int exponent = largest >> TOP;
    exponent = exponent < LEAST ? LEAST : exponent > MOST ? MOST : exponent;
    const union number scale = {.bits = (2 * BIAS + TOP - exponent) << TOP}, unit = {.bits = (exponent - TOP) << TOP};
    const int quads = inputs / 4;
    int32_t *restrict low = (int32_t *)bytes, *restrict middle = low + quads, *restrict high = middle + quads;
    for (int k = 0; k < quads; k++) {
        uint32_t number[4];
        for (int i = 0; i < 4; i++) {
            const float value = src[k + i * quads];
            number[i] = (uint32_t)(int32_t)((value < FLT_MAX ? value : FLT_MAX) * scale.value);
        }
        /* Little-endian: the first input's digit is the lowest byte. */
        const uint32_t a = number[0], b = number[1], c = number[2], d = number[3];
        low[k] = (int32_t)((a & 0xFF) | (b & 0xFF) << 8 | (c & 0xFF) << 16 | d << 24);
        middle[k] = (int32_t)((a >> 8 & 0xFF) | (b & 0xFF00) | (c & 0xFF00) << 8 | (d & 0xFF00) << 16);
        high[k] = (int32_t)(a >> 16 | (b >> 8 & 0xFF00) | (c & 0xFF0000) | (d & 0xFF0000) << 8);
    }
    return unit.value;
}

/* `blocks` blocks from `first` on, of `faces` faces. */
MXN_INLINE void fixed_point_blocks(const mxn_int8_layer *layer, const uint8_t *bytes, const int inputs, const float *unit,
                                   const int first, float *dst, const int dst_pitch, const int blocks, const int faces) {
    const int quads = inputs / 4;
    const int8_t *weight = (const int8_t *)layer->weight + int8_place(quads, first * MXN_DENSE_BLOCK);
    vi sum[MXN_DENSE_FACES][FIXED_POINT_DIGITS][FIXED_POINT_BLOCKS * FIXED_POINT_VECTORS];
#pragma GCC unroll 3
    for (int f = 0; f < faces; f++)
#pragma GCC unroll 3
        for (int d = 0; d < FIXED_POINT_DIGITS; d++)
#pragma GCC unroll 8
            for (int v = 0; v < blocks * FIXED_POINT_VECTORS; v++)
                sum[f][d][v] = vi_load(layer->start + first * MXN_DENSE_BLOCK + v * VF_LANES);
    for (int k = 0; k < quads; k++, weight += INT8_QUAD, bytes += 4) {
        vf_tap_barrier();
#pragma GCC unroll 3
        for (int f = 0; f < faces; f++) {
            vi_bytes digit[FIXED_POINT_DIGITS];
#pragma GCC unroll 3
            for (int d = 0; d < FIXED_POINT_DIGITS; d++) digit[d] = vi_broadcast(bytes + (f * FIXED_POINT_DIGITS + d) * inputs);
#pragma GCC unroll 8
            for (int v = 0; v < blocks * FIXED_POINT_VECTORS; v++) {
                const vi_weights w = vi_load_weights(weight + int8_place(quads, v * VF_LANES));
#pragma GCC unroll 3
                for (int d = 0; d < FIXED_POINT_DIGITS; d++) sum[f][d][v] = vi_dot(sum[f][d][v], digit[d], w);
            }
        }
    }
#pragma GCC unroll 3
    for (int f = 0; f < faces; f++)
#pragma GCC unroll 8
        for (int v = 0; v < blocks * FIXED_POINT_VECTORS; v++) {
            const int output = first * MXN_DENSE_BLOCK + v * VF_LANES;
            vf total = vf_multiply_add(vf_constant(256), vi_to_float(sum[f][1][v]), vi_to_float(sum[f][0][v]));
            total = vf_multiply_add(vf_constant(65536), vi_to_float(sum[f][2][v]), total);
            total = vf_multiply_add(vf_multiply(total, vf_constant(unit[f])), vf_load(layer->scale + output),
                                    vf_load(layer->bias + output));
            vf_store(dst + f * dst_pitch + output, vf_max(total, vf_zero()));
        }
}

/* Of `faces` faces, all that there are or one. */
MXN_INLINE void fixed_point_faces(const mxn_int8_layer *layer, const float *src, const int src_pitch, const int inputs,
                                  const int blocks, float *dst, const int dst_pitch, uint8_t *bytes, const int faces) {
    float unit[MXN_DENSE_FACES];
    for (int f = 0; f < faces; f++)
        unit[f] = fixed_point_split(src + f * src_pitch, inputs, bytes + f * FIXED_POINT_DIGITS * inputs);
    int b = 0;
    for (; b + FIXED_POINT_BLOCKS <= blocks; b += FIXED_POINT_BLOCKS)
        fixed_point_blocks(layer, bytes, inputs, unit, b, dst, dst_pitch, FIXED_POINT_BLOCKS, faces);
    for (; b < blocks; b++) fixed_point_blocks(layer, bytes, inputs, unit, b, dst, dst_pitch, 1, faces);
}

static void fc1_fixed_point(const mxn_int8_layer *layer, const float *src, int src_pitch, int inputs, int blocks, float *dst,
                            int dst_pitch, int faces, void *scratch) {
    if (FIXED_POINT_SHARES && faces == MXN_DENSE_FACES) {
        fixed_point_faces(layer, src, src_pitch, inputs, blocks, dst, dst_pitch, scratch, MXN_DENSE_FACES);
        return;
    }
    for (int f = 0; f < faces; f++)
        fixed_point_faces(layer, src + f * src_pitch, src_pitch, inputs, blocks, dst + f * dst_pitch, dst_pitch, scratch, 1);
}
