/* A tile of a direct convolution, which stays in registers. Over simd/. Layouts in conv_direct.inc.h.
 *
 * vf_tap_barrier() stops GCC from hoisting the broadcasts of later taps to the front, which spills accumulators. With SSE2,
 * whose broadcast is a load and a shuffle, hoisting helps this kernel.
 */
typedef struct conv_layer {
    int kernel_rows, run;          /* taps: kernel_rows × run */
    int src_pitch;                 /* floats from one source row to the next */
    int x_step, y_step;            /* floats from one output pixel's source to the next one's */
    int size;                      /* output rows and columns before pooling */
    int channels;
    int dst_pitch;                 /* floats from one output row (after pooling) to the next */
    bool pool;
    bool linear;                   /* no ReLU */
    int rows, columns, vectors;    /* accumulators of a tile: rows × columns × vectors of channels */
    int unroll;                    /* taps per turn of the inner loop */
    bool by_lane;                  /* inputs are loaded four at a time, up to three behind the last one too */
} conv_layer;

enum {
    CONV_ROWS_MAX = 2,
    CONV_COLUMNS_MAX = 21,
    CONV_VECTORS_MAX = 4,
    CONV_TAP_BARRIER = VF_LANES != 4 || VF_REGISTERS >= 32,
};

/* `combine`: dst already holds the maximum of the window's first row; `finish`: this tile completes the window. Every
 * argument but the pointers is a constant where this is inlined, and all loops but the taps unroll away. */
MXN_INLINE void conv_tile(const conv_layer layer, const float *src, const float *weight, const float *bias, float *dst,
                          const int rows, const int columns, const bool combine, const bool finish) {
    vf sum[CONV_ROWS_MAX][CONV_COLUMNS_MAX][CONV_VECTORS_MAX];
#pragma GCC unroll 2
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 21
        for (int x = 0; x < columns; x++)
#pragma GCC unroll 4
            for (int v = 0; v < layer.vectors; v++) sum[r][x][v] = vf_zero();

    const bool neighbours = layer.x_step < 4; /* taps of several outputs are in one vector */
    const int loads = neighbours ? ((columns - 1) * layer.x_step + layer.unroll + 3) / 4 : columns;
    for (int ky = 0; ky < layer.kernel_rows; ky++) {
        for (int k = 0; k < layer.run; k += layer.unroll) {
            vf_four values[CONV_ROWS_MAX][CONV_COLUMNS_MAX];
            if (layer.by_lane)
#pragma GCC unroll 2
                for (int r = 0; r < rows; r++)
#pragma GCC unroll 21
                    for (int i = 0; i < loads; i++)
                        values[r][i] = vf_load_four(src + r * layer.y_step + i * (neighbours ? 4 : layer.x_step) + k);
#pragma GCC unroll 8
            for (int u = 0; u < layer.unroll; u++) {
                if (CONV_TAP_BARRIER) vf_tap_barrier();
                vf w[CONV_VECTORS_MAX];
#pragma GCC unroll 4
                for (int v = 0; v < layer.vectors; v++) w[v] = vf_load(weight + (k + u) * layer.channels + v * VF_LANES);
#pragma GCC unroll 2
                for (int r = 0; r < rows; r++)
#pragma GCC unroll 21
                    for (int x = 0; x < columns; x++) {
                        const int i = x * layer.x_step + u;
                        const vf value = !layer.by_lane ? vf_broadcast(src + r * layer.y_step + i + k)
                                         : neighbours   ? vf_broadcast_lane(values[r][i / 4], i % 4)
                                                        : vf_broadcast_lane(values[r][x], u);
#pragma GCC unroll 4
                        for (int v = 0; v < layer.vectors; v++) sum[r][x][v] = vf_multiply_add(w[v], value, sum[r][x][v]);
                    }
            }
        }
        src += layer.src_pitch;
        weight += layer.run * layer.channels;
    }

    /* All of the bias before any store, which might change it for all that the compiler knows. */
    vf b[CONV_VECTORS_MAX];
#pragma GCC unroll 4
    for (int v = 0; v < layer.vectors; v++) b[v] = vf_load(bias + v * VF_LANES);
    const int step = layer.pool ? 2 : 1;
#pragma GCC unroll 21
    for (int x = 0; x < columns; x += step)
#pragma GCC unroll 4
        for (int v = 0; v < layer.vectors; v++) {
            float *out = dst + (x / step) * layer.channels + v * VF_LANES;
            vf best = sum[0][x][v];
            if (layer.pool) {
                if (x + 1 < columns) best = vf_max(best, sum[0][x + 1][v]);
                if (rows == 2) best = vf_max(best, sum[1][x][v]);
                if (rows == 2 && x + 1 < columns) best = vf_max(best, sum[1][x + 1][v]);
                if (combine) best = vf_max(best, vf_load(out));
            }
            if (finish) best = vf_add(best, b[v]);
            if (finish && !layer.linear) best = vf_max(best, vf_zero());
            vf_store(out, best);
        }
}
