/* Rows of a crop: grey conversion (plain C that the compiler vectorises where there are no shuffles for it), vertical
 * accumulation, horizontal resampling. No fused multiply-add and no reordering: every instruction set gives the same pixels.
 */

enum {
    LUMA_BITS = 14,
    /* Enough sums to hide the latency of one, on cores that do not reorder too. */
    ACCUMULATED_VECTORS = VF_LANES == 1 ? MXN_CROP_ROWS : VF_LANES == 4 && VF_REGISTERS >= 32 ? 8 : 4,
};

MXN_INLINE void gray_pixels(const uint8_t *pixel, const ptrdiff_t step, const ptrdiff_t o0, const ptrdiff_t o1,
                            const ptrdiff_t o2, const int32_t *luma, int count, float *restrict gray) {
    const int32_t l0 = luma[0], l1 = luma[1], l2 = luma[2];
    const float scale = 1.0f / (1 << LUMA_BITS);
    int i = 0;
#ifdef VF_LUMA
    /* Two pixels more, since up to 4 bytes behind the last one are read. */
    if ((step == 3 || step == 4) && o0 == 0 && o1 == 1 && o2 == 2)
        for (; i + 2 < count && count >= VF_LUMA + 2; i += VF_LUMA) {
            if (i + VF_LUMA + 2 > count) i = count - VF_LUMA - 2; /* some pixels twice */
            vf_store_luma(gray + i, pixel + i * step, (int)step, luma, scale);
        }
#endif
    for (; i < count; i++)
        gray[i] = (float)(l0 * pixel[i * step + o0] + l1 * pixel[i * step + o1] + l2 * pixel[i * step + o2]) * scale;
}

/* The usual layouts with constant strides, for which there are shuffles or the compiler makes them; any other pixel by pixel. */
static void gray_row(const uint8_t *pixel, ptrdiff_t step, const ptrdiff_t offset[3], const int32_t luma[3], int count,
                     float *gray) {
    const bool packed = offset[0] == 0 && offset[1] == 1 && offset[2] == 2;
    if (luma[1] == 0 && luma[2] == 0 && step == 1)
        for (int i = 0; i < count; i++) gray[i] = (float)pixel[i];
    else if (packed && step == 3)
        gray_pixels(pixel, 3, 0, 1, 2, luma, count, gray);
    else if (packed && step == 4)
        gray_pixels(pixel, 4, 0, 1, 2, luma, count, gray);
    else
        gray_pixels(pixel, step, offset[0], offset[1], offset[2], luma, count, gray);
}

/* `vectors` of sums, which stay in registers while all rows are added. */
MXN_INLINE void accumulate_vectors(const float *const *rows, const float *weight, int count, int x, const int vectors,
                                   const bool add, float *sum) {
    vf s[ACCUMULATED_VECTORS];
#pragma GCC unroll 16
    for (int v = 0; v < vectors; v++) s[v] = add ? vf_load(sum + x + v * VF_LANES) : vf_zero();
    for (int r = 0; r < count; r++) {
        const float *row = rows[r] + x;
        const vf w = vf_broadcast(weight + r);
        vf product[ACCUMULATED_VECTORS];
#pragma GCC unroll 16
        for (int v = 0; v < vectors; v++) product[v] = vf_multiply(w, vf_load(row + v * VF_LANES));
#pragma GCC unroll 16
        for (int v = 0; v < vectors; v++) s[v] = vf_add(s[v], product[v]);
    }
#pragma GCC unroll 16
    for (int v = 0; v < vectors; v++) vf_store(sum + x + v * VF_LANES, s[v]);
}

/* See mxn_float32_kernels. */
static void accumulate_rows(const float *const *rows, const float *weight, int count, int length, bool add, float *sum) {
    enum { WIDE = ACCUMULATED_VECTORS * VF_LANES, NARROW = MXN_CROP_ROWS / VF_LANES };
    int x = 0;
    if (add) {
        for (; x + WIDE <= length; x += WIDE) accumulate_vectors(rows, weight, count, x, ACCUMULATED_VECTORS, true, sum);
        for (; x < length; x += MXN_CROP_ROWS) accumulate_vectors(rows, weight, count, x, NARROW, true, sum);
        return;
    }
    for (; x + WIDE <= length; x += WIDE) accumulate_vectors(rows, weight, count, x, ACCUMULATED_VECTORS, false, sum);
    for (; x < length; x += MXN_CROP_ROWS) accumulate_vectors(rows, weight, count, x, NARROW, false, sum);
}

typedef uint8_t u8x16 __attribute__((vector_size(16)));

#if defined(__clang__)
#define INTERLEAVE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define INTERLEAVE(a, b, ...) __builtin_shuffle(a, b, (u8x16){__VA_ARGS__})
#endif

/* 16 × 16 bytes: rows become columns. */
MXN_INLINE void turn_bytes(u8x16 v[16]) {
    /* Four rounds of interleaving rows that are 8 apart move element (r, i) to (i, r). */
#pragma GCC unroll 4
    for (int round = 0; round < 4; round++) {
        u8x16 t[16];
#pragma GCC unroll 8
        for (int r = 0; r < 8; r++) {
            t[2 * r] = INTERLEAVE(v[r], v[r + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            t[2 * r + 1] = INTERLEAVE(v[r], v[r + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
#pragma GCC unroll 16
        for (int r = 0; r < 16; r++) v[r] = t[r];
    }
}
#undef INTERLEAVE

typedef float f32x4 __attribute__((vector_size(16)));
typedef int32_t i32x4 __attribute__((vector_size(16)));

#if defined(__clang__)
#define PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define PICK(a, b, ...) __builtin_shuffle(a, b, (i32x4){__VA_ARGS__})
#endif

/* Rows -> columns of MXN_CROP_ROWS, 4 × 4 at a time. */
MXN_INLINE void turn_floats(const float *const rows[MXN_CROP_ROWS], const int length, float *block) {
    for (int x = 0; x < length; x += 4)
#pragma GCC unroll 4
        for (int r = 0; r < MXN_CROP_ROWS; r += 4) {
            f32x4 v[4], low[2], high[2];
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) memcpy(&v[i], rows[r + i] + x, sizeof *v);
#pragma GCC unroll 2
            for (int i = 0; i < 2; i++) {
                low[i] = PICK(v[2 * i], v[2 * i + 1], 0, 4, 1, 5);
                high[i] = PICK(v[2 * i], v[2 * i + 1], 2, 6, 3, 7);
            }
            v[0] = PICK(low[0], low[1], 0, 1, 4, 5), v[1] = PICK(low[0], low[1], 2, 3, 6, 7);
            v[2] = PICK(high[0], high[1], 0, 1, 4, 5), v[3] = PICK(high[0], high[1], 2, 3, 6, 7);
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) memcpy(block + (x + i) * MXN_CROP_ROWS + r, &v[i], sizeof *v);
        }
}
#undef PICK

/* The rows fill the lanes, so that a tap is one broadcast weight and one load, wherever it starts. */
static void resample_block(const float *const rows[MXN_CROP_ROWS], int length, float *block, const int32_t *first,
                           const int32_t *last, const float *weight, int taps, int count, int written, uint8_t *out) {
    enum { VECTORS = MXN_CROP_ROWS / VF_LANES };
    turn_floats(rows, length, block);
    for (int start = 0; start < count; start += 16) {
        const int columns = count - start < 16 ? count - start : 16;
        u8x16 turned[16] = {{0}};
        for (int i = start; i < start + columns; i++, weight += taps) {
            vf sum[VECTORS];
            const float *source = block + (size_t)first[i] * MXN_CROP_ROWS;
#pragma GCC unroll 16
            for (int v = 0; v < VECTORS; v++) sum[v] = vf_zero();
            for (int t = 0; t < last[i] - first[i]; t++, source += MXN_CROP_ROWS)
#pragma GCC unroll 16
                for (int v = 0; v < VECTORS; v++)
                    sum[v] = vf_add(sum[v], vf_multiply(vf_broadcast(weight + t), vf_load(source + v * VF_LANES)));
#pragma GCC unroll 16
            for (int v = 0; v < VECTORS; v++) vf_store_levels((uint8_t *)&turned[i - start] + v * VF_LANES, sum[v]);
        }
        turn_bytes(turned);
        if (columns == 16)
            for (int r = 0; r < written; r++) memcpy(out + r * count + start, &turned[r], 16);
        else
            for (int r = 0; r < written; r++) memcpy(out + r * count + start, &turned[r], (size_t)columns);
    }
}
