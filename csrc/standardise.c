/* Grey levels -> the same picture in standard light and contrast. Calls nothing. */
#include <math.h>

#include "mxn.h"

/* The squares of so many pixels come to 32 bits, which compilers add in vectors. */
enum { SUMMED = 1 << 16 };

void mxn_standardise(uint8_t *pixels, int count) {
    const double target_mean = 128, target_deviation = 52, least_deviation = 10;
    if (count <= 0) return;
    int64_t sum = 0, squares = 0;
    const uint8_t *pixel = pixels;
    for (int left = count; left > 0;) {
        const int some = left < SUMMED ? left : SUMMED;
        uint32_t some_sum = 0, some_squares = 0;
        for (int i = 0; i < some; i++) {
            some_sum += pixel[i];
            some_squares += (uint32_t)(pixel[i] * pixel[i]);
        }
        sum += some_sum, squares += some_squares;
        pixel += some, left -= some;
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
