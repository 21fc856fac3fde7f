/* Direct convolution fused with bias, ReLU and the 2×2 max-pool behind it. Over conv_tile.inc.h and shapes.h.
 *
 * Outer-product form: output channels fill the lanes, the input value is a broadcast, so that a stride is only an address.
 * One tap is `run` consecutive floats of a kernel row: kx for conv1 (one input channel), kx-ic for conv2.
 *
 *     src:    y-x-ic, padded      weight: ky-kx-ic-oc      dst: y-x-oc
 *
 * max commutes with +bias and ReLU, so a window is pooled first and both are applied once. Where a tile is one output row
 * high, the first row of a window leaves its maximum in dst and the second row finishes it: dst is the only map there is.
 */

MXN_INLINE void conv_rows(const conv_layer layer, const float *src, const float *weight, const float *bias, float *dst,
                          const int rows, const bool combine, const bool finish) {
    const int step = layer.pool ? 2 : 1;
    const int rest = layer.size % layer.columns, whole = layer.size - rest;
    for (int x = 0; x < whole; x += layer.columns)
        conv_tile(layer, src + x * layer.x_step, weight, bias, dst + (x / step) * layer.channels, rows, layer.columns,
                  combine, finish);
    if (rest > 0)
        conv_tile(layer, src + whole * layer.x_step, weight, bias, dst + (whole / step) * layer.channels, rows, rest,
                  combine, finish);
}

MXN_INLINE void convolve(const conv_layer layer, const float *src, const float *weight, const float *bias, float *dst) {
    /* Channels outermost: the weights of one group stay in the first-level cache while the map streams by. */
    for (int c = 0; c < layer.channels; c += layer.vectors * VF_LANES) {
        const float *row = src;
        float *out = dst + c;
        int y = 0;
        if (!layer.pool) {
            for (; y < layer.size; y++, row += layer.y_step, out += layer.dst_pitch)
                conv_rows(layer, row, weight + c, bias + c, out, 1, false, true);
            continue;
        }
        for (; y + 1 < layer.size; y += 2, row += 2 * layer.y_step, out += layer.dst_pitch) {
            if (layer.rows == 2) {
                conv_rows(layer, row, weight + c, bias + c, out, 2, false, true);
            } else {
                conv_rows(layer, row, weight + c, bias + c, out, 1, false, false);
                conv_rows(layer, row + layer.y_step, weight + c, bias + c, out, 1, true, true);
            }
        }
        if (y < layer.size) conv_rows(layer, row, weight + c, bias + c, out, 1, false, true);
    }
}

/* ---- The two layers, each with and without its pool -------------------------------------------------------------- */

/* Accumulators + weights + broadcast must fit the register file: with 32 registers of 16 lanes 2×14×1 (conv1) and 2×6×2
 * (conv2); with 16 registers of 8 lanes 6×2; of 4 lanes 2×4; with 32 registers of 4 lanes 6×4. Tiles of pooled layers have
 * an even number of columns, so that no window is cut. */
enum {
    CONV1_VECTORS = VF_LANES >= 16 ? 1 : VF_LANES >= 8 ? 2 : 4,
    CONV2_VECTORS = VF_LANES >= 8 ? 2 : 4,
    CONV_TALL_TILES = VF_LANES >= 16 ? 2 : 1,
    CONV1_POOLED_COLUMNS = VF_LANES >= 16 ? 14 : VF_LANES >= 8 || VF_REGISTERS >= 32 ? 6 : 2,
    CONV1_PLAIN_COLUMNS = VF_LANES >= 16 ? 21 : VF_LANES >= 8 || VF_REGISTERS >= 32 ? 6 : 2,
    CONV2_COLUMNS = VF_LANES >= 8 || VF_REGISTERS >= 32 ? 6 : 2,
    MAP_INTERIOR = MXN_MAP_PADDING * (MXN_MAP_PITCH + MXN_CONV1_CHANNELS),
};

static void conv1_pooled(const float *image, const float *weight, const float *bias, float *map, float *scratch) {
    (void)scratch;
    const conv_layer layer = {
        .kernel_rows = MXN_CONV1_KERNEL, .run = MXN_CONV1_KERNEL, .src_pitch = MXN_IMAGE_PITCH,
        .x_step = MXN_CONV1_POOLED_STRIDE, .y_step = MXN_CONV1_POOLED_STRIDE * MXN_IMAGE_PITCH,
        .size = MXN_CONV1_POOLED_OUTPUT, .channels = MXN_CONV1_CHANNELS, .dst_pitch = MXN_MAP_PITCH, .pool = true,
        .rows = CONV_TALL_TILES, .columns = CONV1_POOLED_COLUMNS, .vectors = CONV1_VECTORS, .unroll = MXN_CONV1_KERNEL,
    };
    convolve(layer, image, weight, bias, map + MAP_INTERIOR);
}

static void conv1_plain(const float *image, const float *weight, const float *bias, float *map, float *scratch) {
    (void)scratch;
    const conv_layer layer = {
        .kernel_rows = MXN_CONV1_KERNEL, .run = MXN_CONV1_KERNEL, .src_pitch = MXN_IMAGE_PITCH,
        .x_step = MXN_CONV1_PLAIN_STRIDE, .y_step = MXN_CONV1_PLAIN_STRIDE * MXN_IMAGE_PITCH, .size = MXN_MAP_SIZE,
        .channels = MXN_CONV1_CHANNELS, .dst_pitch = MXN_MAP_PITCH, .pool = false, .rows = 1,
        .columns = CONV1_PLAIN_COLUMNS, .vectors = CONV1_VECTORS, .unroll = MXN_CONV1_KERNEL,
    };
    /* The padding is one less than the image's on every side. */
    convolve(layer, image + MXN_IMAGE_PITCH + 1, weight, bias, map + MAP_INTERIOR);
}

MXN_INLINE void conv2(const float *map, const float *weight, const float *bias, float *flat, const bool pool) {
    const conv_layer layer = {
        .kernel_rows = MXN_CONV2_KERNEL, .run = MXN_CONV2_KERNEL * MXN_CONV1_CHANNELS, .src_pitch = MXN_MAP_PITCH,
        .x_step = MXN_CONV2_STRIDE * MXN_CONV1_CHANNELS, .y_step = MXN_CONV2_STRIDE * MXN_MAP_PITCH,
        .size = MXN_CONV2_OUTPUT, .channels = MXN_CONV2_CHANNELS,
        .dst_pitch = (pool ? MXN_POOL2_OUTPUT : MXN_CONV2_OUTPUT) * MXN_CONV2_CHANNELS, .pool = pool,
        .rows = CONV_TALL_TILES, .columns = CONV2_COLUMNS, .vectors = CONV2_VECTORS, .unroll = 2,
    };
    convolve(layer, map, weight, bias, flat);
}

static void conv2_pooled(const float *map, const float *weight, const float *bias, float *flat, float *scratch) {
    (void)scratch;
    conv2(map, weight, bias, flat, true);
}

static void conv2_plain(const float *map, const float *weight, const float *bias, float *flat, float *scratch) {
    (void)scratch;
    conv2(map, weight, bias, flat, false);
}
