/* Looks for faces in one frame, and cuts them out as the student is shown them, so that the instructions of it can be counted.
 * modelled_cycles.py compiles it with csrc/.
 *
 *     frame WEIGHTS PICTURE ISA TIMES
 *
 * WEIGHTS: the detector's tensors, raw floats, in the order of mxn_edge.weights.detector_shapes(). PICTURE: 480 rows of 640
 * BGR pixels. Prints how many faces there are. */
#include <stdio.h>
#include <stdlib.h>

#include "detector.h"

enum { WIDTH = 640, HEIGHT = 480, FRAME_BYTES = WIDTH * HEIGHT * 3, VIEWS = MXN_VIEWS_MAX, FACES_MAX = 16 };

static void fail(const char *what) {
    fprintf(stderr, "frame: %s\n", what);
    exit(1);
}

static void *allocate(size_t bytes) {
    void *memory = aligned_alloc(MXN_ALIGNMENT, aligned(bytes));
    if (!memory) fail("out of memory");
    return memory;
}

static FILE *weights_file;

static const float *take(int count) {
    float *values = allocate((size_t)count * sizeof *values);
    if (fread(values, sizeof *values, (size_t)count, weights_file) != (size_t)count) fail("the weights are too short");
    return values;
}

static mxn_unit_weights take_unit(int inputs, int outputs) {
    mxn_unit_weights unit;
    unit.depthwise = take(9 * inputs);
    unit.pointwise = take(inputs * outputs);
    unit.bias = take(outputs);
    return unit;
}

static mxn_out_weights take_out(int inputs) {
    mxn_out_weights out;
    out.weight = take(inputs * ANSWERS);
    out.bias = take(ANSWERS);
    return out;
}

static mxn_detector_weights take_weights(void) {
    static const int refiner_channels[MXN_REFINER_UNITS + 1] = {MXN_DETECTOR_STEM, 32, 64, 64, 64};
    mxn_detector_weights w;
    w.stem_weight = take(9 * MXN_DETECTOR_STEM), w.stem_bias = take(MXN_DETECTOR_STEM);
    for (int i = 0; i < HEADS; i++) w.unit[i] = take_unit(units[i].inputs, units[i].outputs);
    w.lateral_weight = take(channels_of[1] * channels_of[0]), w.lateral_bias = take(channels_of[0]);
    for (int l = 0; l < LEVELS; l++) {
        w.unit[HEADS + l] = take_unit(units[HEADS + l].inputs, units[HEADS + l].outputs);
        w.out[l] = take_out(channels_of[l]);
    }
    w.refiner_stem_weight = take(9 * MXN_DETECTOR_STEM), w.refiner_stem_bias = take(MXN_DETECTOR_STEM);
    for (int i = 0; i < MXN_REFINER_UNITS; i++) w.refiner_unit[i] = take_unit(refiner_channels[i], refiner_channels[i + 1]);
    w.refiner_out = take_out(MXN_REFINER_FLAT);
    return w;
}

int main(int argc, char **argv) {
    if (argc != 5) fail("expected WEIGHTS PICTURE ISA TIMES");
    weights_file = fopen(argv[1], "rb");
    FILE *picture = fopen(argv[2], "rb");
    uint8_t *frame = allocate(FRAME_BYTES), *views = allocate(VIEWS * MXN_FACE_PIXELS);
    if (!weights_file || !picture || fread(frame, 1, FRAME_BYTES, picture) != FRAME_BYTES) fail("a file cannot be read");
    const mxn_detector_weights weights = take_weights();
    const mxn_backend *backend;
    mxn_detector *detector;
    if (mxn_backend_resolve(argv[3], &backend) != MXN_OK) fail("the instruction set is not available");
    if (mxn_detector_new(&detector, &weights, backend) != MXN_OK) fail("out of memory");
    mxn_detector_workspace *workspace = mxn_detector_workspace_new();
    if (!workspace) fail("out of memory");

    const mxn_image image = {frame, WIDTH, HEIGHT, WIDTH * 3, 3, 1, MXN_COLOR_BGR};
    const mxn_detect_options options = {0.1, 0.5, FACES_MAX};
    mxn_detection found[FACES_MAX];
    int faces = 0;
    for (int times = atoi(argv[4]); times > 0; times--) {
        if (mxn_detect(detector, workspace, &image, &options, found, &faces) != MXN_OK) fail("detection failed");
        for (int i = 0; i < faces; i++) {
            const mxn_box square = mxn_face_square(&found[i], MXN_FACE_SCALE);
            const size_t bytes = mxn_views_scratch_bytes(square, VIEWS);
            void *scratch = allocate(bytes);
            if (mxn_views_gray(backend, &image, square, VIEWS, true, views, scratch, bytes) != MXN_OK) fail("a crop failed");
            free(scratch);
        }
    }
    printf("%d\n", faces);
    return 0;
}
