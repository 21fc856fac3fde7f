/* Convolution of bytes fused with its requantisation and the 2×2 max-pool between. Over simd/ and shapes.h.
 *
 *     src:    y-x-ic, padded      weight: see int8.inc.h, the inputs in the order ky-kx-ic      dst: y-x-oc
 *
 * In outer-product form like conv_direct.inc.h: output channels fill the lanes, and four consecutive bytes of a source row
 * are a broadcast: four kx for conv1 (one input channel), four ic for conv2. Sums are exact, so that their order is free.
 *
 * A byte of the result is clamp(rint(sum * scale + bias), 0, 255), product and sum rounded one after the other. The pool
 * comes first, on sums: scales are positive.
 */

typedef struct int8_conv {
    int kernel_rows, run;       /* inputs: kernel_rows × run bytes */
    int src_pitch;              /* bytes from one source row to the next */
    int x_step, y_step;         /* bytes from one output pixel's source to the next one's */
    int size;                   /* output rows and columns before pooling */
    int stride, padding;        /* in rows of the source; zeros above the first one inside */
    int inside;                 /* rows of the source between the paddings */
    int channels;
    int dst_pitch;              /* bytes from one output row (after pooling) to the next */
    bool pool;
    int rows, columns, vectors; /* sums at a time: rows × columns × vectors of channels */
    int halves; /* of a kernel row at a time, 1 or 2: a column's second half is the first of the column `shift` further */
    int shift;
} int8_conv;

enum {
    INT8_CONV_ROWS_MAX = 2,
    INT8_CONV_COLUMNS_MAX = 21,
    INT8_CONV_VECTORS_MAX = 4,
};

/* Rows of the kernel that lie in the padding for each of `rows` output rows from y on add nothing, unless zero is not 0 to
 * vi_dot. */
MXN_INLINE int int8_kernel_begin(const int8_conv conv, const int y, const int rows) {
    const int above = conv.padding - (y + rows - 1) * conv.stride;
    return VI_BYTE_OFFSET == 0 && above > 0 ? above : 0;
}

MXN_INLINE int int8_kernel_end(const int8_conv conv, const int y) {
    const int left = conv.padding + conv.inside - y * conv.stride;
    return VI_BYTE_OFFSET == 0 && left < conv.kernel_rows ? left : conv.kernel_rows;
}

/* The same for the second half of the kernel's columns and the last output column. */
MXN_INLINE bool int8_half_is_padding(const int8_conv conv) {
    return VI_BYTE_OFFSET == 0 && (conv.size - 1) * conv.stride + conv.kernel_rows / 2 >= conv.padding + conv.inside;
}

/* Adds the products of one quad, or of one of each half, to all sums of int8_conv_tile. A macro, since GCC spills sums that a
 * function changes. */
#define INT8_CONV_ADD_QUAD(src)                                                                                       \
    {                                                                                                                 \
        vf_tap_barrier();                                                                                             \
        vi_weights w[2][INT8_CONV_VECTORS_MAX];                                                                       \
        _Pragma("GCC unroll 2") for (int half = 0; half < conv.halves; half++)                                        \
            _Pragma("GCC unroll 4") for (int v = 0; v < conv.vectors; v++)                                            \
                w[half][v] = vi_load_weights(weight + half * half_weights + int8_place(quads, v * VF_LANES));         \
        _Pragma("GCC unroll 2") for (int r = 0; r < together; r++)                                                    \
            _Pragma("GCC unroll 22") for (int x = 0; x < broadcasts; x++) {                                           \
                const vi_bytes four = vi_broadcast((src) + r * conv.y_step + x * conv.x_step);                        \
                _Pragma("GCC unroll 4") for (int v = 0; v < conv.vectors; v++) {                                      \
                    if (x < columns) sum[r][x][v] = vi_dot(sum[r][x][v], four, w[0][v]);                              \
                    if (conv.halves == 2 && x >= conv.shift && x - conv.shift < second)                               \
                        sum[r][x - conv.shift][v] = vi_dot(sum[r][x - conv.shift][v], four, w[1][v]);                 \
                }                                                                                                     \
            }                                                                                                         \
    }

/* The same of several quads, 2 of conv1 or 4 of conv2, where the dot products take a quad from a lane. From one column to the
 * next it is step_on bytes, of conv1 step_in in vectors that the columns share. */
#ifdef VI_DOTS_LANES
#define INT8_CONV_ADD_LANES(src)                                                                                       \
    {                                                                                                                  \
        vf_tap_barrier();                                                                                              \
        const int step_in = turn < 16 ? conv.x_step : 0, step_on = conv.x_step - step_in;                              \
        _Pragma("GCC unroll 4") for (int q = 0; q < turn / 4; q++) {                                                   \
            vi_weights w[INT8_CONV_VECTORS_MAX];                                                                       \
            _Pragma("GCC unroll 4") for (int v = 0; v < conv.vectors; v++)                                             \
                w[v] = vi_load_weights(weight + q * INT8_QUAD + int8_place(quads, v * VF_LANES));                      \
            _Pragma("GCC unroll 21") for (int x = 0; x < columns; x++)                                                 \
                _Pragma("GCC unroll 4") for (int v = 0; v < conv.vectors; v++)                                         \
                    sum[0][x][v] = vi_dot_lane(sum[0][x][v], (src) + x * step_on, x * step_in + 4 * q,                 \
                                               turn < 16 && columns <= 2, w[v]);                                       \
        }                                                                                                              \
    }
#endif

/* `rows` × `columns` pixels from output row y on: with a pool the two rows of a row of windows (one at the lower border),
 * else one row. Where their sums do not fit the registers, one row after the other. Where two halves go together, the first
 * `second` columns have the second. As in conv_direct.inc.h every argument but y and the pointers is a constant where this is
 * inlined, and the barrier stops GCC from hoisting the broadcasts of later quads. */
MXN_INLINE void int8_conv_tile(const int8_conv conv, const uint8_t *src, const mxn_int8_layer *layer, const int channel,
                               const int y, uint8_t *dst, const int rows, const int columns, const int second) {
    const int step = conv.pool ? 2 : 1, together = rows < conv.rows ? rows : conv.rows;
    const int quads = conv.kernel_rows * conv.run / 4;
    vi best[INT8_CONV_COLUMNS_MAX][INT8_CONV_VECTORS_MAX];
#pragma GCC unroll 2
    for (int row = 0; row < rows; row += together) {
        const int begin = int8_kernel_begin(conv, y + row, together), end = int8_kernel_end(conv, y + row);
        const uint8_t *bytes = src + row * conv.y_step + begin * conv.src_pitch;
        const int8_t *weight = (const int8_t *)layer->weight + int8_place(quads, channel) + begin * conv.run / 4 * INT8_QUAD;
        vi sum[INT8_CONV_ROWS_MAX][INT8_CONV_COLUMNS_MAX][INT8_CONV_VECTORS_MAX];
#pragma GCC unroll 2
        for (int r = 0; r < together; r++)
#pragma GCC unroll 21
            for (int x = 0; x < columns; x++)
#pragma GCC unroll 4
                for (int v = 0; v < conv.vectors; v++) sum[r][x][v] = vi_load(layer->start + channel + v * VF_LANES);

#ifdef VI_DOTS_LANES
        (void)second; /* there are no halves */
        const int turn = conv.run < 16 ? conv.run : 16;
        for (int ky = begin; ky < end; ky++, bytes += conv.src_pitch)
            for (int k = 0; k < conv.run; k += turn, weight += turn / 4 * INT8_QUAD) INT8_CONV_ADD_LANES(bytes + k)
#else
        const int half_weights = conv.run / 2 / 4 * INT8_QUAD;
        const int broadcasts = conv.halves == 2 && second + conv.shift > columns ? second + conv.shift : columns;
        int run = conv.run / conv.halves;
        const bool is_long = run > 8; /* conv2's rows; those of conv1 are two quads, which GCC would unroll, and spill */
        if (!is_long) __asm__("" : "+r"(run));
        for (int ky = begin; ky < end; ky++, bytes += conv.src_pitch, weight += (conv.halves - 1) * half_weights)
            if (is_long)
#pragma GCC unroll 4
                for (int k = 0; k < run; k += 4, weight += INT8_QUAD) INT8_CONV_ADD_QUAD(bytes + k)
            else
                for (int k = 0; k < run; k += 4, weight += INT8_QUAD) INT8_CONV_ADD_QUAD(bytes + k)
#endif

#pragma GCC unroll 21
        for (int x = 0; x < columns; x += step)
#pragma GCC unroll 4
            for (int v = 0; v < conv.vectors; v++) {
                vi largest = sum[0][x][v];
                if (conv.pool && x + 1 < columns) largest = vi_max(largest, sum[0][x + 1][v]);
                if (together == 2) largest = vi_max(largest, sum[1][x][v]);
                if (together == 2 && x + 1 < columns) largest = vi_max(largest, sum[1][x + 1][v]);
                best[x][v] = row == 0 ? largest : vi_max(best[x][v], largest);
            }
    }
    const int stored = conv.vectors % 2 ? 1 : 2; /* vectors at a time */
#pragma GCC unroll 4
    for (int v = 0; v < conv.vectors; v += stored) {
        vf scale[2], bias[2], value[2];
#pragma GCC unroll 2
        for (int i = 0; i < stored; i++) {
            scale[i] = vf_load(layer->scale + channel + (v + i) * VF_LANES);
            bias[i] = vf_load(layer->bias + channel + (v + i) * VF_LANES);
        }
#pragma GCC unroll 21
        for (int x = 0; x < columns; x += step) {
            uint8_t *bytes = dst + (x / step) * conv.channels + v * VF_LANES;
#pragma GCC unroll 2
            for (int i = 0; i < stored; i++)
                value[i] = vf_add(vf_multiply(vi_to_float(best[x][v + i]), scale[i]), bias[i]);
            if (stored == 2)
                vf_store_bytes_pair(bytes, value[0], value[1]);
            else
                vf_store_bytes(bytes, value[0]);
        }
    }
}

MXN_INLINE void int8_convolve(const int8_conv conv, const uint8_t *src, const mxn_int8_layer *layer, uint8_t *dst) {
    const int step = conv.pool ? 2 : 1;
    const int rest = conv.size % conv.columns, whole = conv.size - rest, second = rest - int8_half_is_padding(conv);
    for (int c = 0; c < conv.channels; c += conv.vectors * VF_LANES)
        for (int y = 0; y < conv.size; y += step) {
            const uint8_t *row = src + y * conv.y_step;
            uint8_t *out = dst + (y / step) * conv.dst_pitch + c;
            const bool window = conv.pool && y + 1 < conv.size;
            for (int x = 0; x < whole; x += conv.columns)
                if (window)
                    int8_conv_tile(conv, row + x * conv.x_step, layer, c, y, out + (x / step) * conv.channels, 2, conv.columns,
                                   conv.columns);
                else
                    int8_conv_tile(conv, row + x * conv.x_step, layer, c, y, out + (x / step) * conv.channels, 1, conv.columns,
                                   conv.columns);
            if (rest == 0) continue;
            if (window)
                int8_conv_tile(conv, row + whole * conv.x_step, layer, c, y, out + (whole / step) * conv.channels, 2, rest,
                               second);
            else
                int8_conv_tile(conv, row + whole * conv.x_step, layer, c, y, out + (whole / step) * conv.channels, 1, rest,
                               second);
        }
}

/* ---- The two layers, each with and without its pool -------------------------------------------------------------- */

/* Sums + weights + one broadcast must fit the registers; where weights take two bytes, they and the broadcast take two
 * registers. With 32 registers of 16 lanes 2×14×1 (conv1) and 2×6×2 (conv2), of 4 lanes 4×4; with 16 registers 6×2, or 4×2
 * where weights take two bytes. Tiles of pooled layers have an even number of columns, so that no window is cut. */
enum {
    INT8_ROWS = VF_LANES >= 16 ? 2 : 1,
    INT8_COLUMNS = VF_LANES >= 8 && VI_WEIGHT_BYTES == 1 ? 6 : 4,
    INT8_CONV1_COLUMNS = VF_LANES >= 16 ? 14 : INT8_COLUMNS,
    INT8_CONV1_PLAIN_COLUMNS = VF_LANES >= 16 ? 21 : INT8_COLUMNS,
    INT8_CONV2_PLAIN_COLUMNS = VF_LANES >= 16 ? 11 : INT8_COLUMNS,
    INT8_CONV1_VECTORS = VF_LANES >= 16 ? 1 : VF_REGISTERS >= 32 ? 4 : 2,
    INT8_HALVES = VF_LANES >= 16 ? 2 : 1, /* twice the weights, half the broadcasts */
    INT8_CONV2_VECTORS = VF_REGISTERS >= 32 && VF_LANES < 16 ? 4 : 2,
};

MXN_INLINE void int8_conv1(const uint8_t *image, const mxn_int8_layer *layer, uint8_t *map, const bool pool) {
    const int stride = pool ? MXN_CONV1_POOLED_STRIDE : MXN_CONV1_PLAIN_STRIDE;
    const int8_conv conv = {
        .kernel_rows = MXN_CONV1_KERNEL, .run = MXN_CONV1_KERNEL, .src_pitch = MXN_IMAGE_PITCH, .x_step = stride,
        .y_step = stride * MXN_IMAGE_PITCH, .size = pool ? MXN_CONV1_POOLED_OUTPUT : MXN_MAP_SIZE,
        .stride = stride, .padding = pool ? MXN_IMAGE_PADDING : MXN_IMAGE_PADDING - 1, .inside = MXN_FACE_SIZE,
        .channels = MXN_CONV1_CHANNELS, .dst_pitch = MXN_MAP_PITCH, .pool = pool, .rows = INT8_ROWS,
        .columns = pool ? INT8_CONV1_COLUMNS : INT8_CONV1_PLAIN_COLUMNS, .vectors = INT8_CONV1_VECTORS,
        .halves = INT8_HALVES, .shift = MXN_CONV1_KERNEL / 2 / stride,
    };
    /* The padding of the plain one is one less than the image's on every side. */
    int8_convolve(conv, pool ? image : image + MXN_IMAGE_PITCH + 1, layer,
                  map + MXN_MAP_PADDING * (MXN_MAP_PITCH + MXN_CONV1_CHANNELS));
}

MXN_INLINE void int8_conv2(const uint8_t *map, const mxn_int8_layer *layer, uint8_t *flat, const bool pool) {
    const int8_conv conv = {
        .kernel_rows = MXN_CONV2_KERNEL, .run = MXN_CONV2_KERNEL * MXN_CONV1_CHANNELS, .src_pitch = MXN_MAP_PITCH,
        .x_step = MXN_CONV2_STRIDE * MXN_CONV1_CHANNELS, .y_step = MXN_CONV2_STRIDE * MXN_MAP_PITCH,
        .size = MXN_CONV2_OUTPUT, .stride = MXN_CONV2_STRIDE, .padding = MXN_MAP_PADDING, .inside = MXN_MAP_SIZE,
        .channels = MXN_CONV2_CHANNELS,
        .dst_pitch = (pool ? MXN_POOL2_OUTPUT : MXN_CONV2_OUTPUT) * MXN_CONV2_CHANNELS, .pool = pool, .rows = INT8_ROWS,
        .columns = pool ? INT8_COLUMNS : INT8_CONV2_PLAIN_COLUMNS, .vectors = INT8_CONV2_VECTORS,
        .halves = INT8_HALVES, .shift = MXN_CONV2_KERNEL / 2 / MXN_CONV2_STRIDE,
    };
    int8_convolve(conv, map, layer, flat);
}

static void int8_conv1_pooled(const uint8_t *image, const mxn_int8_layer *layer, uint8_t *map) {
    int8_conv1(image, layer, map, true);
}

static void int8_conv1_plain(const uint8_t *image, const mxn_int8_layer *layer, uint8_t *map) {
    int8_conv1(image, layer, map, false);
}

static void int8_conv2_pooled(const uint8_t *map, const mxn_int8_layer *layer, uint8_t *flat) {
    int8_conv2(map, layer, flat, true);
}

static void int8_conv2_plain(const uint8_t *map, const mxn_int8_layer *layer, uint8_t *flat) {
    int8_conv2(map, layer, flat, false);
}
