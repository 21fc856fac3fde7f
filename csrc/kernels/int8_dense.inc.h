/* The fully connected layers of an int8 model, outputs in blocks of 16. Over simd/ and shapes.h. */

enum {
    INT8_DENSE_VECTORS = MXN_DENSE_BLOCK / VF_LANES < 4 ? MXN_DENSE_BLOCK / VF_LANES : 4, /* of a block at a time */
    INT8_DENSE_CHAINS = VF_LANES >= 16 ? 8 : VF_LANES >= 8 || VF_REGISTERS >= 32 ? 4 : 2,
};

/* src: `inputs` bytes, a multiple of 32; weight: see int8.inc.h; dst: blocks × 16 floats, max(sum * scale + bias, 0), product
 * and sum rounded one after the other. The weights are read once, front to back, and are the whole cost. */
static void int8_fc1(const mxn_int8_layer *layer, const uint8_t *src, int inputs, int blocks, float *dst) {
    const int quads = inputs / 4;
    for (int o = 0; o < blocks * MXN_DENSE_BLOCK; o += INT8_DENSE_VECTORS * VF_LANES) {
        const int8_t *weight = (const int8_t *)layer->weight + int8_place(quads, o);
        vi sum[INT8_DENSE_CHAINS][INT8_DENSE_VECTORS];
#pragma GCC unroll 8
        for (int u = 0; u < INT8_DENSE_CHAINS; u++)
#pragma GCC unroll 4
            for (int v = 0; v < INT8_DENSE_VECTORS; v++)
                sum[u][v] = u == 0 ? vi_load(layer->start + o + v * VF_LANES) : vi_zero();
        for (int k = 0; k < quads; k += INT8_DENSE_CHAINS, weight += INT8_DENSE_CHAINS * INT8_QUAD) {
#pragma GCC unroll 8
            for (int u = 0; u < INT8_DENSE_CHAINS; u++) {
                const vi_bytes bytes = vi_broadcast(src + 4 * (k + u));
#pragma GCC unroll 4
                for (int v = 0; v < INT8_DENSE_VECTORS; v++)
                    sum[u][v] = vi_dot(sum[u][v], bytes,
                                       vi_load_weights(weight + u * INT8_QUAD + v * VF_LANES * 4 * VI_WEIGHT_BYTES));
            }
        }
#pragma GCC unroll 4
        for (int v = 0; v < INT8_DENSE_VECTORS; v++) {
            const int lanes = o + v * VF_LANES;
            vi total = sum[0][v];
#pragma GCC unroll 8
            for (int u = 1; u < INT8_DENSE_CHAINS; u++) total = vi_add(total, sum[u][v]);
            const vf product = vf_multiply(vi_to_float(total), vf_load(layer->scale + lanes));
            vf_store(dst + lanes, vf_max(vf_add(product, vf_load(layer->bias + lanes)), vf_zero()));
        }
    }
}

/* weight: block-in-16 outputs; src: `inputs` floats, a multiple of 16; dst: blocks × 16 floats. The same bits on every
 * instruction set: input i goes to sum i % 4, of which the first starts at the bias, products and sums are rounded one after
 * the other, and the result is (sum 0 + sum 1) + (sum 2 + sum 3). */
static void int8_fc2(const float *weight, const float *bias, const float *src, int inputs, int blocks, float *dst) {
    enum { CHAINS = 4, VECTORS = VF_LANES >= 16 ? 1 : 2 };
    for (int o = 0; o < blocks * MXN_DENSE_BLOCK; o += VECTORS * VF_LANES) {
        const float *block = weight + (size_t)(o / MXN_DENSE_BLOCK) * (size_t)inputs * MXN_DENSE_BLOCK + o % MXN_DENSE_BLOCK;
        vf sum[CHAINS][VECTORS];
#pragma GCC unroll 4
        for (int u = 0; u < CHAINS; u++)
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; v++) sum[u][v] = u == 0 ? vf_load(bias + o + v * VF_LANES) : vf_zero();
        for (int i = 0; i < inputs; i += CHAINS, block += CHAINS * MXN_DENSE_BLOCK) {
#pragma GCC unroll 4
            for (int u = 0; u < CHAINS; u++) {
                const vf value = vf_broadcast(src + i + u);
#pragma GCC unroll 2
                for (int v = 0; v < VECTORS; v++)
                    sum[u][v] = vf_add(sum[u][v], vf_multiply(value, vf_load(block + u * MXN_DENSE_BLOCK + v * VF_LANES)));
            }
        }
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++)
            vf_store(dst + o + v * VF_LANES, vf_add(vf_add(sum[0][v], sum[1][v]), vf_add(sum[2][v], sum[3][v])));
    }
}
