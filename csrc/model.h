/* A packed model, shared by pack.c and transform.c (which fill it) and mxn.c (which runs it). */
#ifndef MXN_MODEL_H
#define MXN_MODEL_H

#include "backend.h"

/* Every array is inside the model's one allocation, aligned to MXN_ALIGNMENT; layouts as the backend's kernels want them. */
struct mxn_model {
    mxn_config config;
    const mxn_backend *backend;
    mxn_precision precision;
    mxn_algorithm algorithm;
    int flat;           /* inputs of fc1 */
    int hidden_blocks;  /* of 16 outputs */
    int classes_blocks; /* of 16 outputs */
    /* float32 only */
    mxn_conv_kernel conv1, conv2;
    mxn_conv_u8_kernel conv1_u8; /* NULL where the algorithm of conv1 has none: faces of bytes are then loaded as floats */
    /* In the order of use, since a kernel may ask for what lies behind its weights while it computes. */
    float *conv1_weight, *conv1_bias, *conv2_weight, *conv2_bias, *fc1_bias;
    /* Where the weights of fc1 are int8 times a scale per output, exactly, they are kept so, in int8_layer3, which is less to read;
     * else it is NULL, and they are in fc1_weight. */
    mxn_fc1_kernel fc1_quantised;
    float *fc1_weight;
    /* int8, but for the third layer only */
    mxn_int8_conv_kernel int8_conv1, int8_conv2;
    mxn_int8_layer int8_layer1, int8_layer2, int8_layer3; /* conv1, conv2, fc1 */
    /* both */
    float *fc2_weight, *fc2_bias;
};

/* Weights for the Toom-Cook kernels: layouts in transform.c. */
void mxn_transform_conv1(const float *weight, float *out);
void mxn_transform_conv2(const float *weight, float *out);

static inline bool mxn_pools_after_conv1(mxn_topology t) { return t == MXN_TOPOLOGY_P1 || t == MXN_TOPOLOGY_P12; }
static inline bool mxn_pools_after_conv2(mxn_topology t) { return t == MXN_TOPOLOGY_P2 || t == MXN_TOPOLOGY_P12; }

static inline bool mxn_config_valid(const mxn_config *config) {
    return config->topology >= MXN_TOPOLOGY_V && config->topology <= MXN_TOPOLOGY_P12 && config->hidden >= 1 &&
           config->hidden <= MXN_HIDDEN_MAX && config->classes >= 1 && config->classes <= MXN_CLASSES_MAX;
}

#endif
