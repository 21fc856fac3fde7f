/* The network by plain loops, in double precision and in int8, unfused and unpadded: bounds are tested where the kernels
 * have padding. Shares nothing with the kernels but the sizes of the layers.
 */
#include <math.h>
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

/* ---- int8 ---------------------------------------------------------------------------------------------------------- */

/* weight: in-out; q: the same, scale: one per output. */
static void quantise(const float *weight, int in, int out, int8_t *q, float *scale) {
    for (int o = 0; o < out; o++) {
        float largest = 0;
        for (int i = 0; i < in; i++) largest = fmaxf(largest, fabsf(weight[(size_t)i * out + o]));
        scale[o] = largest / 127 > 0 ? largest / 127 : 1;
        for (int i = 0; i < in; i++) {
            const float value = rintf(weight[(size_t)i * out + o] / scale[o]);
            q[(size_t)i * out + o] = (int8_t)fmaxf(fminf(value, 127), -127);
        }
    }
}

/* As convolve(), but sums only. */
static void convolve_bytes(const uint8_t *src, int size, int in, const int8_t *q, int kernel, int stride, int before,
                           int out_size, int out, int32_t *dst) {
    for (int y = 0; y < out_size; y++)
        for (int x = 0; x < out_size; x++)
            for (int o = 0; o < out; o++) {
                int32_t sum = 0;
                for (int ky = 0; ky < kernel; ky++)
                    for (int kx = 0; kx < kernel; kx++) {
                        const int sy = y * stride + ky - before, sx = x * stride + kx - before;
                        if (sy < 0 || sy >= size || sx < 0 || sx >= size) continue;
                        for (int i = 0; i < in; i++)
                            sum += src[(sy * size + sx) * in + i] * q[((ky * kernel + kx) * in + i) * out + o];
                    }
                dst[(y * out_size + x) * out + o] = sum;
            }
}

static void pool_sums(const int32_t *src, int size, int channels, int32_t *dst) {
    const int out = (size + 1) / 2;
    for (int y = 0; y < out; y++)
        for (int x = 0; x < out; x++)
            for (int c = 0; c < channels; c++) {
                int32_t best = src[(2 * y * size + 2 * x) * channels + c];
                for (int sy = 2 * y; sy < 2 * y + 2 && sy < size; sy++)
                    for (int sx = 2 * x; sx < 2 * x + 2 && sx < size; sx++)
                        if (src[(sy * size + sx) * channels + c] > best) best = src[(sy * size + sx) * channels + c];
                dst[(y * out + x) * channels + c] = best;
            }
}

/* sum * scale + bias. Product and sum are rounded to float32 one after the other: this file is compiled without contraction
 * to fused multiply-adds. */
static float scaled(int32_t sum, float scale, float bias) {
    const float product = (float)sum * scale;
    return product + bias;
}

/* sums: pixel-channel. */
static void requantise(const int32_t *sums, int pixels, int channels, const float *scale, const float *bias, uint8_t *dst) {
    for (int p = 0; p < pixels; p++)
        for (int c = 0; c < channels; c++) {
            const float value = rintf(scaled(sums[p * channels + c], scale[c], bias[c]));
            dst[p * channels + c] = value < 0 ? 0 : value > 255 ? 255 : (uint8_t)value;
        }
}

mxn_status mxn_reference_logits_int8(const mxn_config *config, const mxn_weights *weights, const uint8_t *face,
                                     float *logits) {
    enum { FULL1 = MXN_CONV1_POOLED_OUTPUT, MAP = MXN_MAP_SIZE, FULL2 = MXN_CONV2_OUTPUT, HALF2 = MXN_POOL2_OUTPUT };
    struct buffers {
        int32_t conv1[FULL1 * FULL1 * MXN_CONV1_CHANNELS], pool1[MAP * MAP * MXN_CONV1_CHANNELS];
        int32_t conv2[MXN_FLAT_PLAIN], pool2[MXN_FLAT_POOLED];
        uint8_t map[MAP * MAP * MXN_CONV1_CHANNELS], flat[MXN_FLAT_PLAIN];
        float scale[MXN_HIDDEN_MAX], hidden[MXN_HIDDEN_MAX];
        int8_t q[MXN_FLAT_PLAIN * MXN_HIDDEN_MAX];
    };
    if (!mxn_config_valid(config)) return MXN_ERROR_ARGUMENT;
    struct buffers *b = malloc(sizeof *b);
    if (!b) return MXN_ERROR_MEMORY;

    quantise(weights->conv1_weight, MXN_CONV1_TAPS, 16, b->q, b->scale);
    if (mxn_pools_after_conv1(config->topology)) {
        convolve_bytes(face, MXN_FACE_SIZE, 1, b->q, 8, 2, 3, FULL1, 16, b->conv1);
        pool_sums(b->conv1, FULL1, 16, b->pool1);
        requantise(b->pool1, MAP * MAP, 16, b->scale, weights->conv1_bias, b->map);
    } else {
        convolve_bytes(face, MXN_FACE_SIZE, 1, b->q, 8, 4, 2, MAP, 16, b->conv1);
        requantise(b->conv1, MAP * MAP, 16, b->scale, weights->conv1_bias, b->map);
    }
    quantise(weights->conv2_weight, MXN_CONV2_TAPS, 32, b->q, b->scale);
    convolve_bytes(b->map, MAP, 16, b->q, 4, 2, 1, FULL2, 32, b->conv2);
    if (mxn_pools_after_conv2(config->topology)) {
        pool_sums(b->conv2, FULL2, 32, b->pool2);
        requantise(b->pool2, HALF2 * HALF2, 32, b->scale, weights->conv2_bias, b->flat);
    } else {
        requantise(b->conv2, FULL2 * FULL2, 32, b->scale, weights->conv2_bias, b->flat);
    }
    const int flat = mxn_flat_width(config->topology), hidden = config->hidden, classes = config->classes;
    quantise(weights->fc1_weight, flat, hidden, b->q, b->scale);
    for (int o = 0; o < hidden; o++) {
        int32_t sum = 0;
        for (int i = 0; i < flat; i++) sum += b->flat[i] * b->q[(size_t)i * (size_t)hidden + (size_t)o];
        const float value = scaled(sum, b->scale[o], weights->fc1_bias[o]);
        b->hidden[o] = value > 0 ? value : 0;
    }
    /* Four sums, of every fourth input each; the first starts at the bias. */
    for (int o = 0; o < classes; o++) {
        float sum[4] = {weights->fc2_bias[o], 0, 0, 0};
        for (int i = 0; i < hidden; i++) {
            const float product = b->hidden[i] * weights->fc2_weight[i * classes + o];
            sum[i % 4] = sum[i % 4] + product;
        }
        logits[o] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    }
    free(b);
    return MXN_OK;
}
