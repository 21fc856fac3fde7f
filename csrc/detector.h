/* A packed face detector, shared by detector_pack.c (which fills it) and detect.c (which runs it). */
#ifndef MXN_DETECTOR_H
#define MXN_DETECTOR_H

#include "backend.h"

enum { LEVELS = MXN_DETECTOR_LEVELS, ANSWERS = MXN_DETECTOR_ANSWERS };

static const int channels_of[LEVELS] = {32, 64, 64};

/* Of the first network, inputs, outputs and kernel of each unit; the last three are the heads'. */
static const struct {
    int inputs, outputs, kind;
} units[MXN_DETECTOR_UNITS] = {
    {16, 32, MXN_UNIT_16_32_2}, {32, 32, MXN_UNIT_32_32_1}, {32, 32, MXN_UNIT_32_32_1},
    {32, 64, MXN_UNIT_32_64_2}, {64, 64, MXN_UNIT_64_64_1}, {64, 64, MXN_UNIT_64_64_1},
    {64, 64, MXN_UNIT_64_64_2}, {64, 64, MXN_UNIT_64_64_1}, {64, 64, MXN_UNIT_64_64_1},
    {32, 32, MXN_UNIT_32_32_1}, {64, 64, MXN_UNIT_64_64_1}, {64, 64, MXN_UNIT_64_64_1},
};
enum { HEADS = 9 }; /* the first of them */

/* Every array is inside the detector's one allocation, aligned to MXN_ALIGNMENT. */
struct mxn_detector {
    const mxn_backend *backend;
    float *stem_weight, *stem_bias, *lateral_weight, *lateral_bias;
    mxn_detector_unit unit[MXN_DETECTOR_UNITS];
    float *out_weight[LEVELS], *out_bias[LEVELS]; /* oc-ic */
    float *refiner_stem_weight, *refiner_stem_bias;
    mxn_detector_unit refiner_unit[MXN_REFINER_UNITS];
    float *refiner_out_weight, *refiner_out_bias; /* oc-ic */
};

static inline size_t aligned(size_t bytes) { return (bytes + MXN_ALIGNMENT - 1) / MXN_ALIGNMENT * MXN_ALIGNMENT; }

#endif
