/* The network by plain loops in double precision, unfused and unpadded: bounds are tested where the kernels have padding.
 * Shares nothing with the kernels but the sizes of the layers.
 */
#include <stdlib.h>

#include "model.h"

/* SAME convolution + bias + ReLU. src: y-x-ic; weight: ky-kx-ic-oc; dst: y-x-oc. */
static void convolve(const double *src, int size, int in, const float *weight, const float *bias, int kernel, int stride,
                     int before, int out_size, int out, double *dst) {
    for (int y = 0; y < out_size; y++)
        for (int x = 0; x < out_size; x++)
            for (int o = 0; o < out; o++) {
                double sum = bias[o];
                for (int ky = 0; ky < kernel; ky++)
                    for (int kx = 0; kx < kernel; kx++) {
                        const int sy = y * stride + ky - before, sx = x * stride + kx - before;
                        if (sy < 0 || sy >= size || sx < 0 || sx >= size) continue;
                        for (int i = 0; i < in; i++)
                            sum += src[(sy * size + sx) * in + i] * (double)weight[((ky * kernel + kx) * in + i) * out + o];
                    }
                dst[(y * out_size + x) * out + o] = sum > 0 ? sum : 0;
            }
}

/* 2×2 max-pool with stride 2; windows that reach over the border see only what is inside. */
static void pool(const double *src, int size, int channels, double *dst) {
    const int out = (size + 1) / 2;
    for (int y = 0; y < out; y++)
        for (int x = 0; x < out; x++)
            for (int c = 0; c < channels; c++) {
                double best = src[(2 * y * size + 2 * x) * channels + c];
                for (int sy = 2 * y; sy < 2 * y + 2 && sy < size; sy++)
                    for (int sx = 2 * x; sx < 2 * x + 2 && sx < size; sx++)
                        if (src[(sy * size + sx) * channels + c] > best) best = src[(sy * size + sx) * channels + c];
                dst[(y * out + x) * channels + c] = best;
            }
}

static void connect(const double *src, int in, const float *weight, const float *bias, int out, double *dst) {
    for (int o = 0; o < out; o++) {
        double sum = bias[o];
        for (int i = 0; i < in; i++) sum += src[i] * (double)weight[(size_t)i * out + o];
        dst[o] = sum;
    }
}

mxn_status mxn_reference_logits(const mxn_config *config, const mxn_weights *weights, const float *face,
                                double *logits) {
    enum { FULL1 = MXN_CONV1_POOLED_OUTPUT, MAP = MXN_MAP_SIZE, FULL2 = MXN_CONV2_OUTPUT };
    struct buffers {
        double image[MXN_FACE_PIXELS];
        double conv1[FULL1 * FULL1 * MXN_CONV1_CHANNELS], pool1[MAP * MAP * MXN_CONV1_CHANNELS];
        double conv2[MXN_FLAT_PLAIN], pool2[MXN_FLAT_POOLED];
        double hidden[MXN_HIDDEN_MAX];
    };
    if (!mxn_config_valid(config)) return MXN_ERROR_ARGUMENT;
    struct buffers *b = malloc(sizeof *b);
    if (!b) return MXN_ERROR_MEMORY;

    for (int i = 0; i < MXN_FACE_PIXELS; i++) b->image[i] = face[i];
    const double *map = b->conv1, *flat = b->conv2;
    if (mxn_pools_after_conv1(config->topology)) {
        convolve(b->image, MXN_FACE_SIZE, 1, weights->conv1_weight, weights->conv1_bias, 8, 2, 3, FULL1, 16, b->conv1);
        pool(b->conv1, FULL1, 16, b->pool1);
        map = b->pool1;
    } else {
        convolve(b->image, MXN_FACE_SIZE, 1, weights->conv1_weight, weights->conv1_bias, 8, 4, 2, MAP, 16, b->conv1);
    }
    convolve(map, MAP, 16, weights->conv2_weight, weights->conv2_bias, 4, 2, 1, FULL2, 32, b->conv2);
    if (mxn_pools_after_conv2(config->topology)) {
        pool(b->conv2, FULL2, 32, b->pool2);
        flat = b->pool2;
    }
    connect(flat, mxn_flat_width(config->topology), weights->fc1_weight, weights->fc1_bias, config->hidden, b->hidden);
    for (int i = 0; i < config->hidden; i++)
        if (b->hidden[i] < 0) b->hidden[i] = 0;
    connect(b->hidden, config->hidden, weights->fc2_weight, weights->fc2_bias, config->classes, logits);
    free(b);
    return MXN_OK;
}
