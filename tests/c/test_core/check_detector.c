/* The detector's networks and whole frames, beside the scalar backend. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "checks.h"

/* Depthwise sums stay small enough for kernels that round them to 16 bits. */
static mxn_detector_weights make_detector_weights(void) {
    static const int channels[MXN_DETECTOR_UNITS][2] = {{16, 32}, {32, 32}, {32, 32}, {32, 64}, {64, 64}, {64, 64},
                                                        {64, 64}, {64, 64}, {64, 64}, {32, 32}, {64, 64}, {64, 64}};
    static const int refiner[MXN_REFINER_UNITS][2] = {{16, 32}, {32, 64}, {64, 64}, {64, 64}};
    mxn_detector_weights w = {.stem_weight = random_weights(9 * 16, 0.5), .stem_bias = random_weights(16, 0.3)};
    for (int i = 0; i < MXN_DETECTOR_UNITS + MXN_REFINER_UNITS; i++) {
        const int *c = i < MXN_DETECTOR_UNITS ? channels[i] : refiner[i - MXN_DETECTOR_UNITS];
        const size_t in = (size_t)c[0], out = (size_t)c[1];
        *(i < MXN_DETECTOR_UNITS ? &w.unit[i] : &w.refiner_unit[i - MXN_DETECTOR_UNITS]) = (mxn_unit_weights){
            random_weights(9 * in, 0.7 / 8), random_weights(in * out, 8 * sqrt(6.0 / c[0])), random_weights(out, 0.3)};
    }
    w.lateral_weight = random_weights(64 * 32, 0.2), w.lateral_bias = random_weights(32, 0.3);
    for (int l = 0; l < MXN_DETECTOR_LEVELS; l++)
        w.out[l] = (mxn_out_weights){random_weights(l == 0 ? 32 * 5 : 64 * 5, 0.1), random_weights(5, 0.3)};
    w.refiner_stem_weight = random_weights(9 * 16, 0.5), w.refiner_stem_bias = random_weights(16, 0.3);
    w.refiner_out = (mxn_out_weights){random_weights(MXN_REFINER_FLAT * 5, 0.02), random_weights(5, 0.3)};
    return w;
}

static void free_detector_weights(mxn_detector_weights *w) {
    free((void *)w->stem_weight), free((void *)w->stem_bias), free((void *)w->lateral_weight), free((void *)w->lateral_bias);
    free((void *)w->refiner_stem_weight), free((void *)w->refiner_stem_bias);
    free((void *)w->refiner_out.weight), free((void *)w->refiner_out.bias);
    for (int i = 0; i < MXN_DETECTOR_UNITS + MXN_REFINER_UNITS; i++) {
        mxn_unit_weights *u = i < MXN_DETECTOR_UNITS ? &w->unit[i] : &w->refiner_unit[i - MXN_DETECTOR_UNITS];
        free((void *)u->depthwise), free((void *)u->pointwise), free((void *)u->bias);
    }
    for (int l = 0; l < MXN_DETECTOR_LEVELS; l++) free((void *)w->out[l].weight), free((void *)w->out[l].bias);
}

static double largest_error(const float *found, const float *expected, ptrdiff_t count) {
    double largest = 0, error = 0;
    for (ptrdiff_t i = 0; i < count; i++) {
        largest = fmax(largest, fabs((double)expected[i]));
        error = fmax(error, isfinite(found[i]) ? fabs((double)found[i] - expected[i]) : INFINITY);
    }
    return error / largest;
}

double check_detector(const mxn_backend *backend, const mxn_backend *scalar) {
#ifdef MXN_TEST_QUICK
    static const int sizes[][2] = {{1, 1}, {31, 17}};
#else
    static const int sizes[][2] = {{1, 1}, {3, 2}, {31, 17}, {100, 7}, {97, 60}, {31, 17}};
#endif
    static float ours[4096 * MXN_DETECTOR_ANSWERS], theirs[4096 * MXN_DETECTOR_ANSWERS];
    mxn_detector_weights weights = make_detector_weights();
    mxn_detector *detector[2];
    mxn_detector_workspace *workspace[2] = {mxn_detector_workspace_new(), mxn_detector_workspace_new()};
    double worst = 0;
    if (!workspace[0] || !workspace[1] || mxn_detector_new(&detector[0], &weights, backend) != MXN_OK ||
        mxn_detector_new(&detector[1], &weights, scalar) != MXN_OK)
        abort();
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        const int width = sizes[s][0], height = sizes[s][1];
        uint8_t *gray = guarded((size_t)(width * height), s % 2);
        for (int i = 0; i < width * height; i++) gray[i] = (uint8_t)random_bits();
        if (mxn_detector_answers(detector[0], workspace[0], gray, width, height, ours) != MXN_OK ||
            mxn_detector_answers(detector[1], workspace[1], gray, width, height, theirs) != MXN_OK)
            abort();
        worst = fmax(worst, largest_error(ours, theirs, mxn_detector_cells(width, height) * MXN_DETECTOR_ANSWERS));
        const mxn_image image = {gray, width, height, width, 1, 0, MXN_COLOR_GRAY};
        const mxn_detect_options options = {1.0, 0.0f, 3}, nonsense[] = {{0.0, 0.5f, 3}, {0.1, 1.5f, 3}, {0.1, 0.5f, 0}};
        mxn_detection found[3];
        int count = -1;
        if (mxn_detect(detector[0], workspace[0], &image, &options, found, &count) != MXN_OK || count < 0 || count > 3)
            worst = INFINITY;
        for (int i = 0; i < 3; i++)
            if (mxn_detect(detector[0], workspace[0], &image, &nonsense[i], found, &count) != MXN_ERROR_ARGUMENT)
                worst = INFINITY;
    }
    uint8_t *pixels = guarded(MXN_REFINER_PIXELS, true);
    for (int i = 0; i < MXN_REFINER_PIXELS; i++) pixels[i] = (uint8_t)random_bits();
    mxn_refiner_answers(detector[0], workspace[0], pixels, ours);
    mxn_refiner_answers(detector[1], workspace[1], pixels, theirs);
    worst = fmax(worst, largest_error(ours, theirs, MXN_DETECTOR_ANSWERS));
    for (int i = 0; i < 2; i++) {
        mxn_detector_free(detector[i]);
        mxn_detector_workspace_free(workspace[i]);
    }
    free_detector_weights(&weights);
    return worst;
}
