/* Weights as users have them -> the aligned layout that the kernels read. Calls transform.c only. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

int mxn_flat_width(mxn_topology topology) {
    return mxn_pools_after_conv2(topology) ? MXN_FLAT_POOLED : MXN_FLAT_PLAIN;
}

static int blocks(int outputs) { return (outputs + MXN_DENSE_BLOCK - 1) / MXN_DENSE_BLOCK; }

/* Where the weight from input i to output o lies: block-in-16 outputs. */
static size_t dense_place(int i, int o, int padded_inputs) {
    return ((size_t)(o / MXN_DENSE_BLOCK) * (size_t)padded_inputs + (size_t)i) * MXN_DENSE_BLOCK + (size_t)(o % MXN_DENSE_BLOCK);
}

/* src: in-out. What lies beyond `inputs` and `outputs` is already zero in dst, so that the padded outputs of one layer are
 * zero inputs of the next. */
static void pack_dense(float *dst, const float *src, int inputs, int padded_inputs, int outputs) {
    for (int i = 0; i < inputs; i++)
        for (int o = 0; o < outputs; o++) dst[dense_place(i, o, padded_inputs)] = src[(size_t)i * (size_t)outputs + (size_t)o];
}

/* The scale with which the largest weight of output `o` becomes ±127; 1 where there are no weights. weight: in-out. */
static float int8_scale(const float *weight, int inputs, int outputs, int o) {
    float largest = 0;
    for (int i = 0; i < inputs; i++) largest = fmaxf(largest, fabsf(weight[(size_t)i * (size_t)outputs + (size_t)o]));
    return largest / MXN_INT8_MAX > 0 ? largest / MXN_INT8_MAX : 1;
}

/* Only weights that are too small for their scale (denormal) or not finite are ever clamped. */
static int8_t quantise(float weight, float scale) {
    return (int8_t)fmaxf(fminf(rintf(weight / scale), MXN_INT8_MAX), -MXN_INT8_MAX);
}

/* Whether every weight is a whole multiple of its output's scale. */
static bool is_quantised(const float *weight, int inputs, int outputs) {
    for (int o = 0; o < outputs; o++) {
        const float scale = int8_scale(weight, inputs, outputs, o);
        for (int i = 0; i < inputs; i++) {
            const float value = weight[(size_t)i * (size_t)outputs + (size_t)o];
            if (quantise(value, scale) * scale != value) return false;
        }
    }
    return true;
}

/* The next `bytes` of `memory`, which start aligned; NULL when memory is NULL. */
static void *take(char *memory, size_t *used, size_t bytes) {
    void *part = memory ? memory + *used : NULL;
    *used += (bytes + MXN_ALIGNMENT - 1) / MXN_ALIGNMENT * MXN_ALIGNMENT;
    return part;
}

static float *take_floats(char *memory, size_t *used, size_t count) { return take(memory, used, count * sizeof(float)); }

static void take_layer(char *memory, size_t *used, int weight_bytes, int inputs, size_t outputs, mxn_int8_layer *layer) {
    layer->weight = take(memory, used, (size_t)inputs * outputs * (size_t)weight_bytes);
    layer->start = take(memory, used, outputs * sizeof(int32_t));
    layer->scale = take_floats(memory, used, outputs);
    layer->bias = take_floats(memory, used, outputs);
}

/* Points the model's arrays into `memory`, behind the model itself; returns how many bytes are needed. */
static size_t lay_out(mxn_model *model, char *memory) {
    const size_t flat = (size_t)model->flat, hidden = (size_t)model->hidden_blocks * MXN_DENSE_BLOCK;
    const size_t classes = (size_t)model->classes_blocks * MXN_DENSE_BLOCK;
    size_t used = 0;
    take(memory, &used, sizeof *model);
    if (model->precision == MXN_PRECISION_INT8) {
        const int weight_bytes = model->backend->int8->weight_bytes;
        take_layer(memory, &used, weight_bytes, MXN_CONV1_TAPS, MXN_CONV1_CHANNELS, &model->int8_layer1);
        take_layer(memory, &used, weight_bytes, MXN_CONV2_TAPS, MXN_CONV2_CHANNELS, &model->int8_layer2);
        take_layer(memory, &used, weight_bytes, model->flat, hidden, &model->int8_layer3);
    } else {
        const bool toom_cook1 = model->conv1 == model->backend->float32->conv1_toom_cook;
        const bool toom_cook2 = model->conv2 == model->backend->float32->conv2_toom_cook;
        model->conv1_weight = take_floats(memory, &used, toom_cook1 ? MXN_CONV1_TOOM_COOK_WEIGHTS : MXN_CONV1_WEIGHTS);
        model->conv1_bias = take_floats(memory, &used, MXN_CONV1_CHANNELS);
        model->conv2_weight = take_floats(memory, &used, toom_cook2 ? MXN_CONV2_TOOM_COOK_WEIGHTS : MXN_CONV2_WEIGHTS);
        model->conv2_bias = take_floats(memory, &used, MXN_CONV2_CHANNELS);
        if (model->fc1_quantised) {
            take_layer(memory, &used, 1, model->flat, hidden, &model->int8_layer3);
        } else {
            model->fc1_weight = take_floats(memory, &used, flat * hidden);
            model->fc1_bias = take_floats(memory, &used, hidden);
        }
    }
    model->fc2_weight = take_floats(memory, &used, hidden * classes);
    model->fc2_bias = take_floats(memory, &used, classes);
    return used;
}

/* weight: in-out. Each output has the scale with which its largest weight becomes ±127; one without weights gets 1. apart:
 * from one input of a quad to the next. q: as many bytes as there are weights, used here only. */
static void fill_layer(mxn_int8_layer *layer, void (*pack)(const int8_t *q, int inputs, int outputs, void *weight),
                       int byte_offset, const float *weight, const float *bias, int inputs, int outputs, int apart, int8_t *q) {
    for (int o = 0; o < outputs; o++) {
        const float scale = int8_scale(weight, inputs, outputs, o);
        int32_t sum = 0;
        for (int i = 0; i < inputs; i++) {
            const int packed = i % apart * 4 + i / apart;
            const int8_t value = quantise(weight[(size_t)i * (size_t)outputs + (size_t)o], scale);
            q[(size_t)packed * (size_t)outputs + (size_t)o] = value;
            sum += value;
        }
        layer->start[o] = byte_offset * sum;
        layer->scale[o] = scale;
        layer->bias[o] = bias[o];
    }
    pack(q, inputs, outputs, layer->weight);
}

/* As mxn_int8_kernels.pack, in the layout of mxn_float32_kernels.fc1_s8. */
static void pack_s8(const int8_t *q, int inputs, int outputs, void *weight) {
    for (int i = 0; i < inputs; i++)
        for (int o = 0; o < outputs; o++)
            ((int8_t *)weight)[dense_place(i, o, inputs)] = q[(size_t)i * (size_t)outputs + (size_t)o];
}

/* q: as for fill_layer. */
static void fill_float32(mxn_model *model, const mxn_weights *weights, int8_t *q) {
    const mxn_float32_kernels *kernels = model->backend->float32;
    if (model->conv1 == kernels->conv1_toom_cook)
        mxn_transform_conv1(weights->conv1_weight, model->conv1_weight);
    else
        memcpy(model->conv1_weight, weights->conv1_weight, MXN_CONV1_WEIGHTS * sizeof(float));
    memcpy(model->conv1_bias, weights->conv1_bias, MXN_CONV1_CHANNELS * sizeof(float));
    if (model->conv2 == kernels->conv2_toom_cook)
        mxn_transform_conv2(weights->conv2_weight, model->conv2_weight);
    else
        memcpy(model->conv2_weight, weights->conv2_weight, MXN_CONV2_WEIGHTS * sizeof(float));
    memcpy(model->conv2_bias, weights->conv2_bias, MXN_CONV2_CHANNELS * sizeof(float));
    const int flat = model->flat, hidden = model->config.hidden;
    if (model->fc1_quantised) {
        const mxn_int8_kernels *int8 = model->backend->int8;
        const bool bytes = model->fc1_quantised == int8->fc1_fixed_point;
        fill_layer(&model->int8_layer3, bytes ? int8->pack : pack_s8, bytes ? int8->byte_offset : 0, weights->fc1_weight,
                   weights->fc1_bias, flat, hidden, bytes ? flat / 4 : 1, q);
    } else {
        pack_dense(model->fc1_weight, weights->fc1_weight, flat, flat, hidden);
        memcpy(model->fc1_bias, weights->fc1_bias, (size_t)hidden * sizeof(float));
    }
}

static void fill_int8(mxn_model *model, const mxn_weights *weights, int8_t *q) {
    const mxn_int8_kernels *int8 = model->backend->int8;
    fill_layer(&model->int8_layer1, int8->pack, int8->byte_offset, weights->conv1_weight, weights->conv1_bias, MXN_CONV1_TAPS,
               MXN_CONV1_CHANNELS, 1, q);
    fill_layer(&model->int8_layer2, int8->pack, int8->byte_offset, weights->conv2_weight, weights->conv2_bias, MXN_CONV2_TAPS,
               MXN_CONV2_CHANNELS, 1, q);
    fill_layer(&model->int8_layer3, int8->pack, int8->byte_offset, weights->fc1_weight, weights->fc1_bias, model->flat,
               model->config.hidden, 1, q);
}

mxn_status mxn_model_new(mxn_model **out, const mxn_config *config, const mxn_weights *weights,
                         const mxn_backend *backend, mxn_precision precision, mxn_algorithm algorithm) {
    if (!mxn_config_valid(config) || precision < MXN_PRECISION_FLOAT32 || precision > MXN_PRECISION_INT8 ||
        algorithm < MXN_ALGORITHM_FASTEST || algorithm > MXN_ALGORITHM_TOOM_COOK)
        return MXN_ERROR_ARGUMENT;
    const bool pool1 = mxn_pools_after_conv1(config->topology), pool2 = mxn_pools_after_conv2(config->topology);
    const bool int8 = precision == MXN_PRECISION_INT8;
    if (algorithm == MXN_ALGORITHM_TOOM_COOK && (int8 || (!pool1 && !pool2))) return MXN_ERROR_ARGUMENT;
    const mxn_float32_kernels *float32 = backend->float32;
    const bool fastest = algorithm == MXN_ALGORITHM_FASTEST && !int8, forced = algorithm == MXN_ALGORITHM_TOOM_COOK;
    const bool toom_cook1 = pool1 && (fastest ? float32->conv1_prefers_toom_cook : forced);
    const bool toom_cook2 = pool2 && (fastest ? float32->conv2_prefers_toom_cook : forced);

    mxn_model header = {
        .config = *config,
        .backend = backend,
        .precision = precision,
        .algorithm = toom_cook1 || toom_cook2 ? MXN_ALGORITHM_TOOM_COOK : MXN_ALGORITHM_DIRECT,
        .flat = mxn_flat_width(config->topology),
        .hidden_blocks = blocks(config->hidden),
        .classes_blocks = blocks(config->classes),
    };
    if (int8) {
        header.int8_conv1 = backend->int8->conv1[pool1];
        header.int8_conv2 = backend->int8->conv2[pool2];
    } else {
        header.conv1 = toom_cook1 ? float32->conv1_toom_cook : float32->conv1[pool1];
        header.conv1_u8 = toom_cook1 ? float32->conv1_toom_cook_u8 : NULL;
        header.conv2 = toom_cook2 ? float32->conv2_toom_cook : float32->conv2[pool2];
        const mxn_fc1_kernel quantised = backend->int8->fc1_fixed_point ? backend->int8->fc1_fixed_point : float32->fc1_s8;
        if (quantised && is_quantised(weights->fc1_weight, header.flat, config->hidden)) header.fc1_quantised = quantised;
    }

    const size_t bytes = lay_out(&header, NULL), fc1_weights = (size_t)header.flat * (size_t)config->hidden;
    mxn_model *model = aligned_alloc(MXN_ALIGNMENT, bytes);
    int8_t *q = malloc(fc1_weights > MXN_CONV2_WEIGHTS ? fc1_weights : MXN_CONV2_WEIGHTS);
    if (!model || !q) {
        free(model);
        free(q);
        return MXN_ERROR_MEMORY;
    }
    memset(model, 0, bytes);
    *model = header;
    lay_out(model, (char *)model);
    if (int8)
        fill_int8(model, weights, q);
    else
        fill_float32(model, weights, q);
    free(q);
    pack_dense(model->fc2_weight, weights->fc2_weight, config->hidden, model->hidden_blocks * MXN_DENSE_BLOCK, config->classes);
    memcpy(model->fc2_bias, weights->fc2_bias, (size_t)config->classes * sizeof(float));
    *out = model;
    return MXN_OK;
}

const mxn_backend *mxn_model_backend(const mxn_model *model) { return model->backend; }

mxn_precision mxn_model_precision(const mxn_model *model) { return model->precision; }

mxn_algorithm mxn_model_algorithm(const mxn_model *model) { return model->algorithm; }

void mxn_model_free(mxn_model *model) { free(model); }
