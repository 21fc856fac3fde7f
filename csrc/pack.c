/* Weights as users have them -> the aligned layout that the kernels read. Calls nothing. */
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
                         const mxn_backend *backend) {
    if (!mxn_config_valid(config)) return MXN_ERROR_ARGUMENT;

    const int flat = mxn_flat_width(config->topology);
    const int hidden_blocks = blocks(config->hidden), classes_blocks = blocks(config->classes);
    const size_t hidden = (size_t)hidden_blocks * MXN_DENSE_BLOCK, classes = (size_t)classes_blocks * MXN_DENSE_BLOCK;

    mxn_model header = {
        .config = *config,
        .backend = backend,
        .flat = flat,
        .hidden_blocks = hidden_blocks,
        .classes_blocks = classes_blocks,
    };
    /* Every count is a multiple of 16 floats, so that each part starts aligned. */
    struct {
        float **part;
        size_t count;
    } parts[] = {
        {&header.conv1_weight, MXN_CONV1_TAPS * MXN_CONV1_CHANNELS},
        {&header.conv1_bias, MXN_CONV1_CHANNELS},
        {&header.conv2_weight, MXN_CONV2_TAPS * MXN_CONV2_CHANNELS},
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

    memcpy(header.conv1_weight, weights->conv1_weight, MXN_CONV1_TAPS * MXN_CONV1_CHANNELS * sizeof(float));
    memcpy(header.conv1_bias, weights->conv1_bias, MXN_CONV1_CHANNELS * sizeof(float));
    memcpy(header.conv2_weight, weights->conv2_weight, MXN_CONV2_TAPS * MXN_CONV2_CHANNELS * sizeof(float));
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

void mxn_model_free(mxn_model *model) { free(model); }
