/* Fully connected layer, outputs in blocks of 16, for up to MXN_DENSE_FACES faces. Over simd/ and shapes.h.
 *
 *     weight: block-in-16 outputs      src: face-in      dst: face-block-16 outputs
 *
 * One face takes `src_pitch` floats of src, of which the first `inputs`, a multiple of 16, count, and `dst_pitch` of dst.
 *
 * The weights are read once, front to back, and are the whole cost: as floats they do not fit the first-level cache, and
 * after the caches were used for something else they come from afar. Quantised weights are therefore kept as bytes and
 * made floats on the way; all that is added to the work is the scale of each output at the end. Several inputs are summed
 * apart from each other, so that the additions do not wait for one another. With many registers several faces share each
 * weight; every face is summed in the order in which it would be alone.
 */

enum {
    DENSE_PREFERS_S8 = VF_WIDENS && VF_REGISTERS >= 32,
    DENSE_VECTORS = MXN_DENSE_BLOCK / VF_LANES,
    DENSE_CHAINS = VF_LANES >= 16 ? 8 : VF_LANES >= 8 || VF_REGISTERS >= 32 ? 4 : VF_LANES >= 4 ? 2 : 1,
    DENSE_SHARES = VF_LANES >= 16, /* 3 faces × 8 chains, one weight and one broadcast fit 32 registers */
};

typedef struct dense_layer {
    const void *weight; /* int8 where there are scales, else float32 */
    const float *scale, *bias;
    int inputs, blocks;
    bool relu;
} dense_layer;

/* The weights of `VF_LANES` outputs for one input. */
MXN_INLINE vf dense_weight(const dense_layer layer, const bool bytes, const ptrdiff_t place) {
    return bytes ? vf_load_s8((const int8_t *)layer.weight + place) : vf_load((const float *)layer.weight + place);
}

MXN_INLINE void dense_faces(const dense_layer layer, const bool bytes, const float *src, const int src_pitch, float *dst,
                            const int dst_pitch, const int faces) {
    ptrdiff_t place = 0;
    for (int b = 0; b < layer.blocks; b++) {
        vf sum[MXN_DENSE_FACES][DENSE_CHAINS][DENSE_VECTORS];
#pragma GCC unroll 3
        for (int f = 0; f < faces; f++)
#pragma GCC unroll 8
            for (int u = 0; u < DENSE_CHAINS; u++)
#pragma GCC unroll 16
                for (int v = 0; v < DENSE_VECTORS; v++) sum[f][u][v] = vf_zero();
        for (int i = 0; i < layer.inputs; i += DENSE_CHAINS, place += DENSE_CHAINS * MXN_DENSE_BLOCK) {
#pragma GCC unroll 8
            for (int u = 0; u < DENSE_CHAINS; u++)
#pragma GCC unroll 16
                for (int v = 0; v < DENSE_VECTORS; v++) {
                    const vf w = dense_weight(layer, bytes, place + u * MXN_DENSE_BLOCK + v * VF_LANES);
#pragma GCC unroll 3
                    for (int f = 0; f < faces; f++)
                        sum[f][u][v] = vf_multiply_add(w, vf_broadcast(src + f * src_pitch + i + u), sum[f][u][v]);
                }
        }
#pragma GCC unroll 3
        for (int f = 0; f < faces; f++)
#pragma GCC unroll 16
            for (int v = 0; v < DENSE_VECTORS; v++) {
                const int output = b * MXN_DENSE_BLOCK + v * VF_LANES;
                vf total = sum[f][0][v];
#pragma GCC unroll 8
                for (int u = 1; u < DENSE_CHAINS; u++) total = vf_add(total, sum[f][u][v]);
                const vf bias = vf_load(layer.bias + output);
                total = bytes ? vf_multiply_add(total, vf_load(layer.scale + output), bias) : vf_add(total, bias);
                if (layer.relu) total = vf_max(total, vf_zero());
                vf_store(dst + f * dst_pitch + output, total);
            }
    }
}

MXN_INLINE void dense_all(const dense_layer layer, const bool bytes, const float *src, int src_pitch, float *dst,
                          int dst_pitch, int faces) {
    if (DENSE_SHARES && faces == MXN_DENSE_FACES) {
        dense_faces(layer, bytes, src, src_pitch, dst, dst_pitch, MXN_DENSE_FACES);
        return;
    }
    for (int f = 0; f < faces; f++, src += src_pitch, dst += dst_pitch)
        dense_faces(layer, bytes, src, src_pitch, dst, dst_pitch, 1);
}

static void dense(const float *weight, const float *bias, int inputs, int blocks, bool relu, const float *src, int src_pitch,
                  float *dst, int dst_pitch, int faces) {
    dense_all((dense_layer){weight, NULL, bias, inputs, blocks, relu}, false, src, src_pitch, dst, dst_pitch, faces);
}

static void fc1_s8(const mxn_int8_layer *layer, const float *src, int src_pitch, int inputs, int blocks, float *dst,
                   int dst_pitch, int faces, void *scratch) {
    (void)scratch;
    dense_all((dense_layer){layer->weight, layer->scale, layer->bias, inputs, blocks, true}, true, src, src_pitch, dst, dst_pitch,
              faces);
}
