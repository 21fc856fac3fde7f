/* A face in an image -> the grey pictures of it that a student is shown, and the mean of its answers. Over crop.c and
 * standardise.c.
 *
 * A small network answers a little differently to a face that is moved by a pixel or mirrored, and part of its mistakes are
 * of that kind: the mean of a few answers is right more often than any of them. The views are windows of one crop with a
 * margin, so that each costs no more than a copy. */
#include <string.h>

#include "mxn.h"

enum { MARGIN = 2, SIDE = MXN_FACE_SIZE + 2 * MARGIN, CROP_BYTES = SIDE * SIDE };

_Static_assert(CROP_BYTES % MXN_ALIGNMENT == 0, "the scratch memory behind the crop is aligned");

/* Where in the crop, and whether mirrored: moved in each direction, and one of each axis mirrored. */
static const struct {
    int x, y;
    bool mirrored;
} window[MXN_VIEWS_MAX] = {
    {0, MARGIN, false},
    {2 * MARGIN, MARGIN, true},
    {MARGIN, 0, true},
    {MARGIN, 2 * MARGIN, false},
};

static bool is_count(int views) { return views == 1 || views == 2 || views == MXN_VIEWS_MAX; }

static mxn_box with_margin(mxn_box face) {
    const double x = face.width * MARGIN / MXN_FACE_SIZE, y = face.height * MARGIN / MXN_FACE_SIZE;
    return (mxn_box){face.x - x, face.y - y, face.width + 2 * x, face.height + 2 * y};
}

static void copy_window(const uint8_t *from, bool mirrored, uint8_t *out) {
    for (int y = 0; y < MXN_FACE_SIZE; y++, from += SIDE, out += MXN_FACE_SIZE) {
        if (!mirrored) {
            memcpy(out, from, MXN_FACE_SIZE);
            continue;
        }
        /* By words, the last of which overlaps the one before. */
        for (int x = 0; x < MXN_FACE_SIZE; x += 8) {
            const int to = x < MXN_FACE_SIZE - 8 ? x : MXN_FACE_SIZE - 8;
            uint64_t word;
            memcpy(&word, from + MXN_FACE_SIZE - 8 - to, sizeof word);
            word = __builtin_bswap64(word);
            memcpy(out + to, &word, sizeof word);
        }
    }
}

size_t mxn_views_scratch_bytes(mxn_box face, int views) {
    if (!is_count(views)) return 0;
    if (views == 1) return mxn_crop_scratch_bytes(face, MXN_FACE_SIZE);
    const size_t bytes = mxn_crop_scratch_bytes(with_margin(face), SIDE);
    return bytes ? CROP_BYTES + bytes : 0;
}

mxn_status mxn_views_gray(const mxn_backend *backend, const mxn_image *image, mxn_box face, int views, bool standardise,
                          uint8_t *out, void *scratch, size_t scratch_bytes) {
    if (!is_count(views)) return MXN_ERROR_ARGUMENT;
    if (views == 1) {
        const mxn_status status = mxn_crop_gray(backend, image, face, MXN_FACE_SIZE, out, scratch, scratch_bytes);
        if (status == MXN_OK && standardise) mxn_standardise(out, MXN_FACE_PIXELS);
        return status;
    }
    if (scratch_bytes < CROP_BYTES) return MXN_ERROR_MEMORY;
    uint8_t *crop = scratch;
    const mxn_status status =
        mxn_crop_gray(backend, image, with_margin(face), SIDE, crop, crop + CROP_BYTES, scratch_bytes - CROP_BYTES);
    if (status != MXN_OK) return status;
    if (standardise) mxn_standardise(crop, CROP_BYTES);
    for (int view = 0; view < views; view++, out += MXN_FACE_PIXELS)
        copy_window(crop + window[view].y * SIDE + window[view].x, window[view].mirrored, out);
    return MXN_OK;
}

void mxn_mean_logits(const float *logits, int classes, ptrdiff_t faces, int views, float *means) {
    for (; faces > 0; faces--, logits += (ptrdiff_t)views * classes, means += classes) {
        for (int i = 0; i < classes; i++) {
            float sum = logits[i];
            for (int view = 1; view < views; view++) sum += logits[view * classes + i];
            means[i] = sum / (float)views;
        }
    }
}
