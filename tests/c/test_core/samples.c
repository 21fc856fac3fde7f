/* Weights, faces and memory for the checks. */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "checks.h"

static uint64_t state = 0x9E3779B97F4A7C15u;

uint32_t random_bits(void) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (uint32_t)(state >> 32);
}

float *random_weights(size_t count, double scale) {
    float *values = malloc(count * sizeof *values);
    if (!values) abort();
    for (size_t i = 0; i < count; i++) values[i] = (float)(scale * ((double)random_bits() / 2147483648.0 - 1.0));
    return values;
}

mxn_weights make_weights(const mxn_config *c, double scale) {
    const size_t flat = (size_t)mxn_flat_width(c->topology), hidden = (size_t)c->hidden, classes = (size_t)c->classes;
    return (mxn_weights){
        random_weights(64 * 16, 0.01 * sqrt(scale)), random_weights(16, 0.1 * scale),
        random_weights(256 * 32, 0.1), random_weights(32, 0.1 * scale),
        random_weights(flat * hidden, 0.05), random_weights(hidden, 0.1 * scale),
        random_weights(hidden * classes, 0.3), random_weights(classes, 0.1),
    };
}

void free_weights(mxn_weights *w) {
    const float *parts[] = {w->conv1_weight, w->conv1_bias, w->conv2_weight, w->conv2_bias,
                            w->fc1_weight, w->fc1_bias, w->fc2_weight, w->fc2_bias};
    for (int i = 0; i < 8; i++) free((void *)parts[i]);
}

void make_face(int kind, uint8_t *face) {
    static const int edge[] = {0, 1, 2, 41, 82, 83};
    memset(face, 0, MXN_FACE_PIXELS);
    if (kind < 36) {
        face[edge[kind / 6] * MXN_FACE_SIZE + edge[kind % 6]] = 255;
        return;
    }
    for (int i = 0; i < MXN_FACE_PIXELS; i++)
        face[i] = (uint8_t)(kind % 2 ? random_bits() : (unsigned)(i / MXN_FACE_SIZE + kind * (i % MXN_FACE_SIZE)) / 2);
}

void *guarded(size_t bytes, bool upper) {
    enum { PAGE = 4096 };
    const size_t inside = (bytes + PAGE - 1) / PAGE * PAGE;
    uint8_t *memory = mmap(NULL, inside + 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, PAGE, PROT_NONE) != 0 ||
        mprotect(memory + PAGE + inside, PAGE, PROT_NONE) != 0)
        abort();
    return memory + PAGE + (upper ? inside - bytes : 0);
}
