/* Weights as users have them -> the aligned layout that the kernels read. Calls transform.c only. */
#include <stdlib.h>
#include <string.h>

#include "model.h"

int mxn_flat_width(mxn_topology topology) {
    return mxn_pools_after_conv2(topology) ? MXN_FLAT_POOLED : MXN_FLAT_PLAIN;
}

static int blocks(int outputs) { return (outputs + MXN_DENSE_BLOCK - 1) / MXN_DENSE_BLOCK; }

/* src: in-out; dst: block-in-16 outputs. What lies beyond `inputs` and `outputs` is already zero in dst, so that the padded
 * outputs of one layer are zero inputs of the next. */
static void pack_dense(float *dst, const float *src, int inputs, int padded_inputs, int outputs) {
    for (int i = 0; i < inputs; i++)
        for (int o = 0; o < outputs; o++)
            dst[((size_t)(o / MXN_DENSE_BLOCK) * padded_inputs + i) * MXN_DENSE_BLOCK + o % MXN_DENSE_BLOCK] =
                src[(size_t)i * outputs + o];
}

mxn_status mxn_model_new(mxn_model **out, const mxn_config *config, const mxn_weights *weights,
                         const mxn_backend *backend, mxn_algorithm algorithm) {
    if (!mxn_config_valid(config) || algorithm < MXN_ALGORITHM_FASTEST || algorithm > MXN_ALGORITHM_TOOM_COOK)
        return MXN_ERROR_ARGUMENT;
    const bool pool1 = mxn_pools_after_conv1(config->topology), pool2 = mxn_pools_after_conv2(config->topology);
    if (algorithm == MXN_ALGORITHM_TOOM_COOK && !pool1 && !pool2) return MXN_ERROR_ARGUMENT;
    const bool fastest = algorithm == MXN_ALGORITHM_FASTEST, forced = algorithm == MXN_ALGORITHM_TOOM_COOK;
    const bool toom_cook1 = pool1 && (fastest ? backend->conv1_prefers_toom_cook : forced);
    const bool toom_cook2 = pool2 && (fastest ? backend->conv2_prefers_toom_cook : forced);

    const int flat = mxn_flat_width(config->topology);
    const int hidden_blocks = blocks(config->hidden), classes_blocks = blocks(config->classes);
    const size_t hidden = (size_t)hidden_blocks * MXN_DENSE_BLOCK, classes = (size_t)classes_blocks * MXN_DENSE_BLOCK;

    mxn_model header = {
        .config = *config,
        .backend = backend,
        .algorithm = toom_cook1 || toom_cook2 ? MXN_ALGORITHM_TOOM_COOK : MXN_ALGORITHM_DIRECT,
        .conv1 = toom_cook1 ? backend->conv1_toom_cook : backend->conv1[pool1],
        .conv2 = toom_cook2 ? backend->conv2_toom_cook : backend->conv2[pool2],
        .flat = flat,
        .hidden_blocks = hidden_blocks,
        .classes_blocks = classes_blocks,
    };
    /* Every count is a multiple of 16 floats, so that each part starts aligned. */
    struct {
        float **part;
        size_t count;
    } parts[] = {
        {&header.conv1_weight, toom_cook1 ? MXN_CONV1_TOOM_COOK_WEIGHTS : MXN_CONV1_WEIGHTS},
        {&header.conv1_bias, MXN_CONV1_CHANNELS},
        {&header.conv2_weight, toom_cook2 ? MXN_CONV2_TOOM_COOK_WEIGHTS : MXN_CONV2_WEIGHTS},
        {&header.conv2_bias, MXN_CONV2_CHANNELS},
        {&header.fc1_weight, flat * hidden},
        {&header.fc1_bias, hidden},
        {&header.fc2_weight, hidden * classes},
        {&header.fc2_bias, classes},
    };
    enum { PARTS = sizeof parts / sizeof *parts };
    const size_t header_bytes = (sizeof header + MXN_ALIGNMENT - 1) / MXN_ALIGNMENT * MXN_ALIGNMENT;
    size_t bytes = header_bytes;
    for (int i = 0; i < PARTS; i++) bytes += parts[i].count * sizeof(float);

    char *memory = aligned_alloc(MXN_ALIGNMENT, bytes);
    if (!memory) return MXN_ERROR_MEMORY;
    memset(memory, 0, bytes);
    float *next = (float *)(memory + header_bytes);
    for (int i = 0; i < PARTS; i++) {
        *parts[i].part = next;
        next += parts[i].count;
    }

    if (toom_cook1)
        mxn_transform_conv1(weights->conv1_weight, header.conv1_weight);
    else
        memcpy(header.conv1_weight, weights->conv1_weight, MXN_CONV1_WEIGHTS * sizeof(float));
    memcpy(header.conv1_bias, weights->conv1_bias, MXN_CONV1_CHANNELS * sizeof(float));
    if (toom_cook2)
        mxn_transform_conv2(weights->conv2_weight, header.conv2_weight);
    else
        memcpy(header.conv2_weight, weights->conv2_weight, MXN_CONV2_WEIGHTS * sizeof(float));
    memcpy(header.conv2_bias, weights->conv2_bias, MXN_CONV2_CHANNELS * sizeof(float));
    pack_dense(header.fc1_weight, weights->fc1_weight, flat, flat, config->hidden);
    memcpy(header.fc1_bias, weights->fc1_bias, (size_t)config->hidden * sizeof(float));
    pack_dense(header.fc2_weight, weights->fc2_weight, config->hidden, (int)hidden, config->classes);
    memcpy(header.fc2_bias, weights->fc2_bias, (size_t)config->classes * sizeof(float));

    mxn_model *model = (mxn_model *)memory;
    *model = header;
    *out = model;
    return MXN_OK;
}

mxn_algorithm mxn_model_algorithm(const mxn_model *model) { return model->algorithm; }

void mxn_model_free(mxn_model *model) { free(model); }
