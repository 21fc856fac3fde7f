/* conv1 with stride 2, its bias, ReLU and max-pool, by Toom-Cook convolution. Over simd/, shapes.h and toom_cook.h.
 *
 *     src:    y-x, padded float32, or bytes     weight: row point-column point-phase-oc (transform.c)
 *     dst:    y-x-oc, padded                    scratch: struct conv1_scratch
 *
 * Blocks of 7 tiles, 6 rows and 21 columns of the output, go through all steps while they are in the first-level cache; two
 * are as wide as the output. Tiles are 6 columns of the source apart: it is split by the remainder of x first, so that both
 * transforms have a tile in each lane. In the products the output channels fill the lanes, as in conv_direct.inc.h, and the
 * source value is a broadcast.
 */
#include "../toom_cook.h"

enum {
    CONV1_PREFERS_TOOM_COOK = 1, /* on every instruction set it is faster than conv1_pooled */
    CONV1_READS_U8 = VF_LANES > 1, /* bytes are split by interleaving vectors */

    CONV1_STEP = 2 * MXN_CONV1_TILE_COLUMNS, /* columns of the source from one tile to the next */
    CONV1_SLOTS = MXN_CONV1_TILES + 1,       /* tiles that hold what the last one needs, too */
    CONV1_PARITIES = 2 * CONV1_SLOTS,
    CONV1_ROW_PAIR = CONV1_STEP * CONV1_PARITIES,
    CONV1_ROW_PAIRS = MXN_IMAGE_ROWS / 2,
    CONV1_COLUMNS = MXN_CONV1_TILES * MXN_CONV1_TILE_COLUMNS, /* of a block */

    /* Tiles and vectors of channels at a time: accumulators of two points, weights and one broadcast must fit the registers. */
    CONV1_GROUP = VF_LANES >= 16 ? 7 : VF_LANES >= 8 ? 3 : VF_REGISTERS >= 32 ? 4 : 1,
    CONV1_PARTS = VF_LANES == 4 && VF_REGISTERS >= 32 ? 2 : CONV1_VECTORS,
    CONV1_LANES = CONV1_PARTS * VF_LANES,
    /* A broadcast is part of a multiply-add, from a vector of tiles. */
    CONV1_BY_LANE = !VF_BROADCASTS && CONV1_GROUP == VF_LANES,
    /* What the first two points gave stays in registers, too. */
    CONV1_KEEPS = VF_REGISTERS >= 32 || CONV1_GROUP == 1,

    CONV1_BLOCKS = 2 * MXN_CONV1_POOLED_OUTPUT / MXN_CONV1_TILE_ROWS,
    /* Lines of the next layer's weights that are asked for at each row point of a block, so that all are once a face. On AVX2
     * warm calls lose by it what cold ones gain. */
    CONV1_LINES_AHEAD = VF_LANES >= 16 ? 26 : 0,
};
_Static_assert(CONV1_LINES_AHEAD == 0 || CONV1_LINES_AHEAD * MXN_CACHE_LINE * MXN_CONV1_ROW_POINTS * CONV1_BLOCKS >=
                                             MXN_CONV2_TOOM_COOK_WEIGHTS * (int)sizeof(float),
               "all weights of conv2 are asked for");

typedef struct conv1_scratch {
    /* row point-remainder-row parity-tile, and zeros behind them, since loads that are shifted by a tile end there */
    float row[MXN_CONV1_ROW_POINTS + 1][CONV1_ROW_PAIR];
    /* column point-column parity-row parity-tile, of this row point and of the next */
    float point[2][MXN_CONV1_COLUMN_POINTS][2][CONV1_PARITIES];
    /* tile-oc, of a group: what the first two column points gave, where registers are few */
    float even[CONV1_GROUP][MXN_CONV1_CHANNELS];
    /* row point-column-oc; first the last column of the block before, since a window may be in both */
    float sum[MXN_CONV1_ROW_POINTS][1 + CONV1_COLUMNS][MXN_CONV1_CHANNELS];
    union {
        uint8_t byte[2][CONV1_ROW_PAIRS][CONV1_ROW_PAIR]; /* block-y-remainder-row parity-tile */
        float number[2][CONV1_ROW_PAIRS][CONV1_ROW_PAIR];
    } image;
} conv1_scratch;
_Static_assert(sizeof(conv1_scratch) <= MXN_SCRATCH * sizeof(float), "the scratch memory holds it");

/* A vector of a row of the face that would begin at x in the padded image. */
MXN_INLINE vb conv1_load_bytes(const uint8_t *row, const int x) {
    if (x < MXN_IMAGE_PADDING) return vb_pad_before(vb_load(row));
    if (x > MXN_IMAGE_PADDING + MXN_FACE_SIZE - VB_LANES) return vb_pad_after(vb_load(row + MXN_FACE_SIZE - VB_LANES));
    return vb_load(row + x - MXN_IMAGE_PADDING);
}

/* 48 values of a row and 48 of the next are places 48 parity + 6 tile + remainder. Interleaving the halves of 96 places takes
 * place i to 2 i modulo 95: after four times, to 16 remainder + 8 parity + tile. */
MXN_INLINE void conv1_split_bytes(const uint8_t *const rows[2], const int x, uint8_t *dst) {
    enum { VECTORS = CONV1_ROW_PAIR / VB_LANES, HALF = VECTORS / 2 };
    vb v[VECTORS], next[VECTORS];
#pragma GCC unroll 6
    for (int i = 0; i < VECTORS; i++) v[i] = conv1_load_bytes(rows[i / HALF], x + i % HALF * VB_LANES);
#pragma GCC unroll 4
    for (int pass = 0; pass < 4; pass++) {
#pragma GCC unroll 3
        for (int i = 0; i < HALF; i++) {
            next[2 * i] = vb_interleave_low(v[i], v[i + HALF]);
            next[2 * i + 1] = vb_interleave_high(v[i], v[i + HALF]);
        }
#pragma GCC unroll 6
        for (int i = 0; i < VECTORS; i++) v[i] = next[i];
    }
#pragma GCC unroll 6
    for (int i = 0; i < VECTORS; i++) vb_store(dst + i * VB_LANES, v[i]);
}

MXN_INLINE void conv1_split_floats(const float *src, float *dst) {
    for (int parity = 0; parity < 2; parity++, src += MXN_IMAGE_PITCH, dst += CONV1_SLOTS)
        for (int t = 0; t < CONV1_SLOTS; t++)
            for (int r = 0; r < CONV1_STEP; r++) dst[r * CONV1_PARITIES + t] = src[CONV1_STEP * t + r];
}

MXN_INLINE void conv1_split(const void *src, const bool bytes, conv1_scratch *scratch) {
    enum { SECOND = MXN_CONV1_TILES * CONV1_STEP };
    static const uint8_t padding[MXN_FACE_SIZE];
    for (int pair = 0; pair < CONV1_ROW_PAIRS; pair++) {
        if (bytes) {
            const uint8_t *rows[2];
            for (int i = 0; i < 2; i++) {
                const int y = 2 * pair + i - MXN_IMAGE_PADDING;
                rows[i] = y >= 0 && y < MXN_FACE_SIZE ? (const uint8_t *)src + y * MXN_FACE_SIZE : padding;
            }
            conv1_split_bytes(rows, 0, scratch->image.byte[0][pair]);
            conv1_split_bytes(rows, SECOND, scratch->image.byte[1][pair]);
        } else {
            const float *row = (const float *)src + 2 * pair * MXN_IMAGE_PITCH;
            conv1_split_floats(row, scratch->image.number[0][pair]);
            conv1_split_floats(row + SECOND, scratch->image.number[1][pair]);
        }
    }
}

/* Bᵀ vertically, from the block's `first` pair of rows on. */
MXN_INLINE void conv1_transform_rows(conv1_scratch *scratch, const bool bytes, const int block, const int first) {
    enum { PAIRS = MXN_CONV1_PAIRS_OF_POINTS, INFINITE = 2 * PAIRS };
    for (int place = 0; place < CONV1_ROW_PAIR; place += VF_LANES) {
        vf row[MXN_CONV1_ROW_POINTS];
#pragma GCC unroll 9
        for (int i = 0; i < MXN_CONV1_ROW_POINTS; i++)
            row[i] = bytes ? vf_load_u8(&scratch->image.byte[block][first + i][place])
                           : vf_load(&scratch->image.number[block][first + i][place]);
#pragma GCC unroll 4
        for (int p = 0; p < PAIRS; p++) {
            vf even = row[6], odd = row[7];
#pragma GCC unroll 3
            for (int i = 0; i < 3; i++) {
                const vf q = vf_constant(mxn_conv1_q[p][i]);
                even = vf_multiply_add(q, row[2 * i], even);
                odd = vf_multiply_add(q, row[2 * i + 1], odd);
            }
            if (p > 0) even = vf_multiply(vf_constant(mxn_conv1_point[p]), even);
            vf_store(&scratch->row[2 * p][place], vf_add(odd, even));
            vf_store(&scratch->row[2 * p + 1][place], vf_subtract(odd, even));
        }
        vf even = row[8];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) even = vf_multiply_add(vf_constant(mxn_conv1_infinity[i]), row[2 * i], even);
        vf_store(&scratch->row[INFINITE][place], even);
    }
}

/* Bᵀ horizontally, of one row point. */
MXN_INLINE void conv1_transform_columns(conv1_scratch *scratch, const int p) {
#pragma GCC unroll 2
    for (int parity = 0; parity < 2; parity++)
#pragma GCC unroll 4
        for (int place = 0; place < CONV1_PARITIES; place += VF_LANES) {
            vf d[MXN_CONV1_COLUMN_POINTS];
#pragma GCC unroll 3
            for (int i = 0; i < 3; i++) {
                const float *src = scratch->row[p] + (2 * i + parity) * CONV1_PARITIES + place;
                d[i] = vf_load(src);
                d[i + 3] = vf_load_next(src);
            }
            const vf even1 = vf_multiply_add(vf_constant(-0.25f), d[2], d[4]), even2 = vf_subtract(d[4], d[2]);
            const vf odd1 = vf_multiply_add(vf_constant(-0.25f), d[1], d[3]), odd2 = vf_subtract(d[3], d[1]);
            const vf half = vf_multiply(vf_constant(0.5f), odd2);
            const vf points[MXN_CONV1_COLUMN_POINTS] = {
                vf_multiply_add(vf_constant(0.25f), d[0], vf_multiply_add(vf_constant(-1.25f), d[2], d[4])),
                vf_add(even1, odd1), vf_subtract(even1, odd1), vf_add(even2, half), vf_subtract(even2, half),
                vf_multiply_add(vf_constant(0.25f), d[1], vf_multiply_add(vf_constant(-1.25f), d[3], d[5])),
            };
#pragma GCC unroll 6
            for (int i = 0; i < MXN_CONV1_COLUMN_POINTS; i++) vf_store(&scratch->point[p % 2][i][parity][place], points[i]);
        }
}

/* Adds the products of one phase, or begins with them. src: tile; weight: oc. */
MXN_INLINE void conv1_add_phase(const float *src, const float *weight, vf sum[CONV1_GROUP][CONV1_PARTS], const int tiles,
                                const bool begin) {
    if (!CONV1_BY_LANE) vf_tap_barrier();
    vf w[CONV1_PARTS];
#pragma GCC unroll 4
    for (int v = 0; v < CONV1_PARTS; v++) w[v] = vf_load(weight + v * VF_LANES);
    vf_four values;
    if (CONV1_BY_LANE) {
        values = vf_load_four(src);
        /* Behind the loads, so that GCC mixes them with the last phase's products: a processor that takes instructions in
         * order then need not wait for them. */
        vf_tap_barrier();
    }
#pragma GCC unroll 7
    for (int t = 0; t < tiles; t++) {
        const vf value = CONV1_BY_LANE ? vf_broadcast_lane(values, t) : vf_broadcast(src + t);
#pragma GCC unroll 4
        for (int v = 0; v < CONV1_PARTS; v++)
            sum[t][v] = begin ? vf_multiply(w[v], value) : vf_multiply_add(w[v], value, sum[t][v]);
    }
}

/* Products at row point p, and Aᵀ horizontally, for `tiles` tiles from `first` on and CONV1_LANES channels from `channel` on.
 * Two column points at a time: ±1/2, ±1, and 0 and infinity. Sums start from what the points before gave, so that few vectors
 * are kept. weight: column point-phase-oc. */
MXN_INLINE void conv1_multiply(conv1_scratch *scratch, const float *weight, const int p, const int first, const int tiles,
                               const int channel) {
    enum { STEPS = MXN_CONV1_COLUMN_POINTS / 2, POINT = MXN_CONV1_PHASES * MXN_CONV1_CHANNELS };
    static const int points[STEPS][2] = {{3, 4}, {1, 2}, {0, MXN_CONV1_COLUMN_POINTS - 1}};
    /* One address: of many, GCC would keep each in memory. */
    const float *src = scratch->point[p % 2][0][0] + first;
    vf sum[2][CONV1_GROUP][CONV1_PARTS], even[CONV1_GROUP][CONV1_PARTS];
#pragma GCC unroll 3
    for (int step = 0; step < STEPS; step++) {
#pragma GCC unroll 4
        for (int phase = 0; phase < MXN_CONV1_PHASES; phase++)
#pragma GCC unroll 2
            for (int i = 0; i < 2; i++) {
                const int q = points[step][i];
                conv1_add_phase(src + (2 * q + phase / 2) * CONV1_PARITIES + phase % 2 * CONV1_SLOTS,
                                weight + q * POINT + phase * MXN_CONV1_CHANNELS + channel, sum[i], tiles,
                                step == 0 && phase == 0);
            }
#pragma GCC unroll 7
        for (int t = 0; t < tiles; t++)
#pragma GCC unroll 4
            for (int v = 0; v < CONV1_PARTS; v++) {
                float(*dst)[MXN_CONV1_CHANNELS] = &scratch->sum[p][1 + (first + t) * MXN_CONV1_TILE_COLUMNS];
                const int c = channel + v * VF_LANES;
                const vf plus = vf_add(sum[0][t][v], sum[1][t][v]), minus = vf_subtract(sum[0][t][v], sum[1][t][v]);
                if (step == 0) {
                    even[t][v] = plus;
                    if (!CONV1_KEEPS) vf_store(&scratch->even[t][c], plus);
                    sum[0][t][v] = sum[1][t][v] = minus;
                } else if (step == 1) {
                    if (!CONV1_KEEPS) even[t][v] = vf_load(&scratch->even[t][c]);
                    vf_store(&dst[1][c], plus);
                    sum[0][t][v] = vf_multiply_add(vf_constant(4.0f), even[t][v], minus);
                    sum[1][t][v] = vf_add(even[t][v], minus);
                } else {
                    vf_store(&dst[0][c], sum[0][t][v]);
                    vf_store(&dst[2][c], sum[1][t][v]);
                }
                if (!CONV1_KEEPS) vf_tap_barrier();
            }
    }
}

/* Aᵀ vertically, then pools and finishes `windows` windows from column `first` of the sums on. dst: the upper pixel of the
 * first. */
MXN_INLINE void conv1_finish(const conv1_scratch *scratch, const float *bias, float *dst, const int first, const int windows) {
    enum { PAIRS = MXN_CONV1_PAIRS_OF_POINTS, ROWS = MXN_CONV1_TILE_ROWS / 2 };
    for (int t = 0; t < windows; t++, dst += MXN_CONV1_CHANNELS)
        for (int c = 0; c < MXN_CONV1_CHANNELS; c += VF_LANES) {
            vf best[ROWS];
#pragma GCC unroll 2
            for (int x = 0; x < 2; x++) {
                /* Of each pair of points ±c. The even parts give output rows 0, 2 and 4, the odd parts 1, 3 and 5. */
                const int column = first + 2 * t + x;
                vf even[PAIRS], odd[PAIRS];
#pragma GCC unroll 4
                for (int p = 0; p < PAIRS; p++) {
                    vf plus = vf_load(&scratch->sum[2 * p][column][c]);
                    const vf minus = vf_load(&scratch->sum[2 * p + 1][column][c]);
                    if (p == 0) plus = vf_add(plus, vf_load(bias + c)); /* the point 1 gives to every output alike */
                    even[p] = vf_add(plus, minus);
                    odd[p] = vf_subtract(plus, minus);
                }
#pragma GCC unroll 3
                for (int row = 0; row < ROWS; row++) {
                    vf y0 = even[0], y1 = odd[0];
#pragma GCC unroll 3
                    for (int p = 1; p < PAIRS; p++) {
                        const float *power = mxn_conv1_power[p] + 2 * row;
                        y0 = power[0] == 1 ? vf_add(y0, even[p]) : vf_multiply_add(vf_constant(power[0]), even[p], y0);
                        y1 = vf_multiply_add(vf_constant(power[1]), odd[p], y1);
                    }
                    if (row == ROWS - 1) y1 = vf_add(y1, vf_load(&scratch->sum[2 * PAIRS][column][c]));
                    const vf larger = vf_max_positive(y0, y1);
                    best[row] = x ? vf_max_positive(best[row], larger) : larger;
                }
            }
#pragma GCC unroll 3
            for (int row = 0; row < ROWS; row++)
                vf_store(dst + row * MXN_MAP_PITCH + c, vf_max_positive(best[row], vf_zero()));
        }
}

/* y: the first output row; dst: its first pooled pixel; ahead: address of the part of the next layer's weights to ask for. */
MXN_INLINE void conv1_block(const bool bytes, const float *weight, const float *bias, conv1_scratch *scratch, float *dst,
                            const int y, const int block, uintptr_t ahead) {
    enum {
        LAST = MXN_CONV1_ROW_POINTS - 1,
        REST = MXN_CONV1_TILES % CONV1_GROUP,
        WHOLE = MXN_CONV1_TILES - REST,
        WINDOWS = CONV1_COLUMNS / 2,
    };
    conv1_transform_rows(scratch, bytes, block, y);
    conv1_transform_columns(scratch, 0);
    for (int p = 0; p <= LAST; p++, weight += MXN_CONV1_COLUMN_POINTS * MXN_CONV1_PHASES * MXN_CONV1_CHANNELS) {
        /* Into the second-level cache: what is in the first is in use. */
#pragma GCC unroll 26
        for (int i = 0; i < CONV1_LINES_AHEAD; i++, ahead += MXN_CACHE_LINE) __builtin_prefetch((const void *)ahead, 0, 2);
        /* One ahead, so that the products need not wait. */
        if (p < LAST) conv1_transform_columns(scratch, p + 1);
        for (int c = 0; c < MXN_CONV1_CHANNELS; c += CONV1_LANES) {
            for (int t = 0; t < WHOLE; t += CONV1_GROUP) conv1_multiply(scratch, weight, p, t, CONV1_GROUP, c);
            if (REST > 0) conv1_multiply(scratch, weight, p, WHOLE, REST, c);
        }
    }
    /* The first block's last column is the second's first. */
    if (block == 0) {
        conv1_finish(scratch, bias, dst, 1, WINDOWS);
        for (int p = 0; p <= LAST; p++) memcpy(scratch->sum[p][0], scratch->sum[p][CONV1_COLUMNS], sizeof scratch->sum[p][0]);
    } else {
        conv1_finish(scratch, bias, dst + WINDOWS * MXN_CONV1_CHANNELS, 0, WINDOWS + 1);
    }
}

MXN_INLINE void conv1_blocks(const void *src, const bool bytes, const float *weight, const float *bias, float *map,
                             float *memory) {
    conv1_scratch *scratch = (conv1_scratch *)memory;
    float *dst = map + MAP_INTERIOR;
    /* In a model the next layer's weights lie behind these. An address, since elsewhere nothing need be there. */
    uintptr_t ahead = (uintptr_t)(weight + MXN_CONV1_TOOM_COOK_WEIGHTS);
    conv1_split(src, bytes, scratch);
    memset(scratch->row[MXN_CONV1_ROW_POINTS], 0, sizeof scratch->row[0]);
    for (int y = 0; y < MXN_CONV1_POOLED_OUTPUT; y += MXN_CONV1_TILE_ROWS, dst += MXN_CONV1_TILE_ROWS / 2 * MXN_MAP_PITCH)
        for (int block = 0; block < 2; block++) {
            conv1_block(bytes, weight, bias, scratch, dst, y, block, ahead);
            ahead += MXN_CONV1_ROW_POINTS * CONV1_LINES_AHEAD * MXN_CACHE_LINE;
        }
}

static void conv1_toom_cook(const float *image, const float *weight, const float *bias, float *map, float *scratch) {
    conv1_blocks(image, false, weight, bias, map, scratch);
}

static void conv1_toom_cook_u8(const uint8_t *face, const float *weight, const float *bias, float *map, float *scratch) {
    conv1_blocks(face, true, weight, bias, map, scratch);
}
