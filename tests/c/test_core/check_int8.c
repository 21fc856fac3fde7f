/* The network in int8 and its kernels alone: the same bits as the reference. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "checks.h"

static void set_all(const float *weights, size_t count, int kind) {
    for (size_t i = 0; i < count; i++) ((float *)weights)[i] = kind == SMALLEST || (kind == ALTERNATING && i % 3) ? -1 : 1;
}

static mxn_weights make_int8_weights(const mxn_config *c, int kind) {
    mxn_weights w = make_weights(c, 400);
    const size_t flat = (size_t)mxn_flat_width(c->topology);
    if (kind != RANDOM) { /* every q is 127 or -127: the largest sums there are */
        set_all(w.conv1_weight, 64 * 16, kind == SMALLEST ? LARGEST : kind);
        set_all(w.conv2_weight, 256 * 32, kind == SMALLEST ? LARGEST : kind);
        set_all(w.fc1_weight, flat * (size_t)c->hidden, kind);
        memset((float *)w.fc1_bias, 0, (size_t)c->hidden * sizeof(float));
    }
    return w;
}

/* Values that round, up and down, to a byte, halves among them. */
static float near_byte(uint8_t byte, int i) {
    static const float offset[] = {0, 0.25f, -0.25f, 0.49f};
    if (byte == 255 && i % 2) return 256.0f + (float)i * 1e6f;
    if (byte == 0 && i % 2) return -0.5f - (float)i * 1e6f;
    if (i % 5 == 4) return (float)byte + (byte % 2 ? 0.25f : i % 2 ? 0.5f : -0.5f);
    return (float)byte + offset[i % 4];
}

void check_int8_network(const mxn_backend *const *backends, int count, const mxn_config *config, int kind,
                        int first_face, int *wrong) {
    static uint8_t bytes[FACES + 1][MXN_FACE_PIXELS];
    static float floats[FACES + 1][MXN_FACE_PIXELS], bad[2][MXN_FACE_PIXELS];
    static float expected[(FACES + 1) * MXN_CLASSES_MAX], found[2][(FACES + 1) * MXN_CLASSES_MAX];
    static const float poison[] = {NAN, INFINITY, -INFINITY};
    mxn_weights weights = make_int8_weights(config, kind);
    const int faces = FACES - first_face + 1, classes = config->classes;
    mxn_workspace *workspace = mxn_workspace_new();
    if (!workspace) abort();
    memset(bytes, 255, sizeof bytes); /* the last one stays white */
    for (int f = 0; f < faces; f++) {
        if (f < faces - 1) make_face(first_face + f, bytes[f]);
        for (int i = 0; i < MXN_FACE_PIXELS; i++) floats[f][i] = near_byte(bytes[f][i], i);
        if (mxn_reference_logits_int8(config, &weights, bytes[f], expected + f * classes) != MXN_OK) abort();
    }
    for (int b = 0; b < count; b++) {
        mxn_model *model;
        if (mxn_model_new(&model, config, &weights, backends[b], MXN_PRECISION_INT8, MXN_ALGORITHM_FASTEST) != MXN_OK ||
            mxn_logits_u8(model, workspace, bytes[0], faces, found[0]) != MXN_OK ||
            mxn_logits_f32(model, workspace, floats[0], faces, found[1]) != MXN_OK)
            abort();
        wrong[b] += mxn_model_algorithm(model) != MXN_ALGORITHM_DIRECT ||
                    mxn_model_precision(model) != MXN_PRECISION_INT8 || mxn_model_backend(model) != backends[b] ||
                    model->int8_conv1 != backends[b]->int8->conv1[mxn_pools_after_conv1(config->topology)];
        for (int i = 0; i < 2 * faces; i++)
            wrong[b] += memcmp(found[i / faces] + i % faces * classes, expected + i % faces * classes,
                               (size_t)classes * sizeof(float)) != 0;
        for (int i = 0; i < 3; i++) {
            bad[1][MXN_FACE_PIXELS - 1] = poison[i];
            wrong[b] += mxn_logits_f32(model, workspace, bad[0], 2, found[1]) != MXN_ERROR_NOT_FINITE;
        }
        mxn_model_free(model);
    }
    mxn_workspace_free(workspace);
    free_weights(&weights);
}

int check_int8_kernels(const mxn_backend *backend, const mxn_config *config) {
    enum { IMAGE = MXN_IMAGE_ROWS * MXN_IMAGE_PITCH, MAP = MXN_MAP_PIXELS * MXN_MAP_PITCH };
    const mxn_int8_kernels *kernels = backend->int8;
    const int flat_width = mxn_flat_width(config->topology);
    mxn_weights weights = make_int8_weights(config, RANDOM);
    uint8_t *image[2], *map[2], *flat[2];
    float *hidden[2], expected[MXN_CLASSES_MAX];
    int wrong = 0;
    mxn_model *model;
    if (mxn_model_new(&model, config, &weights, backend, MXN_PRECISION_INT8, MXN_ALGORITHM_DIRECT) != MXN_OK) abort();
    const size_t hidden_width = (size_t)model->hidden_blocks * MXN_DENSE_BLOCK;
    const size_t classes_width = (size_t)model->classes_blocks * MXN_DENSE_BLOCK;
    for (int i = 0; i < 2; i++) {
        uint8_t *face = guarded(MXN_FACE_PIXELS, i);
        float *pixels = guarded(MXN_FACE_PIXELS * sizeof(float), i), *logits = guarded(classes_width * sizeof(float), i);
        make_face(36, face);
        for (int p = 0; p < MXN_FACE_PIXELS; p++) pixels[p] = face[p];
        image[i] = guarded(IMAGE, i);
        map[i] = guarded(MAP, i);
        flat[i] = guarded((size_t)flat_width, i);
        hidden[i] = guarded(hidden_width * sizeof(float), i);
        memset(flat[i], 0xFF * i, (size_t)flat_width);
        memset(hidden[i], 0xFF * i, hidden_width * sizeof(float));
        for (int y = 0; y < MXN_FACE_SIZE; y++)
            memset(image[i] + (y + MXN_IMAGE_PADDING) * MXN_IMAGE_PITCH + MXN_IMAGE_PADDING, 0xFF * i, MXN_FACE_SIZE);
        for (int y = 0; y < MXN_MAP_SIZE; y++)
            memset(map[i] + (y + MXN_MAP_PADDING) * MXN_MAP_PITCH + MXN_MAP_PADDING * MXN_CONV1_CHANNELS, 0xFF * i,
                   MXN_MAP_SIZE * MXN_CONV1_CHANNELS);
        if (i == 0) kernels->load_u8(face, image[i]);
        else wrong += !kernels->load_f32(pixels, image[i]);
        model->int8_conv1(image[i], &model->int8_layer1, map[i]);
        model->int8_conv2(map[i], &model->int8_layer2, flat[i]);
        kernels->fc1(&model->int8_layer3, flat[i], flat_width, model->hidden_blocks, hidden[i]);
        kernels->fc2(model->fc2_weight, model->fc2_bias, hidden[i], (int)hidden_width, model->classes_blocks, logits);
        if (mxn_reference_logits_int8(config, &weights, face, expected) != MXN_OK) abort();
        wrong += memcmp(logits, expected, (size_t)config->classes * sizeof(float)) != 0;
    }
    for (int i = 0; i < IMAGE; i++) {
        const int y = i / MXN_IMAGE_PITCH - MXN_IMAGE_PADDING, x = i % MXN_IMAGE_PITCH - MXN_IMAGE_PADDING;
        const int inside = y >= 0 && y < MXN_FACE_SIZE && x >= 0 && x < MXN_FACE_SIZE;
        wrong += image[0][i] != image[1][i] || (!inside && image[0][i] != 0);
    }
    for (int i = 0; i < MAP; i++) {
        const int y = i / MXN_MAP_PITCH - MXN_MAP_PADDING, x = i % MXN_MAP_PITCH / MXN_CONV1_CHANNELS - MXN_MAP_PADDING;
        const int inside = y >= 0 && y < MXN_MAP_SIZE && x >= 0 && x < MXN_MAP_SIZE;
        wrong += map[0][i] != map[1][i] || (!inside && map[0][i] != 0);
    }
    wrong += memcmp(flat[0], flat[1], (size_t)flat_width) != 0;
    wrong += memcmp(hidden[0], hidden[1], hidden_width * sizeof(float)) != 0;
    mxn_model_free(model);
    free_weights(&weights);
    return wrong;
}
