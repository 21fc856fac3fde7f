/* Horizontal means of rows that average_rows() made, for scale.c. Over simd/.
 *
 * The rows fill the lanes: they are turned, so that the same element of each lies in a vector, and what is left of an output
 * pixel, mean and conversion to grey, is one sum of products. Integers throughout: every instruction set gives the same bytes.
 *
 *     sum: row-element      turned: element-in-VH_LANES rows
 */

MXN_INLINE void turn_rows(const uint16_t *sum, size_t pitch, int elements, vh *turned) {
    if (VH_LANES == 1) {
        for (int i = 0; i < elements; i++) turned[i] = vh_load(sum + i);
        return;
    }
    for (int i = 0; i < elements; i += 8) {
        vh v[8], t[8];
        /* Each half of a vector of sixteen is turned by itself: rows 0 to 7 in one, 8 to 15 in the other. */
#pragma GCC unroll 8
        for (int r = 0; r < 8; r++) v[r] = vh_load_halves(sum + pitch * (size_t)r + i, sum + pitch * (size_t)(r + VH_LANES - 8) + i);
        /* Three rounds of interleaving rows that are 4 apart move element (r, i) to (i, r). */
#pragma GCC unroll 3
        for (int round = 0; round < 3; round++) {
#pragma GCC unroll 4
            for (int r = 0; r < 4; r++) {
                t[2 * r] = vh_interleave_low(v[r], v[r + 4]);
                t[2 * r + 1] = vh_interleave_high(v[r], v[r + 4]);
            }
#pragma GCC unroll 8
            for (int r = 0; r < 8; r++) v[r] = t[r];
        }
#pragma GCC unroll 8
        for (int r = 0; r < 8; r++) turned[i + r] = v[r];
    }
}

/* See mxn_float32_kernels. */
static void average_columns(const uint16_t *sum, size_t pitch, int elements, const mxn_scale_column *column, int width,
                            const uint32_t *weight, int taps, void *turned, int rows, uint8_t *out) {
    turn_rows(sum, pitch, elements, turned);
    for (int x = 0; x < width; x++, weight += taps) {
        const vh *element = (const vh *)turned + column[x].first;
        vh total = vh_constant(column[x].start);
        /* Weights are rounded: their sum may be a little above one. Four products at a time hide their latency. */
        int i = 0;
        for (; i + 4 <= column[x].count; i += 4) {
            vh product[4];
#pragma GCC unroll 4
            for (int k = 0; k < 4; k++) product[k] = vh_multiply_high(element[i + k], vh_repeat(weight + i + k));
#pragma GCC unroll 4
            for (int k = 0; k < 4; k++) total = vh_add_saturated(total, product[k]);
        }
        for (; i < column[x].count; i++) total = vh_add_saturated(total, vh_multiply_high(element[i], vh_repeat(weight + i)));
        uint16_t value[VH_LANES];
        vh_store(value, total);
        for (int r = 0; r < rows; r++) out[(size_t)r * (size_t)width + (size_t)x] = (uint8_t)(value[r] >> 8);
    }
}
