/* The installed library as a program sees it: mxn.h alone, every function, right answers and documented errors. Small enough
 * for valgrind. Prints one line and exits with 1 when something is wrong.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mxn.h"

static int wrong;

#define CHECK(condition) ((condition) ? (void)0 : (wrong++, (void)printf("line %d: %s\n", __LINE__, #condition)))

static uint32_t state = 1;

static float noise(void) {
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / (float)(1 << 23) - 1.0f;
}

/* One allocation for all tensors of anything, cut up in order. */
static float *pool, *pool_next;

static const float *take(int count, float scale) {
    float *values = pool_next;
    for (int i = 0; i < count; i++) values[i] = scale * noise();
    pool_next += count;
    return values;
}

static mxn_weights make_weights(const mxn_config *c) {
    const int flat = mxn_flat_width(c->topology);
    mxn_weights w;
    w.conv1_weight = take(MXN_CONV1_WEIGHTS, 0.01f), w.conv1_bias = take(MXN_CONV1_CHANNELS, 0.1f);
    w.conv2_weight = take(MXN_CONV2_WEIGHTS, 0.1f), w.conv2_bias = take(MXN_CONV2_CHANNELS, 0.1f);
    w.fc1_weight = take(flat * c->hidden, 0.05f), w.fc1_bias = take(c->hidden, 0.1f);
    w.fc2_weight = take(c->hidden * c->classes, 0.3f), w.fc2_bias = take(c->classes, 0.1f);
    return w;
}

static void check_network(const mxn_backend *backend, mxn_topology topology) {
    enum { FACES = 4, CLASSES = 7 };
    static uint8_t bytes[FACES][MXN_FACE_PIXELS];
    static float floats[FACES][MXN_FACE_PIXELS];
    const mxn_config config = {topology, 19, CLASSES}, bad = {topology, 0, CLASSES};
    pool_next = pool;
    const mxn_weights weights = make_weights(&config);
    for (int f = 0; f < FACES; f++)
        for (int i = 0; i < MXN_FACE_PIXELS; i++) floats[f][i] = bytes[f][i] = (uint8_t)(127.5f * (noise() + 1));

    mxn_model *model = NULL;
    CHECK(mxn_model_new(&model, &bad, &weights, backend, MXN_PRECISION_FLOAT32, MXN_ALGORITHM_FASTEST) ==
          MXN_ERROR_ARGUMENT);
    CHECK(mxn_model_new(&model, &config, &weights, backend, (mxn_precision)9, MXN_ALGORITHM_FASTEST) == MXN_ERROR_ARGUMENT);
    CHECK(model == NULL);

    mxn_workspace *own = mxn_workspace_new();
    const size_t size = (mxn_workspace_bytes() + 2 * MXN_ALIGNMENT - 1) / MXN_ALIGNMENT * MXN_ALIGNMENT;
    char *memory = aligned_alloc(MXN_ALIGNMENT, size);
    if (!own || !memory) exit(1);
    CHECK(mxn_workspace_init(memory + 1) == NULL);
    mxn_workspace *laid_out = mxn_workspace_init(memory);
    CHECK(laid_out != NULL);
    mxn_team *team = NULL;
    CHECK(mxn_team_new(&team, 0) == MXN_ERROR_ARGUMENT && team == NULL);
    CHECK(mxn_team_new(&team, 2) == MXN_OK);

    for (int p = MXN_PRECISION_FLOAT32; p <= MXN_PRECISION_INT8; p++) {
        float one[FACES][CLASSES], two[FACES][CLASSES], three[FACES][CLASSES], exact[CLASSES];
        double expected[CLASSES];
        CHECK(mxn_model_new(&model, &config, &weights, backend, (mxn_precision)p, MXN_ALGORITHM_FASTEST) == MXN_OK);
        CHECK(mxn_model_backend(model) == backend && (int)mxn_model_precision(model) == p);
        CHECK(mxn_model_algorithm(model) != MXN_ALGORITHM_FASTEST);
        CHECK(mxn_logits_u8(model, own, bytes[0], -1, one[0]) == MXN_ERROR_ARGUMENT);
        CHECK(mxn_logits_u8(model, own, bytes[0], 0, one[0]) == MXN_OK);
        CHECK(mxn_logits_u8(model, own, bytes[0], FACES, one[0]) == MXN_OK);
        CHECK(mxn_logits_f32(model, laid_out, floats[0], FACES, two[0]) == MXN_OK);
        CHECK(mxn_team_logits_u8(team, model, own, bytes[0], FACES, three[0]) == MXN_OK);
        CHECK(memcmp(one, three, sizeof one) == 0);
        CHECK(mxn_team_logits_f32(team, model, own, floats[0], FACES, three[0]) == MXN_OK);
        CHECK(memcmp(two, three, sizeof two) == 0);
        for (int f = 0; f < FACES; f++) {
            if (p == MXN_PRECISION_INT8) {
                CHECK(mxn_reference_logits_int8(&config, &weights, bytes[f], exact) == MXN_OK);
                CHECK(memcmp(one[f], exact, sizeof exact) == 0 && memcmp(two[f], exact, sizeof exact) == 0);
                continue;
            }
            CHECK(mxn_reference_logits(&config, &weights, floats[f], expected) == MXN_OK);
            for (int i = 0; i < CLASSES; i++)
                CHECK(fabs(one[f][i] - expected[i]) < 1e-4 && fabs(two[f][i] - expected[i]) < 1e-4);
        }
        const float before = floats[1][7];
        floats[1][7] = NAN;
        CHECK(mxn_logits_f32(model, own, floats[0], FACES, two[0]) == MXN_ERROR_NOT_FINITE);
        floats[1][7] = before;
        mxn_model_free(model);
        model = NULL;
    }
    CHECK(mxn_reference_logits(&bad, &weights, floats[0], NULL) == MXN_ERROR_ARGUMENT);
    mxn_team_free(team);
    mxn_workspace_free(own);
    free(memory);
}

static void check_pictures(const mxn_backend *backend) {
    enum { WIDTH = 61, HEIGHT = 47, SIZE = 20 };
    static uint8_t flat[WIDTH * HEIGHT * 3], out[SIZE * SIZE];
    memset(flat, 77, sizeof flat);
    mxn_image image = {flat, WIDTH, HEIGHT, WIDTH * 3, 3, 1, MXN_COLOR_BGR};
    const mxn_box box = {-5, 3.5, 40, 60}, absurd = {0, 0, -1, NAN};
    CHECK(mxn_crop_scratch_bytes(absurd, SIZE) == 0 && mxn_crop_scratch_bytes(box, 0) == 0);
    const size_t crop_bytes = mxn_crop_scratch_bytes(box, SIZE), scale_bytes = mxn_scale_scratch_bytes(&image, SIZE, SIZE);
    CHECK(mxn_scale_scratch_bytes(&image, WIDTH + 1, SIZE) == 0);
    const size_t larger = crop_bytes > scale_bytes ? crop_bytes : scale_bytes;
    char *scratch = aligned_alloc(MXN_ALIGNMENT, (larger + MXN_ALIGNMENT) / MXN_ALIGNMENT * MXN_ALIGNMENT);
    if (!scratch) exit(1);
    CHECK(mxn_crop_gray(backend, &image, absurd, SIZE, out, scratch, crop_bytes) == MXN_ERROR_ARGUMENT);
    CHECK(mxn_crop_gray(backend, &image, box, SIZE, out, scratch, crop_bytes - 1) == MXN_ERROR_MEMORY);
    CHECK(mxn_crop_gray(backend, &image, box, SIZE, out, scratch + 4, crop_bytes) == MXN_ERROR_MEMORY);
    CHECK(mxn_crop_gray(backend, &image, box, SIZE, out, scratch, crop_bytes) == MXN_OK);
    for (int i = 0; i < SIZE * SIZE; i++) CHECK(out[i] == 77);
    memset(out, 0, sizeof out);
    CHECK(mxn_scale_gray(backend, &image, WIDTH + 1, SIZE, out, scratch, scale_bytes) == MXN_ERROR_ARGUMENT);
    CHECK(mxn_scale_gray(backend, &image, SIZE, SIZE, out, scratch, scale_bytes - 1) == MXN_ERROR_MEMORY);
    CHECK(mxn_scale_gray(backend, &image, SIZE, SIZE, out, scratch, scale_bytes) == MXN_OK);
    for (int i = 0; i < SIZE * SIZE; i++) CHECK(out[i] == 77);
    image.width = 0;
    CHECK(mxn_crop_gray(backend, &image, box, SIZE, out, scratch, crop_bytes) == MXN_ERROR_ARGUMENT);
    free(scratch);
    out[0] = 99;
    mxn_standardise(out, SIZE * SIZE);
    CHECK(out[0] > 128 && out[1] < 129);
    mxn_standardise(out, 0);
}

static void check_views(const mxn_backend *backend) {
    enum { WIDTH = 120, HEIGHT = 100, PIXELS = MXN_FACE_PIXELS };
    static uint8_t frame[WIDTH * HEIGHT], one[PIXELS], two[2 * PIXELS], four[4 * PIXELS];
    for (int i = 0; i < WIDTH * HEIGHT; i++) frame[i] = (uint8_t)(i * 7 + i / WIDTH * 13);
    const mxn_image image = {frame, WIDTH, HEIGHT, WIDTH, 1, 1, MXN_COLOR_GRAY};
    const mxn_box box = {20, 9, MXN_FACE_SIZE, MXN_FACE_SIZE}, absurd = {0, 0, 1e9, 1};
    for (int views = -1; views < 9; views++)
        CHECK((mxn_views_scratch_bytes(box, views) > 0) == (views == 1 || views == 2 || views == 4));
    CHECK(mxn_views_scratch_bytes(absurd, 1) == 0 && mxn_views_scratch_bytes(absurd, 4) == 0);
    const size_t bytes = mxn_views_scratch_bytes(box, 4);
    char *scratch = aligned_alloc(MXN_ALIGNMENT, (bytes + MXN_ALIGNMENT) / MXN_ALIGNMENT * MXN_ALIGNMENT);
    if (!scratch) exit(1);
    CHECK(mxn_views_gray(backend, &image, box, 3, false, four, scratch, bytes) == MXN_ERROR_ARGUMENT);
    CHECK(mxn_views_gray(backend, &image, absurd, 4, false, four, scratch, bytes) == MXN_ERROR_ARGUMENT);
    CHECK(mxn_views_gray(backend, &image, box, 4, false, four, scratch, bytes - 1) == MXN_ERROR_MEMORY);
    CHECK(mxn_views_gray(backend, &image, box, 4, false, four, scratch, 1) == MXN_ERROR_MEMORY);
    CHECK(mxn_views_gray(backend, &image, box, 4, false, four, scratch + 4, bytes) == MXN_ERROR_MEMORY);
    CHECK(mxn_views_gray(backend, &image, box, 1, false, one, scratch, bytes) == MXN_OK);
    CHECK(mxn_views_gray(backend, &image, box, 2, false, two, scratch, bytes) == MXN_OK);
    CHECK(mxn_views_gray(backend, &image, box, 4, false, four, scratch, bytes) == MXN_OK);
    CHECK(memcmp(two, four, sizeof two) == 0);
    /* The box is not resampled, so that every pixel is one of the image. */
    for (int y = 0; y < MXN_FACE_SIZE; y++)
        for (int x = 0; x < MXN_FACE_SIZE; x++) {
            const uint8_t *here = frame + (y + 9) * WIDTH + x + 20, *mirror = frame + (y + 9) * WIDTH + 103 - x;
            const int i = y * MXN_FACE_SIZE + x;
            CHECK(one[i] == *here);
            CHECK(four[i] == here[-2] && four[PIXELS + i] == mirror[2]);
            CHECK(four[2 * PIXELS + i] == mirror[-2 * WIDTH] && four[3 * PIXELS + i] == here[2 * WIDTH]);
        }
    CHECK(mxn_views_gray(backend, &image, box, 1, true, two, scratch, bytes) == MXN_OK);
    mxn_standardise(one, PIXELS);
    CHECK(memcmp(one, two, sizeof one) == 0);
    free(scratch);

    float logits[] = {1, 2, 3, 6, -1, 0, 5, -8};
    mxn_mean_logits(logits, 2, 0, 2, logits);
    CHECK(logits[0] == 1);
    mxn_mean_logits(logits, 2, 2, 2, logits);
    CHECK(logits[0] == 2 && logits[1] == 4 && logits[2] == 2 && logits[3] == -4);
}

static void check_softmax(void) {
    float rows[2][3] = {{1000, 1000, -1000}, {0, 0.6931472f, 1.0986123f}};
    mxn_softmax(rows[0], 3, 0, rows[0]);
    CHECK(rows[0][0] == 1000);
    mxn_softmax(rows[0], 3, 2, rows[0]);
    CHECK(rows[0][0] == 0.5f && rows[0][1] == 0.5f && rows[0][2] == 0);
    for (int i = 0; i < 3; i++) CHECK(fabs(rows[1][i] - (i + 1) / 6.0) < 1e-6);
}

static void check_square(void) {
    const mxn_detection faces[] = {{100, 50, 64, 100, 1}, {100.0001f, 49.9999f, 64.0001f, 99.9999f, 1}, {0, 0, 0, 0, 1}};
    const mxn_box square = mxn_face_square(&faces[0], 1.25), other = mxn_face_square(&faces[1], 1.25);
    /* A mean side of 80, a square of 100 about (132, 100), on a grid of 2. */
    CHECK(square.x == 82 && square.y == 50 && square.width == 100 && square.height == 100);
    CHECK(memcmp(&square, &other, sizeof square) == 0);
    CHECK(mxn_face_square(&faces[2], MXN_FACE_SCALE).width == 0);
}

static void check_detector(const mxn_backend *backend) {
    static const int channels[MXN_DETECTOR_UNITS][2] = {{16, 32}, {32, 32}, {32, 32}, {32, 64}, {64, 64}, {64, 64},
                                                        {64, 64}, {64, 64}, {64, 64}, {32, 32}, {64, 64}, {64, 64}};
    static const int refiner[MXN_REFINER_UNITS][2] = {{16, 32}, {32, 64}, {64, 64}, {64, 64}};
    static uint8_t frame[120 * 90];
    mxn_detector_weights w;
    pool_next = pool;
    w.stem_weight = take(9 * 16, 0.5f), w.stem_bias = take(16, 0.3f);
    for (int i = 0; i < MXN_DETECTOR_UNITS + MXN_REFINER_UNITS; i++) {
        const int *c = i < MXN_DETECTOR_UNITS ? channels[i] : refiner[i - MXN_DETECTOR_UNITS];
        mxn_unit_weights *unit = i < MXN_DETECTOR_UNITS ? &w.unit[i] : &w.refiner_unit[i - MXN_DETECTOR_UNITS];
        unit->depthwise = take(9 * c[0], 0.7f);
        unit->pointwise = take(c[0] * c[1], sqrtf(6.0f / (float)c[0]));
        unit->bias = take(c[1], 0.3f);
    }
    w.lateral_weight = take(64 * 32, 0.2f), w.lateral_bias = take(32, 0.3f);
    for (int l = 0; l < MXN_DETECTOR_LEVELS; l++)
        w.out[l].weight = take((l == 0 ? 32 : 64) * 5, 0.1f), w.out[l].bias = take(5, 0.3f);
    w.refiner_stem_weight = take(9 * 16, 0.5f), w.refiner_stem_bias = take(16, 0.3f);
    w.refiner_out.weight = take(MXN_REFINER_FLAT * 5, 0.02f), w.refiner_out.bias = take(5, 0.3f);

    mxn_detector *detector = NULL;
    mxn_detector_workspace *workspace = mxn_detector_workspace_new();
    CHECK(mxn_detector_new(&detector, &w, backend) == MXN_OK && mxn_detector_backend(detector) == backend);
    if (!workspace || !detector) exit(1);
    for (size_t i = 0; i < sizeof frame; i++) frame[i] = (uint8_t)(127.5f * (noise() + 1));
    mxn_image image = {frame, 120, 90, 120, 1, 1, MXN_COLOR_GRAY};
    const mxn_detect_options options = {0.2, 0, 3}, absurd = {0, 0.5f, 3}, no_room = {0.2, 0.5f, 0};
    mxn_detection found[3];
    int count = -1, width, height;
    CHECK(mxn_detect(detector, workspace, &image, &absurd, found, &count) == MXN_ERROR_ARGUMENT);
    CHECK(mxn_detect(detector, workspace, &image, &no_room, found, &count) == MXN_ERROR_ARGUMENT);
    CHECK(count == -1);
    CHECK(mxn_detect(detector, workspace, &image, &options, found, &count) == MXN_OK);
    CHECK(count >= 0 && count <= 3);
    for (int i = 0; i < count; i++) CHECK(found[i].score >= 0 && found[i].score <= 1);
    CHECK(mxn_detector_size(&image, 0, &width, &height) == MXN_ERROR_ARGUMENT);
    CHECK(mxn_detector_size(&image, 0.2, &width, &height) == MXN_OK);
    const ptrdiff_t cells = mxn_detector_cells(width, height);
    float *answers = malloc((size_t)cells * MXN_DETECTOR_ANSWERS * sizeof *answers), second[MXN_DETECTOR_ANSWERS];
    if (!answers) exit(1);
    CHECK(mxn_detector_answers(detector, workspace, frame, 0, height, answers) == MXN_ERROR_ARGUMENT);
    CHECK(mxn_detector_answers(detector, workspace, frame, width, height, answers) == MXN_OK);
    for (ptrdiff_t i = 0; i < cells * MXN_DETECTOR_ANSWERS; i++) CHECK(isfinite(answers[i]));
    mxn_refiner_answers(detector, workspace, frame, second);
    for (int i = 0; i < MXN_DETECTOR_ANSWERS; i++) CHECK(isfinite(second[i]));
    free(answers);
    mxn_detector_workspace_free(workspace);
    mxn_detector_free(detector);
}

int main(void) {
    const mxn_backend *backend;
    int backends = 0;
    CHECK(mxn_abi_version() == MXN_ABI_VERSION);
    CHECK(mxn_backend_resolve("no such instruction set", &backend) == MXN_ERROR_ISA);
    CHECK(mxn_backend_available(-1) == NULL);
    check_softmax();
    check_square();
    pool = malloc(sizeof(float) << 18); /* the detector takes the most, under a quarter of a million */
    if (!pool) return 1;
    while ((backend = mxn_backend_available(backends)) != NULL) {
        const mxn_backend *same;
        CHECK(mxn_backend_resolve(mxn_backend_name(backend), &same) == MXN_OK && same == backend);
        check_network(backend, MXN_TOPOLOGY_P12);
        check_network(backend, MXN_TOPOLOGY_V);
        check_pictures(backend);
        check_views(backend);
        check_detector(backend);
        backends++;
    }
    CHECK(backends > 0 && mxn_backend_prefers_int8(mxn_backend_available(backends - 1)) == false);
    CHECK(mxn_flat_width(MXN_TOPOLOGY_P12) == MXN_FLAT_POOLED && mxn_flat_width(MXN_TOPOLOGY_V) == MXN_FLAT_PLAIN);
    mxn_model_free(NULL);
    mxn_team_free(NULL);
    mxn_workspace_free(NULL);
    mxn_detector_free(NULL);
    mxn_detector_workspace_free(NULL);
    free(pool);
    printf("%s %d backends, %d wrong\n", wrong ? "FAIL" : "ok", backends, wrong);
    return wrong > 0;
}
