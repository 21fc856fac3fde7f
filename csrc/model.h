/* A packed model, shared by pack.c and transform.c (which fill it) and mxn.c (which runs it). */
#ifndef MXN_MODEL_H
#define MXN_MODEL_H

#include "backend.h"

struct mxn_model {
    mxn_config config;
    const mxn_backend *backend;
    mxn_algorithm algorithm;
    mxn_conv_kernel conv1, conv2;
    int flat;           /* inputs of fc1 */
    int hidden_blocks;  /* of 16 outputs */
    int classes_blocks; /* of 16 outputs */
    /* All inside one allocation, aligned to MXN_ALIGNMENT; layouts as mxn_backend's kernels want them. */
    float *conv1_weight, *conv1_bias, *conv2_weight, *conv2_bias, *fc1_weight, *fc1_bias, *fc2_weight, *fc2_bias;
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
