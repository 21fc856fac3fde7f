/* Weighted sums of rows of bytes, for scale.c. Over simd/. */

/* `count` and `add` are constants where this is inlined, so that a sum stays in its register. A frame seldom is in the cache,
 * and its rows are too short for the CPU to see that the next ones follow: they are asked for here. */
MXN_INLINE void average_some(const uint8_t *const rows[MXN_SCALE_ROWS], const uint16_t weight[MXN_SCALE_ROWS], const int count,
                             int elements, ptrdiff_t ahead, const bool add, uint16_t *sum) {
    const uint8_t *row[MXN_SCALE_ROWS];
    vh w[MXN_SCALE_ROWS];
#pragma GCC unroll 5
    for (int r = 0; r < count; r++) row[r] = rows[r], w[r] = vh_constant(weight[r]);
    int i = 0;
    for (; i + 2 * VH_LANES <= elements; i += 2 * VH_LANES) {
        if (i % MXN_CACHE_LINE == 0)
#pragma GCC unroll 5
            for (int r = 0; r < count; r++) __builtin_prefetch((const void *)((uintptr_t)(row[r] + i) + (uintptr_t)ahead));
        vh s[2];
#pragma GCC unroll 2
        for (int v = 0; v < 2; v++) s[v] = add ? vh_load(sum + i + v * VH_LANES) : vh_zero();
#pragma GCC unroll 5
        for (int r = 0; r < count; r++)
#pragma GCC unroll 2
            for (int v = 0; v < 2; v++) {
                const uint8_t *bytes = row[r] + i + v * VH_LANES;
                /* A weight of 256 has no other beside it. */
                s[v] = count == 1 ? vh_multiply_add(vh_load_u8(bytes), w[r], s[v]) : vh_multiply_add_u8(bytes, w[r], s[v]);
            }
#pragma GCC unroll 2
        for (int v = 0; v < 2; v++) vh_store(sum + i + v * VH_LANES, s[v]);
    }
    for (; i < elements; i++) {
        uint16_t s = add ? sum[i] : 0;
        for (int r = 0; r < count; r++) s = (uint16_t)(s + weight[r] * rows[r][i]);
        sum[i] = s;
    }
}

/* sum[i] of `count` rows' weight[r] * rows[r][i], added to what is there if `add`; weights of all calls for a sum come to 256. */
static void average_rows(const uint8_t *const rows[MXN_SCALE_ROWS], const uint16_t weight[MXN_SCALE_ROWS], int count,
                         int elements, ptrdiff_t ahead, bool add, uint16_t *sum) {
    switch (add ? -count : count) {
    case 1: average_some(rows, weight, 1, elements, ahead, false, sum); break;
    case 2: average_some(rows, weight, 2, elements, ahead, false, sum); break;
    case 3: average_some(rows, weight, 3, elements, ahead, false, sum); break;
    case 4: average_some(rows, weight, 4, elements, ahead, false, sum); break;
    case 5: average_some(rows, weight, 5, elements, ahead, false, sum); break;
    case -1: average_some(rows, weight, 1, elements, ahead, true, sum); break;
    case -2: average_some(rows, weight, 2, elements, ahead, true, sum); break;
    case -3: average_some(rows, weight, 3, elements, ahead, true, sum); break;
    case -4: average_some(rows, weight, 4, elements, ahead, true, sum); break;
    case -5: average_some(rows, weight, 5, elements, ahead, true, sum); break;
    }
}
