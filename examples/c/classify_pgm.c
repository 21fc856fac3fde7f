/* Names the expression of a face: a grey picture (PGM, P5) that holds the face from forehead to chin.
 *
 *     classify_pgm FACE.pgm WEIGHTS.safetensors
 *
 * Compiled with MXN_COMPILED_WEIGHTS and what `mxn-edge export MODEL --to c` wrote, it has the weights in itself:
 *
 *     classify_pgm FACE.pgm
 *
 * Prints label, probability and logit of every class. Exits with 1 when something could not be done, 2 on wrong usage.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mxn.h"

#ifdef MXN_COMPILED_WEIGHTS
extern const mxn_student mxn_exported;
#else
#include "weight_file.h"
#endif

/* The next whole number of a PGM header, past blanks and comments; -1 when there is none or it is too large. */
static int read_number(FILE *file) {
    int c = getc(file);
    while (c == '#' || c == ' ' || c == '\t' || c == '\r' || c == '\n') {
        if (c == '#')
            while (c != '\n' && c != EOF) c = getc(file);
        c = getc(file);
    }
    int value = -1;
    for (; c >= '0' && c <= '9' && value <= MXN_IMAGE_SIDE_MAX; c = getc(file)) value = (value < 0 ? 0 : value * 10) + (c - '0');
    return c != EOF && value <= MXN_IMAGE_SIDE_MAX ? value : -1; /* the one blank after it is read */
}

/* The picture's samples, or NULL. */
static uint8_t *read_pgm(const char *path, mxn_image *image) {
    FILE *file = fopen(path, "rb");
    if (!file) return NULL;
    uint8_t *pixels = NULL;
    if (getc(file) == 'P' && getc(file) == '5') {
        const int width = read_number(file), height = read_number(file), most = read_number(file);
        if (width > 0 && height > 0 && most == 255) {
            const size_t bytes = (size_t)width * (size_t)height;
            pixels = malloc(bytes);
            if (pixels && fread(pixels, 1, bytes, file) != bytes) {
                free(pixels);
                pixels = NULL;
            }
            *image = (mxn_image){pixels, width, height, width, 1, 1, MXN_COLOR_GRAY};
        }
    }
    fclose(file);
    return pixels;
}

static mxn_status crop(const mxn_backend *backend, const mxn_image *image, mxn_box box, int size, uint8_t *out) {
    const size_t bytes = mxn_crop_scratch_bytes(box, size);
    void *scratch = aligned_alloc(MXN_ALIGNMENT, (bytes + MXN_ALIGNMENT - 1) / MXN_ALIGNMENT * MXN_ALIGNMENT);
    const mxn_status status = scratch ? mxn_crop_gray(backend, image, box, size, out, scratch, bytes) : MXN_ERROR_MEMORY;
    free(scratch);
    return status;
}

/* The whole picture -> the network's input, as the weights want it: `*views` pictures. */
static mxn_status preprocess(const mxn_backend *backend, const mxn_image *image, const char *preprocessing, uint8_t *faces,
                             int *views) {
    enum { PAPER = 256, MARGIN = 32 };
    static uint8_t whole[PAPER * PAPER];
    const mxn_box all = {0, 0, image->width, image->height}, inner = {MARGIN, MARGIN, PAPER - MARGIN, PAPER - MARGIN};
    if (strcmp(preprocessing, "microexpnet-paper") == 0) {
        const mxn_status status = crop(backend, image, all, PAPER, whole);
        const mxn_image picture = {whole, PAPER, PAPER, PAPER, 1, 1, MXN_COLOR_GRAY};
        *views = 1;
        return status == MXN_OK ? crop(backend, &picture, inner, MXN_FACE_SIZE, faces) : status;
    }
    *views = MXN_VIEWS_MAX;
    const bool standardise = strcmp(preprocessing, "face-square-standardised") == 0;
    const size_t bytes = mxn_views_scratch_bytes(all, *views);
    void *scratch = aligned_alloc(MXN_ALIGNMENT, (bytes + MXN_ALIGNMENT - 1) / MXN_ALIGNMENT * MXN_ALIGNMENT);
    const mxn_status status =
        scratch ? mxn_views_gray(backend, image, all, *views, standardise, faces, scratch, bytes) : MXN_ERROR_MEMORY;
    free(scratch);
    return status;
}

static mxn_status classify(const mxn_student *student, const mxn_image *image, float *logits) {
    const mxn_backend *backend;
    mxn_model *model = NULL;
    uint8_t faces[MXN_VIEWS_MAX * MXN_FACE_PIXELS];
    float answers[MXN_VIEWS_MAX * MXN_CLASSES_MAX];
    int views = 0;
    mxn_status status = mxn_backend_resolve(NULL, &backend);
    if (status != MXN_OK) return status;
    const bool int8 = student->quantised && mxn_backend_prefers_int8(backend);
    mxn_workspace *workspace = mxn_workspace_new();
    status = workspace ? mxn_model_new(&model, &student->config, &student->weights, backend,
                                       int8 ? MXN_PRECISION_INT8 : MXN_PRECISION_FLOAT32, MXN_ALGORITHM_FASTEST)
                       : MXN_ERROR_MEMORY;
    if (status == MXN_OK) status = preprocess(backend, image, student->preprocessing, faces, &views);
    if (status == MXN_OK) status = mxn_logits_u8(model, workspace, faces, views, answers);
    if (status == MXN_OK) mxn_mean_logits(answers, student->config.classes, 1, views, logits);
    mxn_model_free(model);
    mxn_workspace_free(workspace);
    return status;
}

static void print_probabilities(const mxn_student *student, const float *logits) {
    double largest = logits[0], sum = 0;
    for (int i = 1; i < student->config.classes; i++) largest = fmax(largest, logits[i]);
    for (int i = 0; i < student->config.classes; i++) sum += exp(logits[i] - largest);
    for (int i = 0; i < student->config.classes; i++)
        printf("%-12s %.4f %.9g\n", student->labels[i], exp(logits[i] - largest) / sum, (double)logits[i]);
}

int main(int argc, char **argv) {
    mxn_image image;
    float logits[MXN_CLASSES_MAX];
#ifdef MXN_COMPILED_WEIGHTS
    if (argc != 2) {
        fprintf(stderr, "usage: %s FACE.pgm\n", argv[0]);
        return 2;
    }
    const mxn_student student = mxn_exported;
#else
    if (argc != 3) {
        fprintf(stderr, "usage: %s FACE.pgm WEIGHTS.safetensors\n", argv[0]);
        return 2;
    }
    mxn_student student;
    const char *problem = weight_file_read(argv[2], &student);
    if (problem) {
        fprintf(stderr, "%s: %s\n", argv[2], problem);
        return 1;
    }
#endif
    uint8_t *pixels = read_pgm(argv[1], &image);
    if (!pixels) fprintf(stderr, "%s: not a readable PGM picture (P5, 255 grey levels)\n", argv[1]);
    const mxn_status status = pixels ? classify(&student, &image, logits) : MXN_ERROR_ARGUMENT;
    if (status == MXN_ERROR_ISA) fprintf(stderr, "MXN_EDGE_ISA names an instruction set that is not available\n");
    if (status == MXN_ERROR_MEMORY) fprintf(stderr, "out of memory\n");
    if (status == MXN_OK) print_probabilities(&student, logits);
    free(pixels);
#ifndef MXN_COMPILED_WEIGHTS
    weight_file_free(&student);
#endif
    return status != MXN_OK;
}
