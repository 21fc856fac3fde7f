/* The network in float32, its convolutions alone, and teams of threads. */
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "checks.h"

/* Rounds the weights of fc1 to whole multiples of a scale per output, which are then kept as bytes. */
static void quantise_fc1(const mxn_config *config, float *weight) {
    const int inputs = mxn_flat_width(config->topology), outputs = config->hidden;
    for (int o = 0; o < outputs; o++) {
        const float scale = ldexpf(1 + (float)(o % 8) / 8, -12);
        for (int i = 0; i < inputs; i++)
            weight[i * outputs + o] = scale * (i == o ? -127 : fminf(fmaxf(rintf(weight[i * outputs + o] / scale), -126), 126));
    }
}

void make_sample(sample *s, mxn_config config, int first_kind, bool quantised) {
    s->config = config;
    s->weights = make_weights(&config, 1);
    if (quantised) quantise_fc1(&config, (float *)s->weights.fc1_weight);
    s->quantised = quantised;
    s->faces = FACES - first_kind;
    for (int f = 0; f < s->faces; f++) {
        make_face(first_kind + f, s->bytes[f]);
        for (int i = 0; i < MXN_FACE_PIXELS; i++) s->floats[f][i] = s->bytes[f][i];
        if (mxn_reference_logits(&config, &s->weights, s->floats[f], s->expected + f * config.classes) != MXN_OK) abort();
    }
}

double check_network(const mxn_backend *backend, mxn_algorithm algorithm, const sample *s) {
    static float from_u8[FACES * MXN_CLASSES_MAX], from_f32[FACES * MXN_CLASSES_MAX], bad[2][MXN_FACE_PIXELS];
    double largest = 0, worst = 0;
    mxn_model *model;
    mxn_workspace *workspace = mxn_workspace_new();
    if (!workspace || mxn_model_new(&model, &s->config, &s->weights, backend, MXN_PRECISION_FLOAT32, algorithm) != MXN_OK ||
        mxn_logits_u8(model, workspace, s->bytes[0], s->faces, from_u8) != MXN_OK ||
        mxn_logits_f32(model, workspace, s->floats[0], s->faces, from_f32) != MXN_OK)
        abort();
    const mxn_fc1_kernel bytes = backend->int8->fc1_fixed_point, fc1 = bytes ? bytes : backend->float32->fc1_s8;
    if (mxn_model_algorithm(model) != algorithm || mxn_model_precision(model) != MXN_PRECISION_FLOAT32 ||
        mxn_model_backend(model) != backend || model->fc1_quantised != (s->quantised ? fc1 : NULL))
        worst = INFINITY;
    for (int i = 0; i < s->faces * s->config.classes; i++) {
        largest = fmax(largest, fabs(s->expected[i]));
        worst = fmax(worst, fmax(fabs(from_u8[i] - s->expected[i]), fabs(from_f32[i] - s->expected[i])));
    }
    static const float poison[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        bad[1][MXN_FACE_PIXELS - 1] = poison[i];
        if (mxn_logits_f32(model, workspace, bad[0], 2, from_f32) != MXN_ERROR_NOT_FINITE) worst = INFINITY;
    }
    mxn_workspace_free(workspace);
    mxn_model_free(model);
    return worst / largest;
}

#ifndef MXN_TEST_QUICK /* the smallest emulator has no threads */
typedef struct team_caller {
    mxn_team *team;
    const mxn_model *model;
    const sample *sample;
    const float *expected;
    int wrong;
} team_caller;

static void *call_team(void *argument) {
    team_caller *c = argument;
    const int classes = c->sample->config.classes;
    float *found = random_weights((size_t)(FACES * classes), 1);
    mxn_workspace *workspace = mxn_workspace_new();
    if (!workspace) abort();
    for (int turn = 0; turn < 200; turn++) {
        const int count = turn % (c->sample->faces + 1);
        const mxn_status status =
            turn % 2 ? mxn_team_logits_u8(c->team, c->model, workspace, c->sample->bytes[0], count, found)
                     : mxn_team_logits_f32(c->team, c->model, workspace, c->sample->floats[0], count, found);
        c->wrong += status != MXN_OK || memcmp(found, c->expected, (size_t)(count * classes) * sizeof(float)) != 0;
    }
    mxn_workspace_free(workspace);
    free(found);
    return NULL;
}

int check_team(const mxn_backend *backend) {
    enum { CALLERS = 3 };
    static sample s;
    static float expected[FACES * MXN_CLASSES_MAX], poisoned[FACES][MXN_FACE_PIXELS];
    mxn_team *team;
    mxn_model *model;
    mxn_workspace *workspace = mxn_workspace_new();
    team_caller callers[CALLERS];
    pthread_t threads[CALLERS];
    int wrong = mxn_team_new(&team, 0) != MXN_ERROR_ARGUMENT || mxn_team_new(&team, MXN_THREADS_MAX + 1) != MXN_ERROR_ARGUMENT;
    make_sample(&s, (mxn_config){MXN_TOPOLOGY_P12, 17, 7}, 20, true);
    if (!workspace ||
        mxn_model_new(&model, &s.config, &s.weights, backend, MXN_PRECISION_FLOAT32, MXN_ALGORITHM_FASTEST) != MXN_OK ||
        mxn_logits_f32(model, workspace, s.floats[0], s.faces, expected) != MXN_OK)
        abort();
    for (int size = 1; size <= 4; size += 3) {
        if (mxn_team_new(&team, size) != MXN_OK) abort();
        for (int i = 0; i < CALLERS; i++) {
            callers[i] = (team_caller){team, model, &s, expected, 0};
            if (pthread_create(&threads[i], NULL, call_team, &callers[i]) != 0) abort();
        }
        for (int i = 0; i < CALLERS; i++) {
            pthread_join(threads[i], NULL);
            wrong += callers[i].wrong;
        }
        memcpy(poisoned, s.floats, sizeof poisoned);
        poisoned[s.faces - 1][5] = NAN;
        wrong += mxn_team_logits_f32(team, model, workspace, poisoned[0], s.faces, expected) != MXN_ERROR_NOT_FINITE;
        wrong += mxn_team_logits_u8(team, model, workspace, s.bytes[0], -1, expected) != MXN_ERROR_ARGUMENT;
        wrong += mxn_team_logits_u8(team, model, workspace, s.bytes[0], s.faces, expected) != MXN_OK;
        mxn_team_free(team);
    }
    mxn_team_free(NULL);
    mxn_model_free(model);
    mxn_workspace_free(workspace);
    free_weights(&s.weights);
    return wrong;
}
#else
int check_team(const mxn_backend *backend) { return (void)backend, 0; }
#endif

int check_convolutions(const mxn_backend *backend, mxn_algorithm algorithm, const sample *s) {
    enum { IMAGE = MXN_IMAGE_ROWS * MXN_IMAGE_PITCH, MAP = MXN_MAP_PIXELS * MXN_MAP_PITCH, ZEROS = 0, NANS = 0xFF, RUNS = 4 };
    static const int fills[] = {ZEROS, NANS};
    const size_t flat_width = (size_t)mxn_flat_width(s->config.topology);
    float *map[RUNS], *flat[RUNS];
    int wrong = 0;
    mxn_model *model;
    if (mxn_model_new(&model, &s->config, &s->weights, backend, MXN_PRECISION_FLOAT32, algorithm) != MXN_OK) abort();
    const int runs = model->conv1_u8 ? RUNS : RUNS / 2; /* the last two from the face as it is */
    for (int r = 0; r < runs; r++) {
        const bool upper = r % 2;
        const int fill = fills[r % 2];
        uint8_t *face = guarded(MXN_FACE_PIXELS, upper);
        float *image = guarded(IMAGE * sizeof(float), upper), *scratch = guarded(MXN_SCRATCH * sizeof(float), upper);
        map[r] = guarded(MAP * sizeof(float), upper);
        flat[r] = guarded(flat_width * sizeof(float), upper);
        memcpy(face, s->bytes[s->faces - 1], MXN_FACE_PIXELS);
        backend->float32->load_u8(face, image);
        for (int y = 0; y < MXN_MAP_SIZE; y++)
            memset(map[r] + (y + MXN_MAP_PADDING) * MXN_MAP_PITCH + MXN_MAP_PADDING * MXN_CONV1_CHANNELS, fill,
                   MXN_MAP_SIZE * MXN_CONV1_CHANNELS * sizeof(float));
        memset(flat[r], fill, flat_width * sizeof(float));
        memset(scratch, fill, MXN_SCRATCH * sizeof(float));
        if (r < RUNS / 2)
            model->conv1(image, model->conv1_weight, model->conv1_bias, map[r], scratch);
        else
            model->conv1_u8(face, model->conv1_weight, model->conv1_bias, map[r], scratch);
        memset(scratch, fill, MXN_SCRATCH * sizeof(float));
        model->conv2(map[r], model->conv2_weight, model->conv2_bias, flat[r], scratch);
    }
    for (int i = 0; i < MAP; i++) {
        const int y = i / MXN_MAP_PITCH - MXN_MAP_PADDING, x = i % MXN_MAP_PITCH / MXN_CONV1_CHANNELS - MXN_MAP_PADDING;
        const int inside = y >= 0 && y < MXN_MAP_SIZE && x >= 0 && x < MXN_MAP_SIZE;
        for (int r = 0; r < runs; r++) wrong += map[0][i] != map[r][i] || (!inside && map[r][i] != 0);
    }
    for (size_t i = 0; i < flat_width; i++)
        for (int r = 0; r < runs; r++) wrong += flat[0][i] != flat[r][i];
    mxn_model_free(model);
    return wrong;
}

/* Inputs of fc1: random; nothing; one that dwarfs the others; denormal; large; one that has overflowed. */
enum { RANDOM_INPUTS, NO_INPUTS, DWARFED_INPUTS, DENORMAL_INPUTS, LARGE_INPUTS, OVERFLOWN_INPUTS, KINDS_OF_INPUTS };

static void make_inputs(int kind, float *src, int count) {
    static const float scale[KINDS_OF_INPUTS] = {1, 0, 1e-3f, 1e-39f, 1e33f, 1};
    for (int i = 0; i < count; i++) src[i] = scale[kind] * ldexpf((float)(random_bits() >> 8), -24);
    if (kind == DWARFED_INPUTS) src[count - 1] = 1e4f;
    if (kind == OVERFLOWN_INPUTS) src[count / 2] = INFINITY;
}

double check_fixed_point(const mxn_backend *backend) {
    enum { BLOCKS_MAX = 5 };
    const mxn_config config = {MXN_TOPOLOGY_P12, BLOCKS_MAX * MXN_DENSE_BLOCK, 7};
    const int inputs = mxn_flat_width(config.topology), outputs = config.hidden;
    double worst = 0;
    mxn_model *model;
    sample s;
    if (!backend->int8->fc1_fixed_point) return 0;
    s.weights = make_weights(&config, 1);
    float *weight = (float *)s.weights.fc1_weight;
    quantise_fc1(&config, weight);
    if (mxn_model_new(&model, &config, &s.weights, backend, MXN_PRECISION_FLOAT32, MXN_ALGORITHM_FASTEST) != MXN_OK) abort();
    if (model->fc1_quantised != backend->int8->fc1_fixed_point) worst = INFINITY;
    const size_t src_bytes = KINDS_OF_INPUTS * (size_t)inputs * sizeof(float);
    const size_t dst_bytes = KINDS_OF_INPUTS * (size_t)outputs * sizeof(float);
    float *src = guarded(src_bytes, true), *alone = guarded(dst_bytes, true), *together = guarded(dst_bytes, false);
    float *scratch = guarded(MXN_SCRATCH * sizeof(float), true);
    for (int kind = 0; kind < KINDS_OF_INPUTS; kind++) make_inputs(kind, src + kind * inputs, inputs);
    for (int blocks = 1; blocks <= BLOCKS_MAX; blocks++) {
        const int used = blocks * MXN_DENSE_BLOCK;
        memset(scratch, 0xFF, MXN_SCRATCH * sizeof(float));
        for (int f = 0; f < KINDS_OF_INPUTS; f++)
            backend->int8->fc1_fixed_point(&model->int8_layer3, src + f * inputs, inputs, inputs, blocks, alone + f * outputs,
                                           outputs, 1, scratch);
        for (int f = 0; f < KINDS_OF_INPUTS; f += MXN_DENSE_FACES)
            backend->int8->fc1_fixed_point(&model->int8_layer3, src + f * inputs, inputs, inputs, blocks,
                                           together + f * outputs, outputs, MXN_DENSE_FACES, scratch);
        for (int f = 0; f < KINDS_OF_INPUTS; f++)
            for (int o = 0; o < used; o++) {
                const float found = alone[f * outputs + o];
                double sum = s.weights.fc1_bias[o], allowed = fabs(sum), largest = 0x1p-126;
                for (int i = 0; i < inputs; i++) largest = fmax(largest, (double)src[f * inputs + i]);
                for (int i = 0; i < inputs; i++) {
                    const double w = weight[i * outputs + o], product = w * (double)src[f * inputs + i];
                    sum += product;
                    allowed += fabs(product) + fabs(w) * largest;
                }
                if (memcmp(&found, &together[f * outputs + o], sizeof found) != 0 || !(found >= 0)) worst = INFINITY;
                if (f != OVERFLOWN_INPUTS) worst = fmax(worst, fabs(found - fmax(sum, 0)) / (0x1p-23 * allowed));
            }
    }
    mxn_model_free(model);
    free_weights(&s.weights);
    return worst;
}
