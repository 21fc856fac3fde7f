/* Crops and reduced frames: the same pixels on every backend. */
#include <stdlib.h>

#include "checks.h"

int check_crops(const mxn_backend *backend, const mxn_backend *scalar) {
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

int check_scaling(const mxn_backend *backend, const mxn_backend *scalar) {
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
