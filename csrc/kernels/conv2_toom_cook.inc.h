/* conv2 with its bias, ReLU and max-pool, by Toom-Cook convolution. Over simd/, shapes.h and toom_cook.h.
 *
 *     src:    y-x-ic, padded                    weight: row point-column point-block-k-16 oc (transform.c)
 *     dst:    y-x-oc                            scratch: struct conv2_scratch
 *
 * Four phases of 16 channels are k = 0 to 63, the depth of one matrix product per pair of points. The tiles are
 *
 *     0 1 4      4, 4 and 3 outputs high and wide, numbered so that those which have a certain pair of points
 *     2 3 5      are the first: 9, 6 (the fifth row of points; the fifth column: 6 and 7 move to 4 and 5) or 4 (both).
 *     6 7 8
 */

enum {
    CONV2_PREFERS_TOOM_COOK = 1, /* on every instruction set it is faster than conv2_pooled */

    /* A vector more, so that the same tile at different points does not fall into the same set of the cache. */
    CONV2_PITCH = MXN_CONV2_TILES * MXN_CONV2_TILES * MXN_CONV2_DEPTH + 16,
    CONV2_MATRICES = MXN_CONV2_POINTS * MXN_CONV2_POINTS,

    /* Tiles × vectors of accumulators, weights and one broadcast must fit the registers. Where a broadcast is a shuffle, one
     * tile and all channels need the fewest; where it is part of a multiply-add, its vector must fit them, too, and all tiles
     * need the fewest loads. */
    CONV2_GROUP = VF_REGISTERS >= 32 ? 9 : VF_LANES >= 8 ? 6 : VF_BROADCASTS ? 2 : 1,
    CONV2_BLOCKS = VF_LANES >= 16 || (!VF_BROADCASTS && VF_REGISTERS < 32) ? 2 : 1, /* of 16 output channels at once */
    CONV2_UNROLL = VF_BROADCASTS ? 2 : VF_LANES, /* values of k whose sources are loaded together */
    /* Vectors of a block at once. */
    CONV2_PARTS = VF_LANES == 1 ? 4 : VF_LANES == 4 && VF_REGISTERS >= 32 ? 2 : MXN_CONV2_BLOCK / VF_LANES,
};

/* row point-column point: the source of a pair of points, tile-k, lies one place behind its sums, tile-oc, so that they are
 * written where the source of the pair before was. */
typedef struct conv2_scratch {
    float place[CONV2_MATRICES + 1][CONV2_PITCH];
} conv2_scratch;
_Static_assert(sizeof(conv2_scratch) <= MXN_SCRATCH * sizeof(float), "the scratch memory holds it");

/* Number of a tile at a column of points. */
MXN_INLINE int conv2_tile(const int y, const int x, const int column) {
    static const int tile[MXN_CONV2_TILES][MXN_CONV2_TILES] = {{0, 1, 4}, {2, 3, 5}, {6, 7, 8}};
    return y == 2 && column == 4 ? 4 + x : tile[y][x];
}

/* Bᵀ of F(4,2), or of F(3,2) without the fifth value: d[0], d[step], ... in place. */
MXN_INLINE void conv2_evaluate(vf *d, const int step, const bool full) {
    const vf d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step];
    if (full) {
        const vf rise = vf_subtract(d3, d1);
        d[0] = vf_multiply_add(vf_constant(0.5f), rise, vf_subtract(d0, d2));
        d[step] = vf_multiply_add(vf_constant(2.0f), d1, vf_subtract(d2, d3));
        d[2 * step] = vf_multiply_add(vf_constant(-1.0f / 3), vf_add(d3, vf_add(d1, d1)), d2);
        d[3 * step] = vf_subtract(vf_subtract(d[4 * step], d2), vf_add(rise, rise));
        d[4 * step] = rise;
    } else {
        d[0] = vf_subtract(d0, d2);
        d[step] = vf_add(d1, d2);
        d[2 * step] = vf_subtract(d2, d1);
        d[3 * step] = vf_subtract(d3, d1);
    }
}

/* Aᵀ of F(4,2): y0 to y3 from m[0], m[step], ...; or of F(3,2): y0 to y2. */
MXN_INLINE void conv2_interpolate(const vf *m, const int step, const bool full, vf *y, const int y_step) {
    const vf even = vf_add(m[step], m[2 * step]), odd = vf_subtract(m[step], m[2 * step]);
    y[0] = vf_add(m[0], even);
    y[y_step] = odd;
    y[2 * y_step] = even;
    if (full) {
        const vf m4 = m[4 * step];
        y[0] = vf_add(y[0], m4);
        y[y_step] = vf_add(odd, vf_add(m4, m4));
        y[2 * y_step] = vf_multiply_add(vf_constant(4.0f), m4, even);
        y[3 * y_step] = vf_multiply_add(vf_constant(8.0f), m4, vf_add(odd, m[3 * step]));
    } else {
        y[2 * y_step] = vf_add(even, m[3 * step]);
    }
}

/* One tile of the map -> its values at all points. tall, wide: 4 outputs, not 3. */
MXN_INLINE void conv2_transform_source(const float *map, conv2_scratch *scratch, const int tile_y, const int tile_x,
                                       const bool tall, const bool wide) {
    enum { POINTS = MXN_CONV2_POINTS };
    const int rows = POINTS - !tall, columns = POINTS - !wide;
    const float *corner = map + 2 * MXN_CONV2_TILE * (tile_y * MXN_MAP_PITCH + tile_x * MXN_CONV1_CHANNELS);
    for (int phase = 0; phase < 4; phase++)
        for (int c = 0; c < MXN_CONV1_CHANNELS; c += VF_LANES) {
            const float *src = corner + phase / 2 * MXN_MAP_PITCH + phase % 2 * MXN_CONV1_CHANNELS + c;
            vf d[POINTS * POINTS];
#pragma GCC unroll 5
            for (int y = 0; y < rows; y++)
#pragma GCC unroll 5
                for (int x = 0; x < columns; x++)
                    d[y * POINTS + x] = vf_load(src + 2 * (y * MXN_MAP_PITCH + x * MXN_CONV1_CHANNELS));
#pragma GCC unroll 5
            for (int x = 0; x < columns; x++) conv2_evaluate(d + x, POINTS, tall);
#pragma GCC unroll 5
            for (int y = 0; y < rows; y++) {
                conv2_evaluate(d + y * POINTS, 1, wide);
#pragma GCC unroll 5
                for (int x = 0; x < columns; x++)
                    vf_store(scratch->place[y * POINTS + x + 1] + conv2_tile(tile_y, tile_x, x) * MXN_CONV2_DEPTH +
                                 phase * MXN_CONV1_CHANNELS + c,
                             d[y * POINTS + x]);
            }
        }
}

/* Sums of one tile at all points -> its outputs, pooled and finished. */
MXN_INLINE void conv2_finish(const conv2_scratch *scratch, const float *bias, float *flat, const int tile_y,
                             const int tile_x, const bool tall, const bool wide) {
    enum { POINTS = MXN_CONV2_POINTS, TILE = MXN_CONV2_TILE };
    const int rows = POINTS - !tall, columns = POINTS - !wide;
    float *corner = flat + TILE / 2 * (tile_y * MXN_POOL2_OUTPUT + tile_x) * MXN_CONV2_CHANNELS;
    for (int c = 0; c < MXN_CONV2_CHANNELS; c += VF_LANES) {
        vf m[POINTS * POINTS], half[TILE * POINTS];
#pragma GCC unroll 5
        for (int x = 0; x < columns; x++) {
#pragma GCC unroll 5
            for (int y = 0; y < rows; y++)
                m[y * POINTS + x] =
                    vf_load(scratch->place[y * POINTS + x] + conv2_tile(tile_y, tile_x, x) * MXN_CONV2_CHANNELS + c);
            /* The point 1, 1 gives to every output alike. */
            if (x == 1) m[POINTS + 1] = vf_add(m[POINTS + 1], vf_load(bias + c));
            conv2_interpolate(m + x, POINTS, tall, half + x, POINTS);
        }
#pragma GCC unroll 2
        for (int window_y = 0; window_y < TILE / 2; window_y++) {
            vf y[2][TILE];
            const bool two_rows = tall || window_y == 0;
            conv2_interpolate(half + 2 * window_y * POINTS, 1, wide, y[0], 1);
            if (two_rows) conv2_interpolate(half + (2 * window_y + 1) * POINTS, 1, wide, y[1], 1);
#pragma GCC unroll 2
            for (int window_x = 0; window_x < TILE / 2; window_x++) {
                vf best = y[0][2 * window_x];
                if (two_rows) best = vf_max_positive(best, y[1][2 * window_x]);
                if (wide || window_x == 0) {
                    best = vf_max_positive(best, y[0][2 * window_x + 1]);
                    if (two_rows) best = vf_max_positive(best, y[1][2 * window_x + 1]);
                }
                vf_store(corner + (window_y * MXN_POOL2_OUTPUT + window_x) * MXN_CONV2_CHANNELS + c,
                         vf_max_positive(best, vf_zero()));
            }
        }
    }
}

/* sum = src · weight for `tiles` tiles and one block of output channels, or several. */
MXN_INLINE void conv2_multiply(const float *src, const float *weight, float *sum, const int tiles) {
    enum { BLOCK_WEIGHTS = MXN_CONV2_DEPTH * MXN_CONV2_BLOCK };
    for (int part = 0; part < MXN_CONV2_BLOCK; part += CONV2_PARTS * VF_LANES) {
        vf total[CONV2_GROUP][CONV2_BLOCKS * CONV2_PARTS];
#pragma GCC unroll 9
        for (int t = 0; t < tiles; t++)
#pragma GCC unroll 8
            for (int v = 0; v < CONV2_BLOCKS * CONV2_PARTS; v++) total[t][v] = vf_zero();
        for (int first = 0; first < MXN_CONV2_DEPTH; first += CONV2_UNROLL) {
            if (!VF_BROADCASTS) vf_tap_barrier();
            vf_four values[CONV2_GROUP];
#pragma GCC unroll 9
            for (int t = 0; t < tiles; t++) values[t] = vf_load_four(src + t * MXN_CONV2_DEPTH + first);
#pragma GCC unroll 4
            for (int lane = 0; lane < CONV2_UNROLL; lane++) {
                const int k = first + lane;
                if (VF_BROADCASTS) vf_tap_barrier();
                /* Weights of the next pair of points, which may come from afar: what the processor prefetches by itself ends
                 * with a page. */
#pragma GCC unroll 2
                for (int b = 0; b < CONV2_BLOCKS && VF_LANES >= 8; b++)
                    __builtin_prefetch(weight + (CONV2_BLOCKS + b) * BLOCK_WEIGHTS + k * MXN_CONV2_BLOCK);
                vf w[CONV2_BLOCKS * CONV2_PARTS];
#pragma GCC unroll 8
                for (int v = 0; v < CONV2_BLOCKS * CONV2_PARTS; v++)
                    w[v] = vf_load(weight + v / CONV2_PARTS * BLOCK_WEIGHTS + k * MXN_CONV2_BLOCK + part +
                                   v % CONV2_PARTS * VF_LANES);
#pragma GCC unroll 9
                for (int t = 0; t < tiles; t++) {
                    const vf value = vf_broadcast_lane(values[t], lane);
#pragma GCC unroll 8
                    for (int v = 0; v < CONV2_BLOCKS * CONV2_PARTS; v++)
                        total[t][v] = vf_multiply_add(w[v], value, total[t][v]);
                }
            }
        }
#pragma GCC unroll 9
        for (int t = 0; t < tiles; t++)
#pragma GCC unroll 8
            for (int v = 0; v < CONV2_BLOCKS * CONV2_PARTS; v++)
                vf_store(sum + t * MXN_CONV2_CHANNELS + v / CONV2_PARTS * MXN_CONV2_BLOCK + part +
                             v % CONV2_PARTS * VF_LANES,
                         total[t][v]);
    }
}

/* The same in groups of nearly equal size that fit the registers. */
MXN_INLINE void conv2_multiply_all(const float *src, const float *weight, float *sum, const int tiles) {
    const int groups = (tiles + CONV2_GROUP - 1) / CONV2_GROUP, size = (tiles + groups - 1) / groups;
    const int rest = tiles % size, whole = tiles - rest;
    for (int t = 0; t < whole; t += size)
        conv2_multiply(src + t * MXN_CONV2_DEPTH, weight, sum + t * MXN_CONV2_CHANNELS, size);
    if (rest > 0) conv2_multiply(src + whole * MXN_CONV2_DEPTH, weight, sum + whole * MXN_CONV2_CHANNELS, rest);
}

static void conv2_toom_cook(const float *map, const float *weight, const float *bias, float *flat, float *scratch) {
    enum {
        TILES = MXN_CONV2_TILES,
        LAST_POINT = MXN_CONV2_POINTS - 1,
        LAST_TILE = MXN_CONV2_TILES - 1,
        STEP = CONV2_BLOCKS * MXN_CONV2_BLOCK,
    };
    conv2_scratch *s = (conv2_scratch *)scratch;
    for (int y = 0; y < LAST_TILE; y++) {
        for (int x = 0; x < LAST_TILE; x++) conv2_transform_source(map, s, y, x, true, true);
        conv2_transform_source(map, s, y, LAST_TILE, true, false);
    }
    for (int x = 0; x < LAST_TILE; x++) conv2_transform_source(map, s, LAST_TILE, x, false, true);
    conv2_transform_source(map, s, LAST_TILE, LAST_TILE, false, false);

    for (int i = 0; i < CONV2_MATRICES; i++) {
        const int fifths = (i / MXN_CONV2_POINTS == LAST_POINT) + (i % MXN_CONV2_POINTS == LAST_POINT);
        const float *source = s->place[i + 1];
        float *sum = s->place[i];
        for (int c = 0; c < MXN_CONV2_CHANNELS; c += STEP, weight += STEP * MXN_CONV2_DEPTH) {
            /* Spelt out, so that the number of tiles is a constant in each. */
            if (fifths == 0)
                conv2_multiply_all(source, weight, sum + c, TILES * TILES);
            else if (fifths == 1)
                conv2_multiply_all(source, weight, sum + c, TILES * LAST_TILE);
            else
                conv2_multiply_all(source, weight, sum + c, LAST_TILE * LAST_TILE);
        }
    }

    for (int y = 0; y < LAST_TILE; y++) {
        for (int x = 0; x < LAST_TILE; x++) conv2_finish(s, bias, flat, y, x, true, true);
        conv2_finish(s, bias, flat, y, LAST_TILE, true, false);
    }
    for (int x = 0; x < LAST_TILE; x++) conv2_finish(s, bias, flat, LAST_TILE, x, false, true);
    conv2_finish(s, bias, flat, LAST_TILE, LAST_TILE, false, false);
}
