/* The face detector's layers, row by row. Over conv_tile.inc.h and, where there are sums of products of 16-bit integers
 * (VI_PAIRS), a simd/dot_ wrapper; include where a table of detector kernels is made.
 *
 *     maps: y-x-c, with a border of one zero pixel; a pointer to a map points to its pixel (0, 0)
 *     depthwise weight: ky-kx-c      pointwise weight: ic-oc
 *
 * With VI_PAIRS a unit rounds its depthwise sums and pointwise weights to 16 bits: half as many instructions for nine tenths
 * of the multiplications, and the sums of products are exact. detect.c chooses the scales so that no sum overflows.
 *
 *     row of pairs: x-c/2-2          pointwise weight: ic/2-oc-2
 *
 *     weight of the answers: oc-ic
 */

/* Accumulators of a pointwise tile: pixels × vectors of output channels, as in conv_direct.inc.h. */
enum {
    DETECTOR_BY_LANE = !VF_BROADCASTS && VF_REGISTERS >= 32, /* tiles of 9 × 2 vectors, which leave registers for inputs */
    POINTWISE_VECTORS_32 = VF_LANES >= 8 || DETECTOR_BY_LANE ? 2 : 4,
    POINTWISE_VECTORS_64 = VF_LANES >= 16 ? 4 : POINTWISE_VECTORS_32,
    POINTWISE_COLUMNS_32 = VF_LANES >= 16 ? 12 : DETECTOR_BY_LANE ? 9 : VF_LANES >= 8 || VF_REGISTERS >= 32 ? 6 : 2,
    POINTWISE_COLUMNS_64 = VF_LANES >= 16 ? 6 : POINTWISE_COLUMNS_32,
    STEM_COLUMNS = VF_LANES >= 16 ? 12 : DETECTOR_BY_LANE ? 9 : VF_LANES >= 8 || VF_REGISTERS >= 32 ? 6 : 2,
    STEM_VECTORS = VF_LANES >= 16 ? 1 : VF_LANES >= 8 || DETECTOR_BY_LANE ? 2 : 4,
    DEPTHWISE_PIXELS = VF_REGISTERS >= 32 ? 4 : 2,
    /* Of pairs: without an instruction that adds to the sum, a product takes a register too. */
    PAIRS_VECTORS_32 = VF_LANES >= 8 ? 2 : 4,
    PAIRS_VECTORS_64 = VF_LANES >= 16 ? 4 : PAIRS_VECTORS_32,
    PAIRS_COLUMNS_32 = VF_LANES >= 16 ? 12 : VF_LANES >= 8 ? 5 : 2,
    PAIRS_COLUMNS_64 = VF_LANES >= 16 ? 6 : PAIRS_COLUMNS_32,
};

/* A row of any width: the last tile, of half the width where that suffices, is moved back over pixels that are done, which get
 * the same values again. Rows narrower than a tile have only halves of one. */
MXN_INLINE void detector_row(const conv_layer layer, const float *src, const float *weight, const float *bias, float *dst,
                             const int width) {
    const int half = layer.columns / 2;
    for (int c = 0; c < layer.channels; c += layer.vectors * VF_LANES) {
        int x = 0;
        if (width < half)
            for (; x < width; x++)
                conv_tile(layer, src + x * layer.x_step, weight + c, bias + c, dst + x * layer.channels + c, 1, 1, false, true);
        for (int left; (left = width - x) > 0;) {
            if (left <= half || width < layer.columns) {
                if (left < half) x = width - half;
                conv_tile(layer, src + x * layer.x_step, weight + c, bias + c, dst + x * layer.channels + c, 1, half, false,
                          true);
                x += half;
                continue;
            }
            if (left < layer.columns) x = width - layer.columns;
            conv_tile(layer, src + x * layer.x_step, weight + c, bias + c, dst + x * layer.channels + c, 1, layer.columns,
                      false, true);
            x += layer.columns;
        }
    }
}

static void detector_stem(const float *src, ptrdiff_t src_pitch, const float *weight, const float *bias, float *dst,
                          ptrdiff_t dst_pitch, int height, int width) {
    const conv_layer layer = {
        .kernel_rows = 3, .run = 3, .src_pitch = (int)src_pitch, .x_step = 2, .channels = MXN_DETECTOR_STEM,
        .columns = STEM_COLUMNS, .vectors = STEM_VECTORS, .unroll = 3, .by_lane = DETECTOR_BY_LANE,
    };
    for (int y = 0; y < height; y++)
        detector_row(layer, src + (2 * y - 1) * src_pitch - 1, weight, bias, dst + y * dst_pitch, width);
}

MXN_INLINE conv_layer pointwise_layer(const int inputs, const int outputs, const bool linear) {
    return (conv_layer){
        .kernel_rows = 1, .run = inputs, .x_step = inputs, .channels = outputs, .linear = linear, .unroll = 4,
        .by_lane = DETECTOR_BY_LANE,
        .columns = outputs == 64 ? POINTWISE_COLUMNS_64 : POINTWISE_COLUMNS_32,
        .vectors = outputs == 64 ? POINTWISE_VECTORS_64 : POINTWISE_VECTORS_32,
    };
}

#ifdef VI_PAIRS
typedef int16_t unit_element;
#define store_element vf_store_s16

/* `columns` pixels of a pointwise layer with `outputs` channels, `vectors` of them at a time; as conv_tile(). */
MXN_INLINE void pairs_tile(const mxn_detector_unit *u, const int16_t *src, const int inputs, const int channel, float *dst,
                           const int outputs, const int columns, const int vectors) {
    vi sum[PAIRS_COLUMNS_32][PAIRS_VECTORS_64];
#pragma GCC unroll 12
    for (int x = 0; x < columns; x++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sum[x][v] = vi_zero();
    const int32_t *weight = (const int32_t *)u->pointwise + channel; /* whole pairs */
#pragma GCC unroll 2
    for (int i = 0; i < inputs; i += 2, weight += outputs) {
        vf_tap_barrier();
        vi w[PAIRS_VECTORS_64];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) w[v] = vi_load(weight + v * VF_LANES);
#pragma GCC unroll 12
        for (int x = 0; x < columns; x++) {
            const vi pair = vi_broadcast_pair(src + x * inputs + i);
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) sum[x][v] = vi_dot_pairs(sum[x][v], pair, w[v]);
        }
    }
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) {
        const vf scale = vf_load(u->scale + channel + v * VF_LANES), bias = vf_load(u->bias + channel + v * VF_LANES);
#pragma GCC unroll 12
        for (int x = 0; x < columns; x++) {
            const vf value = vf_multiply_add(vi_to_float(sum[x][v]), scale, bias);
            vf_store(dst + x * outputs + channel + v * VF_LANES, vf_max(value, vf_zero()));
        }
    }
}

/* As detector_row(). */
MXN_INLINE void unit_row(const mxn_detector_unit *u, const int16_t *src, float *dst, const int inputs, const int outputs,
                         const int width) {
    const int columns = outputs == 64 ? PAIRS_COLUMNS_64 : PAIRS_COLUMNS_32, half = columns / 2;
    const int vectors = outputs == 64 ? PAIRS_VECTORS_64 : PAIRS_VECTORS_32;
    for (int c = 0; c < outputs; c += vectors * VF_LANES) {
        int x = 0;
        if (width < half)
            for (; x < width; x++) pairs_tile(u, src + x * inputs, inputs, c, dst + x * outputs, outputs, 1, vectors);
        for (int left; (left = width - x) > 0;) {
            if (left <= half || width < columns) {
                if (left < half) x = width - half;
                pairs_tile(u, src + x * inputs, inputs, c, dst + x * outputs, outputs, half, vectors);
                x += half;
                continue;
            }
            if (left < columns) x = width - columns;
            pairs_tile(u, src + x * inputs, inputs, c, dst + x * outputs, outputs, columns, vectors);
            x += columns;
        }
    }
}
#else
typedef float unit_element;
#define store_element vf_store

MXN_INLINE void unit_row(const mxn_detector_unit *u, const float *src, float *dst, const int inputs, const int outputs,
                         const int width) {
    detector_row(pointwise_layer(inputs, outputs, false), src, u->pointwise, u->bias, dst, width);
}
#endif

/* `pixels` outputs beside each other share the loads of the columns that they have in common, and their chains of sums hide
 * each other's latency. src: the first output's pixel in the rows above, at and below it. */
MXN_INLINE void depthwise_tile(const float *const src[3], const vf w[9], unit_element *dst, const int channels,
                               const int stride, const int pixels) {
    vf sum[DEPTHWISE_PIXELS];
#pragma GCC unroll 3
    for (int ky = 0; ky < 3; ky++)
#pragma GCC unroll 9
        for (int column = 0; column < stride * (pixels - 1) + 3; column++) {
            const vf value = vf_load(src[ky] + (column - 1) * channels);
#pragma GCC unroll 4
            for (int x = 0; x < pixels; x++) {
                const int kx = column - stride * x;
                if (kx < 0 || kx > 2) continue;
                sum[x] = ky == 0 && kx == 0 ? vf_multiply(w[0], value) : vf_multiply_add(w[3 * ky + kx], value, sum[x]);
            }
        }
#pragma GCC unroll 4
    for (int x = 0; x < pixels; x++) store_element(dst + x * channels, sum[x]);
}

/* One output row of a depthwise 3×3 convolution; dst: x-c, without a border. As detector_row(). */
MXN_INLINE void depthwise_row(const float *src, const ptrdiff_t pitch, const float *weight, unit_element *dst, const int width,
                              const int channels, const int stride) {
    for (int c = 0; c < channels; c += VF_LANES) {
        vf w[9];
#pragma GCC unroll 9
        for (int k = 0; k < 9; k++) w[k] = vf_load(weight + k * channels + c);
        ptrdiff_t x = 0;
        if (width < DEPTHWISE_PIXELS)
            for (; x < width; x++) {
                const float *at = src + stride * x * channels + c;
                depthwise_tile((const float *[]){at - pitch, at, at + pitch}, w, dst + x * channels + c, channels, stride, 1);
            }
        for (; x < width; x += DEPTHWISE_PIXELS) {
            if (x > width - DEPTHWISE_PIXELS) x = width - DEPTHWISE_PIXELS;
            const float *at = src + stride * x * channels + c;
            depthwise_tile((const float *[]){at - pitch, at, at + pitch}, w, dst + x * channels + c, channels, stride,
                           DEPTHWISE_PIXELS);
        }
    }
}

MXN_INLINE void unit(const mxn_detector_unit *u, const float *src, ptrdiff_t src_pitch, float *dst, ptrdiff_t dst_pitch,
                     int height, int width, float *row, const int inputs, const int outputs, const int stride) {
    for (int y = 0; y < height; y++) {
        unit_element *element = (unit_element *)row;
        depthwise_row(src + stride * y * src_pitch, src_pitch, u->depthwise, element, width, inputs, stride);
        unit_row(u, element, dst + y * dst_pitch, inputs, outputs, width);
    }
}

#define MXN_UNIT(inputs, outputs, stride)                                                                              \
    static void unit_##inputs##_##outputs##_##stride(const mxn_detector_unit *u, const float *src, ptrdiff_t src_pitch, \
                                                     float *dst, ptrdiff_t dst_pitch, int height, int width,           \
                                                     float *row) {                                                     \
        unit(u, src, src_pitch, dst, dst_pitch, height, width, row, inputs, outputs, stride);                           \
    }
MXN_UNIT(16, 32, 2)
MXN_UNIT(32, 32, 1)
MXN_UNIT(32, 64, 2)
MXN_UNIT(64, 64, 1)
MXN_UNIT(64, 64, 2)
#undef MXN_UNIT

/* dst[y][x] += bias + weight * src[y / 2][x / 2]; row: of src's width. */
static void detector_lateral(const float *src, ptrdiff_t src_pitch, const float *weight, const float *bias, float *dst,
                             ptrdiff_t dst_pitch, int height, int width, float *row) {
    for (int y = 0; y < height; y++) {
        if (y % 2 == 0)
            detector_row(pointwise_layer(64, 32, true), src + y / 2 * src_pitch, weight, bias, row, (width + 1) / 2);
        for (int x = 0; x < width; x++)
#pragma GCC unroll 32
            for (int c = 0; c < 32; c += VF_LANES) {
                float *d = dst + y * dst_pitch + x * 32 + c;
                vf_store(d, vf_add(vf_load(d), vf_load(row + x / 2 * 32 + c)));
            }
    }
}

/* dst[y][x] += src[y / 2][x / 2]; 64 channels. */
static void detector_add_enlarged(const float *src, ptrdiff_t src_pitch, float *dst, ptrdiff_t dst_pitch, int height,
                                  int width) {
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++)
            for (int c = 0; c < 64; c += VF_LANES) {
                float *d = dst + y * dst_pitch + x * 64 + c;
                vf_store(d, vf_add(vf_load(d), vf_load(src + y / 2 * src_pitch + x / 2 * 64 + c)));
            }
}

/* The score of every cell, the first of its answers, in the order y-x. The other answers of most cells are never asked for. */
MXN_INLINE void scores(const float *src, const ptrdiff_t src_pitch, const float *weight, const float *bias, float *dst,
                       const int height, const int width, const int channels) {
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++) {
            const float *pixel = src + y * src_pitch + x * channels;
            vf sum = vf_multiply(vf_load(weight), vf_load(pixel));
#pragma GCC unroll 16
            for (int c = VF_LANES; c < channels; c += VF_LANES) sum = vf_multiply_add(vf_load(weight + c), vf_load(pixel + c), sum);
            *dst++ = vf_sum(sum) + *bias;
        }
}

static void detector_scores_32(const float *src, ptrdiff_t src_pitch, const float *weight, const float *bias, float *dst,
                               int height, int width) {
    scores(src, src_pitch, weight, bias, dst, height, width, 32);
}

static void detector_scores_64(const float *src, ptrdiff_t src_pitch, const float *weight, const float *bias, float *dst,
                               int height, int width) {
    scores(src, src_pitch, weight, bias, dst, height, width, 64);
}

/* All answers from a cell's pixel, or from the map of the second look; inputs: a multiple of 32. */
static void detector_answers(const float *src, int inputs, const float *weight, const float *bias, float *answers) {
    vf sum[MXN_DETECTOR_ANSWERS];
#pragma GCC unroll 5
    for (int o = 0; o < MXN_DETECTOR_ANSWERS; o++) sum[o] = vf_zero();
    for (int i = 0; i < inputs; i += VF_LANES) {
        const vf value = vf_load(src + i);
#pragma GCC unroll 5
        for (int o = 0; o < MXN_DETECTOR_ANSWERS; o++)
            sum[o] = vf_multiply_add(vf_load(weight + o * inputs + i), value, sum[o]);
    }
#pragma GCC unroll 5
    for (int o = 0; o < MXN_DETECTOR_ANSWERS; o++) answers[o] = vf_sum(sum[o]) + bias[o];
}

#undef store_element
#ifdef VI_PAIRS
#define DETECTOR_PAIRS true
#else
#define DETECTOR_PAIRS false
#endif

#define MXN_DETECTOR_TABLE(isa, required)                                                \
    const mxn_detector_kernels mxn_detector_##isa = {                                    \
        .features = (required), .pairs = DETECTOR_PAIRS, .stem = detector_stem,              \
        .unit = {[MXN_UNIT_16_32_2] = unit_16_32_2, [MXN_UNIT_32_32_1] = unit_32_32_1,   \
                 [MXN_UNIT_32_64_2] = unit_32_64_2, [MXN_UNIT_64_64_1] = unit_64_64_1,   \
                 [MXN_UNIT_64_64_2] = unit_64_64_2},                                     \
        .lateral = detector_lateral, .add_enlarged = detector_add_enlarged,              \
        .scores = {detector_scores_32, detector_scores_64}, .answers = detector_answers, \
    }
