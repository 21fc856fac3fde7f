/* Every backend of this CPU against the references, without Python. Prints a line per backend, topology and algorithm (or
 * int8); exits with 1 when one is wrong. Usage: test_core [BACKEND] runs that one alone, and fails when it is absent.
 */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "../../csrc/model.h"

static uint64_t state = 0x9E3779B97F4A7C15u;

static uint32_t random_bits(void) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (uint32_t)(state >> 32);
}

static float *random_weights(size_t count, double scale) {
    float *values = malloc(count * sizeof *values);
    if (!values) abort();
    for (size_t i = 0; i < count; i++) values[i] = (float)(scale * ((double)random_bits() / 2147483648.0 - 1.0));
    return values;
}

/* `scale` on the biases of all but the last layer: 1, or what lets activations fill 0..255 for int8. */
static mxn_weights make_weights(const mxn_config *c, double scale) {
    const size_t flat = (size_t)mxn_flat_width(c->topology), hidden = (size_t)c->hidden, classes = (size_t)c->classes;
    return (mxn_weights){
        random_weights(64 * 16, 0.01 * sqrt(scale)), random_weights(16, 0.1 * scale),
        random_weights(256 * 32, 0.1), random_weights(32, 0.1 * scale),
        random_weights(flat * hidden, 0.05), random_weights(hidden, 0.1 * scale),
        random_weights(hidden * classes, 0.3), random_weights(classes, 0.1),
    };
}

static void free_weights(mxn_weights *w) {
    const float *parts[] = {w->conv1_weight, w->conv1_bias, w->conv2_weight, w->conv2_bias,
                            w->fc1_weight, w->fc1_bias, w->fc2_weight, w->fc2_bias};
    for (int i = 0; i < 8; i++) free((void *)parts[i]);
}

/* Kinds of faces: noise; black but for one pixel at a border or corner; a smooth ramp. */
static void make_face(int kind, uint8_t *face) {
    static const int edge[] = {0, 1, 2, 41, 82, 83};
    memset(face, 0, MXN_FACE_PIXELS);
    if (kind < 36) {
        face[edge[kind / 6] * MXN_FACE_SIZE + edge[kind % 6]] = 255;
        return;
    }
    for (int i = 0; i < MXN_FACE_PIXELS; i++)
        face[i] = (uint8_t)(kind % 2 ? random_bits() : (unsigned)(i / MXN_FACE_SIZE + kind * (i % MXN_FACE_SIZE)) / 2);
}
enum { FACES = 42 };

/* Faces with their logits by the reference. */
typedef struct sample {
    mxn_config config;
    mxn_weights weights;
    bool quantised; /* fc1 */
    int faces;
    uint8_t bytes[FACES][MXN_FACE_PIXELS];
    float floats[FACES][MXN_FACE_PIXELS];
    double expected[FACES * MXN_CLASSES_MAX];
} sample;

/* Rounds the weights of fc1 to whole multiples of a scale per output, which are then kept as bytes. */
static void quantise_fc1(const mxn_config *config, float *weight) {
    const int inputs = mxn_flat_width(config->topology), outputs = config->hidden;
    for (int o = 0; o < outputs; o++) {
        const float scale = ldexpf(1 + (float)(o % 8) / 8, -12);
        for (int i = 0; i < inputs; i++)
            weight[i * outputs + o] = scale * (i == o ? -127 : fminf(fmaxf(rintf(weight[i * outputs + o] / scale), -126), 126));
    }
}

static void make_sample(sample *s, mxn_config config, int first_kind, bool quantised) {
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

/* Largest difference from the reference, relative to the largest logit. */
static double check_network(const mxn_backend *backend, mxn_algorithm algorithm, const sample *s) {
    static float from_u8[FACES * MXN_CLASSES_MAX], from_f32[FACES * MXN_CLASSES_MAX], bad[2][MXN_FACE_PIXELS];
    double largest = 0, worst = 0;
    mxn_model *model;
    mxn_workspace *workspace = mxn_workspace_new();
    if (!workspace || mxn_model_new(&model, &s->config, &s->weights, backend, MXN_PRECISION_FLOAT32, algorithm) != MXN_OK ||
        mxn_logits_u8(model, workspace, s->bytes[0], s->faces, from_u8) != MXN_OK ||
        mxn_logits_f32(model, workspace, s->floats[0], s->faces, from_f32) != MXN_OK)
        abort();
    if (mxn_model_algorithm(model) != algorithm || mxn_model_precision(model) != MXN_PRECISION_FLOAT32 ||
        mxn_model_backend(model) != backend || model->quantised_fc1 != (s->quantised && backend->float32->dense_s8))
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

/* Every call of several threads gives the bits of a call of one, whoever finds the team at work. */
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

static int check_team(const mxn_backend *backend) {
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
static int check_team(const mxn_backend *backend) { return (void)backend, 0; }
#endif

static float *filled(size_t count, int byte) {
    float *values = aligned_alloc(MXN_ALIGNMENT, (count * sizeof(float) + MXN_ALIGNMENT - 1) / MXN_ALIGNMENT * MXN_ALIGNMENT);
    if (!values) abort();
    return memset(values, byte, count * sizeof(float));
}

/* The convolutions with each buffer in an allocation of its own, for the sanitizer to watch. What scratch and the insides
 * of the buffers hold before must not matter, and the paddings must stay zero. Returns the number of wrong floats. */
static int check_convolutions(const mxn_backend *backend, mxn_algorithm algorithm, const sample *s) {
    enum { IMAGE = MXN_IMAGE_ROWS * MXN_IMAGE_PITCH, MAP = MXN_MAP_PIXELS * MXN_MAP_PITCH, ZEROS = 0, NANS = 0xFF };
    static const int fills[] = {ZEROS, NANS};
    const size_t flat_width = (size_t)mxn_flat_width(s->config.topology);
    float *image = filled(IMAGE, 0), *map[2], *flat[2];
    int wrong = 0;
    mxn_model *model;
    if (mxn_model_new(&model, &s->config, &s->weights, backend, MXN_PRECISION_FLOAT32, algorithm) != MXN_OK) abort();
    backend->float32->load_u8(s->bytes[s->faces - 1], image);
    uint8_t *image_bytes = (uint8_t *)filled(IMAGE / sizeof(float), 0); /* gives the same bits */
    backend->int8->load_u8(s->bytes[s->faces - 1], image_bytes);
    for (int i = 0; i < 2; i++) {
        float *scratch = filled(MXN_SCRATCH, fills[i]);
        map[i] = filled(MAP, ZEROS);
        flat[i] = filled(flat_width, fills[i]);
        for (int y = 0; y < MXN_MAP_SIZE; y++)
            memset(map[i] + (y + MXN_MAP_PADDING) * MXN_MAP_PITCH + MXN_MAP_PADDING * MXN_CONV1_CHANNELS, fills[i],
                   MXN_MAP_SIZE * MXN_CONV1_CHANNELS * sizeof(float));
        if (i == 1 && model->conv1_u8)
            model->conv1_u8(image_bytes, model->conv1_weight, model->conv1_bias, map[i], scratch);
        else
            model->conv1(image, model->conv1_weight, model->conv1_bias, map[i], scratch);
        memset(scratch, fills[i], MXN_SCRATCH * sizeof(float));
        model->conv2(map[i], model->conv2_weight, model->conv2_bias, flat[i], scratch);
        free(scratch);
    }
    for (int i = 0; i < MAP; i++) {
        const int y = i / MXN_MAP_PITCH - MXN_MAP_PADDING, x = i % MXN_MAP_PITCH / MXN_CONV1_CHANNELS - MXN_MAP_PADDING;
        const int inside = y >= 0 && y < MXN_MAP_SIZE && x >= 0 && x < MXN_MAP_SIZE;
        wrong += map[0][i] != map[1][i] || (!inside && map[0][i] != 0);
    }
    for (size_t i = 0; i < flat_width; i++) wrong += flat[0][i] != flat[1][i];
    for (int i = 0; i < 2; i++) free(map[i]), free(flat[i]);
    free(image), free(image_bytes);
    mxn_model_free(model);
    return wrong;
}

/* ---- int8: every bit is right or it is wrong ----------------------------------------------------------------------- */

/* Kinds of weights for int8. */
enum { RANDOM, LARGEST, SMALLEST, ALTERNATING, KINDS_OF_WEIGHTS };

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

/* Adds to each backend's count the faces whose logits are not the reference's, bit for bit. */
static void check_int8_network(const mxn_backend *const *backends, int count, const mxn_config *config, int kind,
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

/* Memory between pages that may not be touched, against the upper or the lower one. Never given back. */
static void *guarded(size_t bytes, bool upper) {
    enum { PAGE = 4096 };
    const size_t inside = (bytes + PAGE - 1) / PAGE * PAGE;
    uint8_t *memory = mmap(NULL, inside + 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, PAGE, PROT_NONE) != 0 ||
        mprotect(memory + PAGE + inside, PAGE, PROT_NONE) != 0)
        abort();
    return memory + PAGE + (upper ? inside - bytes : 0);
}

/* The kernels one by one on guarded buffers, with other contents before. Returns the number of wrong values. */
static int check_int8_kernels(const mxn_backend *backend, const mxn_config *config) {
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

/* Crops must be the same pixels on every backend. Returns how many differ from `scalar`. */
static int check_crops(const mxn_backend *backend, const mxn_backend *scalar) {
    static uint8_t frame[97 * 131 * 4], ours[84 * 84], theirs[84 * 84];
    static const mxn_box boxes[] = {{10, 5, 84, 84}, {0, 0, 131, 97}, {3.3, 7.7, 20.5, 31.25}, {-40, -30, 200, 200},
                                    {120, 90, 50, 50}, {500, 500, 10, 10}, {-9, 40, 3, 1}};
    int different = 0;
    for (size_t i = 0; i < sizeof frame; i++) frame[i] = (uint8_t)random_bits();
    for (size_t b = 0; b < sizeof boxes / sizeof *boxes; b++)
        for (int color = MXN_COLOR_GRAY; color <= MXN_COLOR_BGRA; color++) {
            const int channels = color == MXN_COLOR_GRAY ? 1 : color <= MXN_COLOR_BGR ? 3 : 4;
            const mxn_image image = {frame, 131, 97, 131 * channels, channels, 1, (mxn_color)color};
            const size_t bytes = mxn_crop_scratch_bytes(boxes[b], 84);
            void *scratch = aligned_alloc(MXN_ALIGNMENT, bytes);
            if (!scratch || mxn_crop_gray(backend, &image, boxes[b], 84, ours, scratch, bytes) != MXN_OK ||
                mxn_crop_gray(scalar, &image, boxes[b], 84, theirs, scratch, bytes) != MXN_OK)
                abort();
            free(scratch);
            for (int i = 0; i < 84 * 84; i++) different += ours[i] != theirs[i];
        }
    return different;
}

/* Reduced frames must be the same pixels on every backend; the frame ends where memory does. Returns how many differ from
 * `scalar`. */
static int check_scaling(const mxn_backend *backend, const mxn_backend *scalar) {
    enum { WIDTH = 131, HEIGHT = 97 };
    static const int sizes[][2] = {{WIDTH, HEIGHT}, {130, 5}, {40, 30}, {7, 96}, {1, 1}};
    static uint8_t ours[WIDTH * HEIGHT], theirs[WIDTH * HEIGHT];
    int different = 0;
    for (int color = MXN_COLOR_GRAY; color <= MXN_COLOR_BGRA; color++) {
        const int channels = color == MXN_COLOR_GRAY ? 1 : color <= MXN_COLOR_BGR ? 3 : 4;
        const size_t frame_bytes = (size_t)(WIDTH * HEIGHT * channels);
        uint8_t *frame = guarded(frame_bytes, color % 2);
        for (size_t i = 0; i < frame_bytes; i++) frame[i] = (uint8_t)random_bits();
        const mxn_image image = {frame, WIDTH, HEIGHT, WIDTH * channels, channels, 1, (mxn_color)color};
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            const int width = sizes[s][0], height = sizes[s][1];
            const size_t bytes = mxn_scale_scratch_bytes(&image, width, height);
            void *scratch = guarded((bytes + MXN_ALIGNMENT - 1) / MXN_ALIGNMENT * MXN_ALIGNMENT, true);
            if (mxn_scale_gray(backend, &image, width, height, ours, scratch, bytes) != MXN_OK ||
                mxn_scale_gray(scalar, &image, width, height, theirs, scratch, bytes) != MXN_OK)
                abort();
            different += mxn_scale_gray(backend, &image, width, height, ours, scratch, bytes - 1) != MXN_ERROR_MEMORY;
            for (int i = 0; i < width * height; i++) different += ours[i] != theirs[i];
        }
        different += mxn_scale_scratch_bytes(&image, WIDTH + 1, HEIGHT) != 0;
    }
    return different;
}

/* Depthwise sums stay small enough for kernels that round them to 16 bits. */
static mxn_detector_weights make_detector_weights(void) {
    static const int channels[MXN_DETECTOR_UNITS][2] = {{16, 32}, {32, 32}, {32, 32}, {32, 64}, {64, 64}, {64, 64},
                                                        {64, 64}, {64, 64}, {64, 64}, {32, 32}, {64, 64}, {64, 64}};
    static const int refiner[MXN_REFINER_UNITS][2] = {{16, 32}, {32, 64}, {64, 64}, {64, 64}};
    mxn_detector_weights w = {.stem_weight = random_weights(9 * 16, 0.5), .stem_bias = random_weights(16, 0.3)};
    for (int i = 0; i < MXN_DETECTOR_UNITS + MXN_REFINER_UNITS; i++) {
        const int *c = i < MXN_DETECTOR_UNITS ? channels[i] : refiner[i - MXN_DETECTOR_UNITS];
        const size_t in = (size_t)c[0], out = (size_t)c[1];
        *(i < MXN_DETECTOR_UNITS ? &w.unit[i] : &w.refiner_unit[i - MXN_DETECTOR_UNITS]) = (mxn_unit_weights){
            random_weights(9 * in, 0.7 / 8), random_weights(in * out, 8 * sqrt(6.0 / c[0])), random_weights(out, 0.3)};
    }
    w.lateral_weight = random_weights(64 * 32, 0.2), w.lateral_bias = random_weights(32, 0.3);
    for (int l = 0; l < MXN_DETECTOR_LEVELS; l++)
        w.out[l] = (mxn_out_weights){random_weights(l == 0 ? 32 * 5 : 64 * 5, 0.1), random_weights(5, 0.3)};
    w.refiner_stem_weight = random_weights(9 * 16, 0.5), w.refiner_stem_bias = random_weights(16, 0.3);
    w.refiner_out = (mxn_out_weights){random_weights(MXN_REFINER_FLAT * 5, 0.02), random_weights(5, 0.3)};
    return w;
}

static void free_detector_weights(mxn_detector_weights *w) {
    free((void *)w->stem_weight), free((void *)w->stem_bias), free((void *)w->lateral_weight), free((void *)w->lateral_bias);
    free((void *)w->refiner_stem_weight), free((void *)w->refiner_stem_bias);
    free((void *)w->refiner_out.weight), free((void *)w->refiner_out.bias);
    for (int i = 0; i < MXN_DETECTOR_UNITS + MXN_REFINER_UNITS; i++) {
        mxn_unit_weights *u = i < MXN_DETECTOR_UNITS ? &w->unit[i] : &w->refiner_unit[i - MXN_DETECTOR_UNITS];
        free((void *)u->depthwise), free((void *)u->pointwise), free((void *)u->bias);
    }
    for (int l = 0; l < MXN_DETECTOR_LEVELS; l++) free((void *)w->out[l].weight), free((void *)w->out[l].bias);
}

static double largest_error(const float *found, const float *expected, ptrdiff_t count) {
    double largest = 0, error = 0;
    for (ptrdiff_t i = 0; i < count; i++) {
        largest = fmax(largest, fabs((double)expected[i]));
        error = fmax(error, isfinite(found[i]) ? fabs((double)found[i] - expected[i]) : INFINITY);
    }
    return error / largest;
}

/* Both networks of the detector beside the scalar backend: the largest relative error, which infinity stands for when
 * whole frames go wrong. One workspace serves all sizes. */
static double check_detector(const mxn_backend *backend, const mxn_backend *scalar) {
#ifdef MXN_TEST_QUICK
    static const int sizes[][2] = {{1, 1}, {31, 17}};
#else
    static const int sizes[][2] = {{1, 1}, {3, 2}, {31, 17}, {100, 7}, {97, 60}, {31, 17}};
#endif
    static float ours[4096 * MXN_DETECTOR_ANSWERS], theirs[4096 * MXN_DETECTOR_ANSWERS];
    mxn_detector_weights weights = make_detector_weights();
    mxn_detector *detector[2];
    mxn_detector_workspace *workspace[2] = {mxn_detector_workspace_new(), mxn_detector_workspace_new()};
    double worst = 0;
    if (!workspace[0] || !workspace[1] || mxn_detector_new(&detector[0], &weights, backend) != MXN_OK ||
        mxn_detector_new(&detector[1], &weights, scalar) != MXN_OK)
        abort();
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        const int width = sizes[s][0], height = sizes[s][1];
        uint8_t *gray = guarded((size_t)(width * height), s % 2);
        for (int i = 0; i < width * height; i++) gray[i] = (uint8_t)random_bits();
        if (mxn_detector_answers(detector[0], workspace[0], gray, width, height, ours) != MXN_OK ||
            mxn_detector_answers(detector[1], workspace[1], gray, width, height, theirs) != MXN_OK)
            abort();
        worst = fmax(worst, largest_error(ours, theirs, mxn_detector_cells(width, height) * MXN_DETECTOR_ANSWERS));
        const mxn_image image = {gray, width, height, width, 1, 0, MXN_COLOR_GRAY};
        const mxn_detect_options options = {1.0, 0.0f, 3}, nonsense[] = {{0.0, 0.5f, 3}, {0.1, 1.5f, 3}, {0.1, 0.5f, 0}};
        mxn_detection found[3];
        int count = -1;
        if (mxn_detect(detector[0], workspace[0], &image, &options, found, &count) != MXN_OK || count < 0 || count > 3)
            worst = INFINITY;
        for (int i = 0; i < 3; i++)
            if (mxn_detect(detector[0], workspace[0], &image, &nonsense[i], found, &count) != MXN_ERROR_ARGUMENT)
                worst = INFINITY;
    }
    uint8_t *pixels = guarded(MXN_REFINER_PIXELS, true);
    for (int i = 0; i < MXN_REFINER_PIXELS; i++) pixels[i] = (uint8_t)random_bits();
    mxn_refiner_answers(detector[0], workspace[0], pixels, ours);
    mxn_refiner_answers(detector[1], workspace[1], pixels, theirs);
    worst = fmax(worst, largest_error(ours, theirs, MXN_DETECTOR_ANSWERS));
    for (int i = 0; i < 2; i++) {
        mxn_detector_free(detector[i]);
        mxn_detector_workspace_free(workspace[i]);
    }
    free_detector_weights(&weights);
    return worst;
}

int main(int argc, char **argv) {
    static const char *const names[] = {"v", "p1", "p2", "p12"};
    static const char *const algorithms[] = {"", "direct", "toom-cook"};
#ifdef MXN_TEST_QUICK /* on an emulated CPU a face takes a second */
    static const int widths[][2] = {{17, 7}};
    enum { FIRST_FACE = 39, QUANTISED = 0 };
#else
    static const int widths[][2] = {{48, 8}, {1, 1}, {17, 7}, {1023, 63}, {1024, 64}};
    enum { FIRST_FACE = 0, QUANTISED = 1 }; /* in every second width fc1 is */
#endif
    enum { WIDTHS = sizeof widths / sizeof *widths, BACKENDS_MAX = 8, ALGORITHMS = 3, SMOOTH_AND_NOISE = 36 };
    static sample s;
    const mxn_backend *backends[BACKENDS_MAX], *backend, *scalar;
    int failures = 0, tested = 0;

    if (mxn_backend_resolve("scalar", &scalar) != MXN_OK) return 1;
    if (mxn_backend_resolve("no such backend", &backend) != MXN_ERROR_ISA) return 1;
    for (int i = 0; tested < BACKENDS_MAX && (backend = mxn_backend_available(i)) != NULL; i++)
        if (argc < 2 || strcmp(argv[1], mxn_backend_name(backend)) == 0) backends[tested++] = backend;
    if (tested == 0) {
        printf("FAIL backend %s is not available\n", argv[1]);
        return 1;
    }
    for (int t = MXN_TOPOLOGY_V; t <= MXN_TOPOLOGY_P12; t++) {
        const int last = t == MXN_TOPOLOGY_V ? MXN_ALGORITHM_DIRECT : MXN_ALGORITHM_TOOM_COOK;
        double worst[BACKENDS_MAX][ALGORITHMS] = {0};
        int wrong[BACKENDS_MAX][ALGORITHMS] = {0}, wrong_int8[BACKENDS_MAX] = {0};
        for (int w = 0; w < WIDTHS; w++) {
            const mxn_config config = {(mxn_topology)t, widths[w][0], widths[w][1]};
            make_sample(&s, config, w == 0 ? FIRST_FACE : SMOOTH_AND_NOISE, w % 2 == QUANTISED);
            for (int b = 0; b < tested; b++)
                for (int a = MXN_ALGORITHM_DIRECT; a <= last; a++) {
                    worst[b][a] = fmax(worst[b][a], check_network(backends[b], (mxn_algorithm)a, &s));
                    if (w == 0) wrong[b][a] = check_convolutions(backends[b], (mxn_algorithm)a, &s);
                }
            mxn_model *model;
            for (int p = MXN_PRECISION_FLOAT32; p <= MXN_PRECISION_INT8; p++)
                if ((t == MXN_TOPOLOGY_V || p == MXN_PRECISION_INT8) &&
                    mxn_model_new(&model, &config, &s.weights, scalar, (mxn_precision)p, MXN_ALGORITHM_TOOM_COOK) !=
                        MXN_ERROR_ARGUMENT)
                    return 1;
            free_weights(&s.weights);
            for (int kind = 0; kind < KINDS_OF_WEIGHTS; kind++)
                check_int8_network(backends, tested, &config, kind, w == 0 && kind == RANDOM ? FIRST_FACE : FACES - 2,
                                   wrong_int8);
            for (int b = 0; b < tested; b++) wrong_int8[b] += check_int8_kernels(backends[b], &config);
        }
        for (int b = 0; b < tested; b++)
            for (int a = MXN_ALGORITHM_DIRECT; a <= last; a++) {
                const int ok = worst[b][a] < 1e-5 && wrong[b][a] == 0;
                failures += !ok;
                printf("%-4s %-10s %-3s %-9s largest relative error %.2g, %d floats depend on what was there before\n",
                       ok ? "ok" : "FAIL", mxn_backend_name(backends[b]), names[t], algorithms[a], worst[b][a],
                       wrong[b][a]);
            }
        for (int b = 0; b < tested; b++) {
            failures += wrong_int8[b] > 0;
            printf("%-4s %-10s %-3s int8      %d results differ from the reference\n", wrong_int8[b] ? "FAIL" : "ok",
                   mxn_backend_name(backends[b]), names[t], wrong_int8[b]);
        }
    }
    for (int b = 0; b < tested; b++) {
        const int different = check_crops(backends[b], scalar);
        failures += different > 0;
        printf("%-4s %-10s crops, %d pixels differ from scalar\n", different ? "FAIL" : "ok",
               mxn_backend_name(backends[b]), different);
    }
    for (int b = 0; b < tested; b++) {
        const int different = check_scaling(backends[b], scalar);
        failures += different > 0;
        printf("%-4s %-10s scaling, %d pixels differ from scalar\n", different ? "FAIL" : "ok", mxn_backend_name(backends[b]),
               different);
        const double error = check_detector(backends[b], scalar);
        const double allowed = backends[b]->detector->pairs ? 1e-2 : 1e-5; /* rounded in every layer */
        failures += !(error < allowed);
        printf("%-4s %-10s detector, largest relative error %.2g\n", error < allowed ? "ok" : "FAIL",
               mxn_backend_name(backends[b]), error);
    }
    const int wrong_in_team = check_team(backends[0]);
    failures += wrong_in_team > 0;
    printf("%-4s team, %d wrong calls\n", wrong_in_team ? "FAIL" : "ok", wrong_in_team);
    return failures > 0;
}
