/* Weighted sums of rows of bytes, for scale.c: plain C that the compiler vectorises. */

/* `count` and `add` are constants where this is inlined, so that a sum stays in its register. */
MXN_INLINE void average_some(const uint8_t *const rows[MXN_SCALE_ROWS], const uint16_t weight[MXN_SCALE_ROWS], const int count,
                             int elements, const bool add, uint16_t *restrict sum) {
    const uint8_t *r0 = rows[0], *r1 = rows[count > 1 ? 1 : 0], *r2 = rows[count > 2 ? 2 : 0], *r3 = rows[count > 3 ? 3 : 0],
                  *r4 = rows[count > 4 ? 4 : 0];
    const uint16_t w0 = weight[0], w1 = weight[count > 1 ? 1 : 0], w2 = weight[count > 2 ? 2 : 0],
                   w3 = weight[count > 3 ? 3 : 0], w4 = weight[count > 4 ? 4 : 0];
    for (int i = 0; i < elements; i++) {
        uint16_t s = (uint16_t)(w0 * r0[i]);
        if (count > 1) s = (uint16_t)(s + (uint16_t)(w1 * r1[i]));
        if (count > 2) s = (uint16_t)(s + (uint16_t)(w2 * r2[i]));
        if (count > 3) s = (uint16_t)(s + (uint16_t)(w3 * r3[i]));
        if (count > 4) s = (uint16_t)(s + (uint16_t)(w4 * r4[i]));
        sum[i] = (uint16_t)(s + (add ? sum[i] : 0));
    }
}

/* sum[i] of `count` rows' weight[r] * rows[r][i], added to what is there if `add`; weights of all calls for a sum come to 256. */
static void average_rows(const uint8_t *const rows[MXN_SCALE_ROWS], const uint16_t weight[MXN_SCALE_ROWS], int count,
                         int elements, bool add, uint16_t *restrict sum) {
    switch (add ? -count : count) {
    case 1: average_some(rows, weight, 1, elements, false, sum); break;
    case 2: average_some(rows, weight, 2, elements, false, sum); break;
    case 3: average_some(rows, weight, 3, elements, false, sum); break;
    case 4: average_some(rows, weight, 4, elements, false, sum); break;
    case 5: average_some(rows, weight, 5, elements, false, sum); break;
    case -1: average_some(rows, weight, 1, elements, true, sum); break;
    case -2: average_some(rows, weight, 2, elements, true, sum); break;
    case -3: average_some(rows, weight, 3, elements, true, sum); break;
    case -4: average_some(rows, weight, 4, elements, true, sum); break;
    case -5: average_some(rows, weight, 5, elements, true, sum); break;
    }
}
