/* Rows of a crop: grey conversion, vertical accumulation (plain C that the compiler vectorises), horizontal resampling.
 * No fused multiply-add and no reordering: every instruction set gives the same pixels.
 */

enum { LUMA_BITS = 14 };

MXN_INLINE void gray_pixels(const uint8_t *pixel, const ptrdiff_t step, const ptrdiff_t o0, const ptrdiff_t o1,
                            const ptrdiff_t o2, const int32_t *luma, int count, float *restrict gray) {
    const int32_t l0 = luma[0], l1 = luma[1], l2 = luma[2];
    for (int i = 0; i < count; i++)
        gray[i] = (float)(l0 * pixel[i * step + o0] + l1 * pixel[i * step + o1] + l2 * pixel[i * step + o2]) *
                  (1.0f / (1 << LUMA_BITS));
}

/* The usual layouts with constant strides, for which the compiler shuffles; any other pixel by pixel. */
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

static void accumulate_row(const float *restrict gray, float weight, int count, float *restrict sum) {
    for (int i = 0; i < count; i++) sum[i] += weight * gray[i];
}

/* The rows fill the lanes, so that a tap is one broadcast weight and one load, wherever it starts. */
static void resample_block(const float *block, const int32_t *first, const int32_t *last, const float *weight, int taps,
                           int count, int rows, uint8_t *out) {
    enum { VECTORS = MXN_CROP_ROWS / VF_LANES };
    for (int i = 0; i < count; i++, weight += taps) {
        vf sum[VECTORS];
        const float *source = block + (size_t)first[i] * MXN_CROP_ROWS;
#pragma GCC unroll 16
        for (int v = 0; v < VECTORS; v++) sum[v] = vf_zero();
        for (int t = 0; t < last[i] - first[i]; t++, source += MXN_CROP_ROWS)
#pragma GCC unroll 16
            for (int v = 0; v < VECTORS; v++)
                sum[v] = vf_add(sum[v], vf_multiply(vf_broadcast(weight + t), vf_load(source + v * VF_LANES)));
        _Alignas(MXN_ALIGNMENT) float value[MXN_CROP_ROWS];
#pragma GCC unroll 16
        for (int v = 0; v < VECTORS; v++) vf_store(value + v * VF_LANES, sum[v]);
        for (int r = 0; r < rows; r++) out[r * count + i] = (uint8_t)(value[r] + 0.5f);
    }
}
