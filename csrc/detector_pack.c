/* The face detector's weights as users have them -> the aligned layout that the kernels read. Calls nothing. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "detector.h"

static const struct {
    int inputs, outputs;
} refiner_units[MXN_REFINER_UNITS] = {
    {16, 32}, {32, 64}, {64, 64}, {64, 64},
};

/* A copy; measures when memory is NULL. */
static float *place(char *memory, size_t *offset, const float *from, int count) {
    float *to = memory ? (float *)(void *)(memory + *offset) : NULL;
    *offset += aligned((size_t)count * sizeof(float));
    return to ? memcpy(to, from, (size_t)count * sizeof(float)) : NULL;
}

/* The weights of the answers, ic-oc -> oc-ic. */
static float *place_answers(char *memory, size_t *offset, const float *from, int inputs) {
    float *to = memory ? (float *)(void *)(memory + *offset) : NULL;
    *offset += aligned((size_t)inputs * ANSWERS * sizeof(float));
    for (int i = 0; to && i < inputs; i++)
        for (int o = 0; o < ANSWERS; o++) to[o * inputs + i] = from[i * ANSWERS + o];
    return to;
}

/* A depthwise sum of 1, rounded to 16 bits: sums up to 8 fit. */
static const float PAIRS_ONE = 4096.0f;

/* Weights of one output as 16-bit integers, in-2 elements apart; returns what makes of their sum of products a float.
 * No sum of products of such weights and any 16-bit inputs overflows. */
static float round_weights(const float *from, int in, int out, int16_t *to) {
    double sum = 0, largest = 0;
    for (int i = 0; i < in; i++) {
        const double size = fabs((double)from[(ptrdiff_t)i * out]);
        sum += size;
        largest = size > largest ? size : largest;
    }
    /* Rounding adds half to each weight. */
    double scale = (INT32_MAX / -(double)INT16_MIN - 0.5 * in) / sum;
    if (!(scale * largest <= INT16_MAX)) scale = largest > 0 ? INT16_MAX / largest : 1;
    for (int i = 0; i < in; i++) to[i / 2 * (ptrdiff_t)out * 2 + i % 2] = (int16_t)lrint(from[(ptrdiff_t)i * out] * scale);
    return (float)(1 / (scale * PAIRS_ONE));
}

/* One unit in the form that the backend's kernels want. */
static mxn_detector_unit place_unit(const mxn_detector *d, char *memory, size_t *offset, const mxn_unit_weights *w,
                                    int in, int out) {
    mxn_detector_unit u = {.depthwise = place(memory, offset, w->depthwise, 9 * in)};
    if (d->backend->detector->pairs) {
        int16_t *pairs = memory ? (int16_t *)(void *)(memory + *offset) : NULL;
        *offset += aligned((size_t)in * (size_t)out * sizeof *pairs);
        u.pointwise = pairs;
        u.scale = place(memory, offset, w->bias, out);
        for (int i = 0; memory && i < 9 * in; i++) u.depthwise[i] *= PAIRS_ONE;
        for (int o = 0; memory && o < out; o++) u.scale[o] = round_weights(w->pointwise + o, in, out, pairs + 2 * (ptrdiff_t)o);
    } else
        u.pointwise = place(memory, offset, w->pointwise, in * out);
    u.bias = place(memory, offset, w->bias, out);
    return u;
}

static size_t pack(mxn_detector *d, const mxn_detector_weights *w, char *memory) {
    size_t offset = aligned(sizeof *d);
    d->stem_weight = place(memory, &offset, w->stem_weight, 9 * MXN_DETECTOR_STEM);
    d->stem_bias = place(memory, &offset, w->stem_bias, MXN_DETECTOR_STEM);
    for (int i = 0; i < MXN_DETECTOR_UNITS; i++)
        d->unit[i] = place_unit(d, memory, &offset, &w->unit[i], units[i].inputs, units[i].outputs);
    d->lateral_weight = place(memory, &offset, w->lateral_weight, channels_of[1] * channels_of[0]);
    d->lateral_bias = place(memory, &offset, w->lateral_bias, channels_of[0]);
    for (int l = 0; l < LEVELS; l++) {
        d->out_weight[l] = place_answers(memory, &offset, w->out[l].weight, channels_of[l]);
        d->out_bias[l] = place(memory, &offset, w->out[l].bias, ANSWERS);
    }
    d->refiner_stem_weight = place(memory, &offset, w->refiner_stem_weight, 9 * MXN_DETECTOR_STEM);
    d->refiner_stem_bias = place(memory, &offset, w->refiner_stem_bias, MXN_DETECTOR_STEM);
    for (int i = 0; i < MXN_REFINER_UNITS; i++)
        d->refiner_unit[i] =
            place_unit(d, memory, &offset, &w->refiner_unit[i], refiner_units[i].inputs, refiner_units[i].outputs);
    d->refiner_out_weight = place_answers(memory, &offset, w->refiner_out.weight, MXN_REFINER_FLAT);
    d->refiner_out_bias = place(memory, &offset, w->refiner_out.bias, ANSWERS);
    return offset;
}

mxn_status mxn_detector_new(mxn_detector **detector, const mxn_detector_weights *weights, const mxn_backend *backend) {
    mxn_detector measured = {.backend = backend};
    const size_t bytes = pack(&measured, weights, NULL);
    mxn_detector *d = aligned_alloc(MXN_ALIGNMENT, bytes);
    if (!d) return MXN_ERROR_MEMORY;
    d->backend = backend;
    pack(d, weights, (char *)d);
    *detector = d;
    return MXN_OK;
}

const mxn_backend *mxn_detector_backend(const mxn_detector *detector) { return detector->backend; }

void mxn_detector_free(mxn_detector *detector) { free(detector); }
