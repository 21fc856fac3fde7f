/* conv1 with stride 2, its bias, ReLU and max-pool, by Toom-Cook convolution. Over simd/, shapes.h and toom_cook.h.
 *
 *     src:    y-x, padded, float32 or bytes     weight: point-product-tap-oc (transform.c)
 *     dst:    y-x-oc, padded                    scratch: struct conv1_scratch
 *
 * A strip of 6 output rows is 3 rows of the pooled map. Its 9 source rows of each parity become 9 points (rows of `plain`);
 * `difference` is what F(2,2) wants beside them, R[x] - R[x + 2]. Some pairs of output columns at a time are then summed up
 * for every point, and interpolated, pooled and finished while they are in the first-level cache.
 *
 * As in conv_direct.inc.h the output channels fill the lanes and the source value is a broadcast.
 */
#include "../toom_cook.h"

enum {
    CONV1_PREFERS_TOOM_COOK = 1, /* on every instruction set it is faster than conv1_pooled */
    CONV1_READS_U8 = VF_WIDENS,  /* the rows that two strips share are widened twice, which must cost little */

    CONV1_ROW = MXN_IMAGE_PITCH + VF_LANES, /* a vector more, so that a load shifted by two stays inside */
    CONV1_PAIR = 4, /* columns of the source from one pair of output columns to the next, and from one half to the other */
    CONV1_HALF_WEIGHTS = 2 * MXN_CONV1_CHANNELS,
    CONV1_COLUMNS = 2 * MXN_CONV1_POOLED_OUTPUT + MXN_CONV1_KERNEL - 2,

    /* Pairs of columns at a time: accumulators of two columns each, weights and one broadcast must fit the registers. */
    CONV1_GROUP = VF_LANES >= 16 ? 7 : VF_LANES >= 8 || VF_REGISTERS >= 32 ? 3 : 1,
    /* Both halves of a kernel row at once: the second one's source is that of the next pair's first, so that they share
     * broadcasts. Takes twice the registers for weights. */
    CONV1_HALVES = VF_LANES >= 16 ? 2 : 1,
    /* The sums of a point stay in registers while those of its negative are made. */
    CONV1_KEEPS = VF_LANES >= 16,
    /* Fewer sums than multiply-adds in flight: what both columns share is then added up in two. Where points are kept, the sums
     * of the other one fill the gaps. */
    CONV1_SPLIT = VF_LANES >= 8 && !CONV1_KEEPS && CONV1_GROUP * CONV1_VECTORS < 8,
};

typedef struct conv1_scratch {
    float plain[MXN_CONV1_POINTS][2][CONV1_ROW];      /* point-row parity-x */
    float difference[MXN_CONV1_POINTS][2][CONV1_ROW];
    float sum[MXN_CONV1_POINTS][2 * CONV1_GROUP][MXN_CONV1_CHANNELS]; /* point-column-oc */
} conv1_scratch;
_Static_assert(sizeof(conv1_scratch) <= MXN_SCRATCH * sizeof(float), "the scratch memory holds it");

/* The image is float32, or bytes. */
MXN_INLINE vf conv1_load(const void *image, const bool bytes, const ptrdiff_t place) {
    return bytes ? vf_load_u8((const uint8_t *)image + place) : vf_load((const float *)image + place);
}

/* first: the first row of the strip. The columns behind CONV1_COLUMNS are loaded and stored, but never used. */
MXN_INLINE void conv1_transform_source(const void *image, const bool bytes, const int first, conv1_scratch *scratch) {
    enum { PAIRS = MXN_CONV1_PAIRS_OF_POINTS, INFINITE = 2 * PAIRS };
    for (int parity = 0; parity < 2; parity++) {
        for (int x = 0; x < CONV1_COLUMNS; x += VF_LANES) {
            vf row[MXN_CONV1_POINTS];
#pragma GCC unroll 9
            for (int i = 0; i < MXN_CONV1_POINTS; i++) 
                row[i] = conv1_load(image, bytes, (first + 2 * i + parity) * MXN_IMAGE_PITCH + x);
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
                vf_store(&scratch->plain[2 * p][parity][x], vf_add(odd, even));
                vf_store(&scratch->plain[2 * p + 1][parity][x], vf_subtract(odd, even));
            }
            vf even = row[8];
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) even = vf_multiply_add(vf_constant(mxn_conv1_infinity[i]), row[2 * i], even);
            vf_store(&scratch->plain[INFINITE][parity][x], even);
        }
        for (int p = 0; p < MXN_CONV1_POINTS; p++) {
            const float *plain = scratch->plain[p][parity];
            for (int x = 0; x < CONV1_COLUMNS - 2; x += VF_LANES)
                vf_store(&scratch->difference[p][parity][x],
                         vf_subtract(vf_load(plain + x), vf_load_unaligned(plain + x + 2)));
        }
    }
}

/* The first tap of a step, and where its source lies: row parity-half of the kernel row-column parity. */
MXN_INLINE int conv1_tap(const int step) { return CONV1_HALVES == 2 ? step / 2 * 4 + step % 2 : step; }
MXN_INLINE int conv1_place(const int tap) { return tap / 4 * CONV1_ROW + tap / 2 % 2 * CONV1_PAIR + tap % 2; }

/* Adds one tap of one product, or one of each half, to the sums of `pairs` pairs of columns. */
MXN_INLINE void conv1_add_taps(const float *src, const float *weight, const int pairs, vf sum[CONV1_GROUP][CONV1_VECTORS]) {
    vf_tap_barrier();
    vf w[CONV1_HALVES][CONV1_VECTORS];
#pragma GCC unroll 2
    for (int half = 0; half < CONV1_HALVES; half++)
#pragma GCC unroll 4
        for (int v = 0; v < CONV1_VECTORS; v++) w[half][v] = vf_load(weight + half * CONV1_HALF_WEIGHTS + v * VF_LANES);
#pragma GCC unroll 8
    for (int t = 0; t < pairs + CONV1_HALVES - 1; t++) {
        const vf value = vf_broadcast(src + CONV1_PAIR * t);
#pragma GCC unroll 2
        for (int half = 0; half < CONV1_HALVES; half++)
            if (t >= half && t - half < pairs)
#pragma GCC unroll 4
                for (int v = 0; v < CONV1_VECTORS; v++)
                    sum[t - half][v] = vf_multiply_add(w[half][v], value, sum[t - half][v]);
    }
}

/* Sums for `pairs` pairs of columns at one point; column of the pair first. */
MXN_INLINE void conv1_sum_point(const float *weight, const float *plain, const float *difference, const int pairs,
                                vf sum[2][CONV1_GROUP][CONV1_VECTORS]) {
    enum { CHANNELS = MXN_CONV1_CHANNELS, PRODUCT = MXN_CONV1_PAIR_TAPS * CHANNELS, STEPS = MXN_CONV1_PAIR_TAPS / CONV1_HALVES };
#pragma GCC unroll 7
    for (int t = 0; t < pairs; t++)
#pragma GCC unroll 4
        for (int v = 0; v < CONV1_VECTORS; v++) sum[0][t][v] = sum[1][t][v] = vf_zero();
#pragma GCC unroll 8
    for (int step = 0; step < STEPS; step++) {
        const int tap = conv1_tap(step), place = conv1_place(tap);
        conv1_add_taps(plain + 2 + place, weight + tap * CHANNELS, pairs, sum[CONV1_SPLIT ? tap % 2 : 0]);
    }
#pragma GCC unroll 7
    for (int t = 0; t < pairs; t++)
#pragma GCC unroll 4
        for (int v = 0; v < CONV1_VECTORS; v++)
            sum[0][t][v] = sum[1][t][v] = CONV1_SPLIT ? vf_add(sum[0][t][v], sum[1][t][v]) : sum[0][t][v];
#pragma GCC unroll 8
    for (int step = 0; step < STEPS; step++) {
        const int tap = conv1_tap(step), place = conv1_place(tap);
        conv1_add_taps(difference + place, weight + PRODUCT + tap * CHANNELS, pairs, sum[0]);
        conv1_add_taps(difference + 2 + place, weight + 2 * PRODUCT + tap * CHANNELS, pairs, sum[1]);
    }
}

MXN_INLINE void conv1_store(vf sum[2][CONV1_GROUP][CONV1_VECTORS], float dst[][MXN_CONV1_CHANNELS], const int channel,
                            const int pairs) {
#pragma GCC unroll 2
    for (int column = 0; column < 2; column++)
#pragma GCC unroll 7
        for (int t = 0; t < pairs; t++)
#pragma GCC unroll 4
            for (int v = 0; v < CONV1_VECTORS; v++) vf_store(&dst[2 * t + column][channel + v * VF_LANES], sum[column][t][v]);
}

/* The same at every point; x: where the first one's source begins. Of each pair of points ±c the even and odd part is stored,
 * f(c) + f(-c) and f(c) - f(-c). */
MXN_INLINE void conv1_sum(const float *weight, conv1_scratch *scratch, const int x, const int channel, const int pairs) {
    enum { POINT = MXN_CONV1_PRODUCTS * MXN_CONV1_PAIR_TAPS * MXN_CONV1_CHANNELS, INFINITE = MXN_CONV1_POINTS - 1 };
    vf plus[2][CONV1_GROUP][CONV1_VECTORS], minus[2][CONV1_GROUP][CONV1_VECTORS];
    for (int p = 0; p < INFINITE; p += 2, weight += 2 * POINT) {
        float(*even)[MXN_CONV1_CHANNELS] = scratch->sum[p], (*odd)[MXN_CONV1_CHANNELS] = scratch->sum[p + 1];
        conv1_sum_point(weight, &scratch->plain[p][0][x], &scratch->difference[p][0][x], pairs, plus);
        if (!CONV1_KEEPS) conv1_store(plus, even, channel, pairs);
        conv1_sum_point(weight + POINT, &scratch->plain[p + 1][0][x], &scratch->difference[p + 1][0][x], pairs, minus);
#pragma GCC unroll 2
        for (int column = 0; column < 2; column++)
#pragma GCC unroll 7
            for (int t = 0; t < pairs; t++)
#pragma GCC unroll 4
                for (int v = 0; v < CONV1_VECTORS; v++) {
                    const int place = 2 * t + column, lanes = channel + v * VF_LANES;
                    const vf kept = CONV1_KEEPS ? plus[column][t][v] : vf_load(&even[place][lanes]);
                    vf_store(&even[place][lanes], vf_add(kept, minus[column][t][v]));
                    vf_store(&odd[place][lanes], vf_subtract(kept, minus[column][t][v]));
                }
    }
    conv1_sum_point(weight, &scratch->plain[INFINITE][0][x], &scratch->difference[INFINITE][0][x], pairs, plus);
    conv1_store(plus, scratch->sum[INFINITE], channel, pairs);
}

/* Interpolates, pools and finishes. dst: the first pooled pixel of the group in the strip's first row. */
MXN_INLINE void conv1_finish(const conv1_scratch *scratch, const float *bias, float *dst, const int pairs) {
    enum { PAIRS = MXN_CONV1_PAIRS_OF_POINTS, ROWS = MXN_CONV1_STRIP / 2, COLUMNS = 2 };
    for (int t = 0; t < pairs; t++, dst += MXN_CONV1_CHANNELS)
        for (int c = 0; c < MXN_CONV1_CHANNELS; c += VF_LANES) {
            vf best[ROWS];
            /* The even parts give output rows 0, 2 and 4, the odd parts 1, 3 and 5. */
#pragma GCC unroll 2
            for (int odd = 0; odd < 2; odd++) {
                vf part[COLUMNS][PAIRS];
#pragma GCC unroll 2
                for (int x = 0; x < COLUMNS; x++)
#pragma GCC unroll 4
                    for (int p = 0; p < PAIRS; p++) part[x][p] = vf_load(&scratch->sum[2 * p + odd][2 * t + x][c]);
#pragma GCC unroll 3
                for (int row = 0; row < ROWS; row++) {
                    vf y[COLUMNS] = {part[0][0], part[1][0]};
#pragma GCC unroll 3
                    for (int p = 1; p < PAIRS; p++) {
                        const vf power = vf_constant(mxn_conv1_power[p][2 * row + odd]);
#pragma GCC unroll 2
                        for (int x = 0; x < COLUMNS; x++)
                            y[x] = row + odd == 0 ? vf_add(y[x], part[x][p]) : vf_multiply_add(power, part[x][p], y[x]);
                    }
                    if (2 * row + odd == MXN_CONV1_STRIP - 1)
#pragma GCC unroll 2
                        for (int x = 0; x < COLUMNS; x++) y[x] = vf_add(y[x], vf_load(&scratch->sum[2 * PAIRS][2 * t + x][c]));
                    const vf larger = vf_max(y[0], y[1]);
                    best[row] = odd ? vf_max(best[row], larger) : larger;
                }
            }
#pragma GCC unroll 3
            for (int row = 0; row < ROWS; row++)
                vf_store(dst + row * MXN_MAP_PITCH + c, vf_max(vf_add(best[row], vf_load(bias + c)), vf_zero()));
        }
}

MXN_INLINE void conv1_group(const float *weight, const float *bias, conv1_scratch *scratch, float *dst, const int first,
                            const int pairs) {
    for (int c = 0; c < MXN_CONV1_CHANNELS; c += CONV1_VECTORS * VF_LANES)
        conv1_sum(weight + c, scratch, 4 * first, c, pairs);
    conv1_finish(scratch, bias, dst + first * MXN_CONV1_CHANNELS, pairs);
}

MXN_INLINE void conv1_strips(const void *image, const bool bytes, const float *weight, const float *bias, float *map,
                             float *scratch) {
    enum { REST = MXN_CONV1_PAIRS % CONV1_GROUP, WHOLE = MXN_CONV1_PAIRS - REST };
    conv1_scratch *s = (conv1_scratch *)scratch;
    float *dst = map + MAP_INTERIOR;
    for (int strip = 0; strip < MXN_CONV1_STRIPS; strip++) {
        conv1_transform_source(image, bytes, strip * MXN_CONV1_STRIP * MXN_CONV1_POOLED_STRIDE, s);
        for (int t = 0; t < WHOLE; t += CONV1_GROUP) conv1_group(weight, bias, s, dst, t, CONV1_GROUP);
        if (REST > 0) conv1_group(weight, bias, s, dst, WHOLE, REST);
        dst += MXN_CONV1_STRIP / 2 * MXN_MAP_PITCH;
    }
}

static void conv1_toom_cook(const float *image, const float *weight, const float *bias, float *map, float *scratch) {
    conv1_strips(image, false, weight, bias, map, scratch);
}

static void conv1_toom_cook_u8(const uint8_t *image, const float *weight, const float *bias, float *map, float *scratch) {
    conv1_strips(image, true, weight, bias, map, scratch);
}
