/* Grey levels -> the same picture in standard light and contrast. Calls nothing. */
#include <math.h>

#include "mxn.h"

void mxn_standardise(uint8_t *pixels, int count) {
    const double target_mean = 128, target_deviation = 52, least_deviation = 10;
    if (count <= 0) return;
    int64_t sum = 0, squares = 0;
    for (int i = 0; i < count; i++) {
        sum += pixels[i];
        squares += (int32_t)pixels[i] * pixels[i];
    }
    const double mean = (double)sum / count;
    const double deviation = sqrt(fmax((double)squares / count - mean * mean, 0));
    const double gain = target_deviation / fmax(deviation, least_deviation);
    uint8_t level[256]; /* pixels have 256 values: a table costs less than arithmetic, and has no rounding to argue about */
    for (int v = 0; v < 256; v++) {
        const double x = (v - mean) * gain + target_mean + 0.5;
        level[v] = (uint8_t)(x > 255 ? 255 : x > 0 ? x : 0);
    }
    for (int i = 0; i < count; i++) pixels[i] = level[pixels[i]];
}
