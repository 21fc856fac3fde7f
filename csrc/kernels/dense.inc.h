/* Fully connected layer, outputs in blocks of 16. Over simd/ and shapes.h.
 *
 *     weight: block-in-16 outputs      src: `inputs` floats, a multiple of 16      dst: blocks × 16 floats
 *
 * The weights are read once, front to back, and are the whole cost: they do not fit the first-level cache. Several inputs
 * are summed apart from each other, so that the additions do not wait for one another.
 */

enum {
    DENSE_VECTORS = MXN_DENSE_BLOCK / VF_LANES,
    DENSE_CHAINS = VF_LANES >= 16 ? 8 : VF_LANES >= 8 || VF_REGISTERS >= 32 ? 4 : VF_LANES >= 4 ? 2 : 1,
};

static void dense(const float *weight, const float *bias, const float *src, int inputs, int blocks, bool relu, float *dst) {
    for (int b = 0; b < blocks; b++, bias += MXN_DENSE_BLOCK, dst += MXN_DENSE_BLOCK) {
        vf sum[DENSE_CHAINS][DENSE_VECTORS];
#pragma GCC unroll 8
        for (int u = 0; u < DENSE_CHAINS; u++)
#pragma GCC unroll 16
            for (int v = 0; v < DENSE_VECTORS; v++) sum[u][v] = u == 0 ? vf_load(bias + v * VF_LANES) : vf_zero();
        for (int i = 0; i < inputs; i += DENSE_CHAINS, weight += DENSE_CHAINS * MXN_DENSE_BLOCK) {
#pragma GCC unroll 8
            for (int u = 0; u < DENSE_CHAINS; u++) {
                const vf value = vf_broadcast(src + i + u);
#pragma GCC unroll 16
                for (int v = 0; v < DENSE_VECTORS; v++)
                    sum[u][v] = vf_multiply_add(vf_load(weight + u * MXN_DENSE_BLOCK + v * VF_LANES), value, sum[u][v]);
            }
        }
#pragma GCC unroll 16
        for (int v = 0; v < DENSE_VECTORS; v++) {
            vf total = sum[0][v];
#pragma GCC unroll 8
            for (int u = 1; u < DENSE_CHAINS; u++) total = vf_add(total, sum[u][v]);
            if (relu) total = vf_max(total, vf_zero());
            vf_store(dst + v * VF_LANES, total);
        }
    }
}
