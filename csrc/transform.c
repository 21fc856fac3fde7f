/* Weights of the convolutions -> the points of toom_cook.h. In double precision: done once per model, and an error here
 * would stay in every result. Calls nothing.
 */
#include "model.h"
#include "toom_cook.h"

/* Four taps -> their polynomial at `finite` points, divided as G says, and at infinity. */
static void evaluate_taps(const double taps[4], const double *point, int finite, double *values) {
    for (int i = 0; i < finite; i++) {
        double divisor = 1;
        for (int j = 0; j < finite; j++)
            if (j != i) divisor *= point[i] - point[j];
        values[i] = (taps[0] + point[i] * (taps[1] + point[i] * (taps[2] + point[i] * taps[3]))) / divisor;
    }
    values[finite] = taps[3];
}

/* F(4,2) and F(3,2). */
static void evaluate_4_2(const double taps[2], double points[MXN_CONV2_POINTS]) {
    points[0] = taps[0];
    points[1] = (taps[0] + taps[1]) / 2;
    points[2] = (taps[0] - taps[1]) / 2;
    points[3] = taps[1];
    points[4] = (taps[0] + 2 * taps[1]) / 6;
}

/* weight: ky-kx-oc, 8×8×16; out: row point-column point-column parity-row parity-oc, 9×6×2×2×16. */
void mxn_transform_conv1(const float *weight, float *out) {
    enum { SIDE = MXN_CONV1_KERNEL, CHANNELS = MXN_CONV1_CHANNELS, ROWS = MXN_CONV1_ROW_POINTS, COLUMNS = MXN_CONV1_COLUMN_POINTS };
    double row_point[ROWS - 1];
    for (int i = 0; i < ROWS - 1; i++) row_point[i] = (i % 2 ? -1.0 : 1.0) * (double)mxn_conv1_point[i / 2];
    for (int phase = 0; phase < MXN_CONV1_PHASES; phase++)
        for (int c = 0; c < CHANNELS; c++) {
            double columns[COLUMNS][SIDE / 2], rows[ROWS];
            for (int y = 0; y < SIDE / 2; y++) {
                double taps[SIDE / 2], points[COLUMNS];
                for (int x = 0; x < SIDE / 2; x++)
                    taps[x] = weight[((2 * y + phase % 2) * SIDE + 2 * x + phase / 2) * CHANNELS + c];
                evaluate_taps(taps, mxn_conv1_column_point, COLUMNS - 1, points);
                for (int x = 0; x < COLUMNS - 1; x++) points[x] /= mxn_conv1_column_divisor[x];
                for (int x = 0; x < COLUMNS; x++) columns[x][y] = points[x];
            }
            for (int x = 0; x < COLUMNS; x++) {
                evaluate_taps(columns[x], row_point, ROWS - 1, rows);
                for (int y = 0; y < ROWS - 1; y++) rows[y] /= (double)mxn_conv1_power[y / 2][0];
                for (int y = 0; y < ROWS; y++)
                    out[((y * COLUMNS + x) * MXN_CONV1_PHASES + phase) * CHANNELS + c] = (float)rows[y];
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
