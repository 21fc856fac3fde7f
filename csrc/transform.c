/* Weights of the convolutions -> the points of toom_cook.h. In double precision: done once per model, and an error here
 * would stay in every result. Calls nothing.
 */
#include "model.h"
#include "toom_cook.h"

/* F(6,4): four taps -> their polynomial at the nine points, divided as G says. */
static void evaluate_6_4(const double taps[4], double points[MXN_CONV1_POINTS]) {
    enum { FINITE = 2 * MXN_CONV1_PAIRS_OF_POINTS };
    double a[FINITE];
    for (int i = 0; i < FINITE; i++) a[i] = (i % 2 ? -1.0 : 1.0) * (double)mxn_conv1_point[i / 2];
    for (int i = 0; i < FINITE; i++) {
        double divisor = 1;
        for (int j = 0; j < FINITE; j++)
            if (j != i) divisor *= a[i] - a[j];
        points[i] = (taps[0] + a[i] * (taps[1] + a[i] * (taps[2] + a[i] * taps[3]))) / divisor;
    }
    points[FINITE] = taps[3];
}

/* F(4,2) and F(3,2). */
static void evaluate_4_2(const double taps[2], double points[MXN_CONV2_POINTS]) {
    points[0] = taps[0];
    points[1] = (taps[0] + taps[1]) / 2;
    points[2] = (taps[0] - taps[1]) / 2;
    points[3] = taps[1];
    points[4] = (taps[0] + 2 * taps[1]) / 6;
}

/* weight: ky-kx-oc, 8×8×16; out: point-product-tap-oc, 9×3×8×16; tap: row parity-half of the kernel row-column parity. */
void mxn_transform_conv1(const float *weight, float *out) {
    enum { SIDE = MXN_CONV1_KERNEL, CHANNELS = MXN_CONV1_CHANNELS };
    for (int tap = 0; tap < MXN_CONV1_PAIR_TAPS; tap++) {
        const int row_parity = tap / 4, half = tap / 2 % 2, column_parity = tap % 2;
        for (int c = 0; c < CHANNELS; c++) {
            double taps[MXN_CONV1_PRODUCTS][SIDE / 2], points[MXN_CONV1_POINTS];
            for (int i = 0; i < SIDE / 2; i++) {
                const float *row = weight + (2 * i + row_parity) * SIDE * CHANNELS + c;
                const double e = row[(4 * half + column_parity) * CHANNELS];
                const double f = row[(4 * half + 2 + column_parity) * CHANNELS];
                taps[0][i] = e + f;
                taps[1][i] = e;
                taps[2][i] = -f;
            }
            for (int product = 0; product < MXN_CONV1_PRODUCTS; product++) {
                evaluate_6_4(taps[product], points);
                for (int p = 0; p < MXN_CONV1_POINTS; p++)
                    out[((p * MXN_CONV1_PRODUCTS + product) * MXN_CONV1_PAIR_TAPS + tap) * CHANNELS + c] = (float)points[p];
            }
        }
    }
}

/* weight: ky-kx-ic-oc, 4×4×16×32; out: row point-column point-block of 16 oc-row parity-column parity-ic-oc,
 * 5×5×2×2×2×16×16. */
void mxn_transform_conv2(const float *weight, float *out) {
    enum { SIDE = MXN_CONV2_KERNEL, IN = MXN_CONV1_CHANNELS, OUT = MXN_CONV2_CHANNELS, POINTS = MXN_CONV2_POINTS };
    for (int k = 0; k < MXN_CONV2_DEPTH; k++) {
        const int row_parity = k / IN / 2, column_parity = k / IN % 2, ic = k % IN;
        for (int oc = 0; oc < OUT; oc++) {
            double columns[POINTS][2], points[POINTS];
            for (int y = 0; y < 2; y++) {
                double taps[2];
                for (int x = 0; x < 2; x++)
                    taps[x] = weight[(((2 * y + row_parity) * SIDE + 2 * x + column_parity) * IN + ic) * OUT + oc];
                evaluate_4_2(taps, points);
                for (int x = 0; x < POINTS; x++) columns[x][y] = points[x];
            }
            for (int x = 0; x < POINTS; x++) {
                evaluate_4_2(columns[x], points);
                for (int y = 0; y < POINTS; y++) {
                    const int block = (y * POINTS + x) * (OUT / MXN_CONV2_BLOCK) + oc / MXN_CONV2_BLOCK;
                    out[(block * MXN_CONV2_DEPTH + k) * MXN_CONV2_BLOCK + oc % MXN_CONV2_BLOCK] = (float)points[y];
                }
            }
        }
    }
}
