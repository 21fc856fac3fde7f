/* Every backend of this CPU against the references, without Python. Prints a line per backend, topology and algorithm (or
 * int8); exits with 1 when one is wrong. Usage: test_core [BACKEND] runs that one alone, and fails when it is absent.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "checks.h"

int main(int argc, char **argv) {
    static const char *const names[] = {"v", "p1", "p2", "p12"};
    static const char *const algorithms[] = {"", "direct", "toom-cook"};
#ifdef MXN_TEST_QUICK /* on an emulated CPU a face takes a second */
    static const int widths[][2] = {{17, 7}};
    enum { FIRST_FACE = 39, QUANTISED = 0 };
#else
    static const int widths[][2] = {{48, 8}, {1, 1}, {17, 7}, {1023, 63}, {1024, 64}};
    enum { FIRST_FACE = 0, QUANTISED = 1 }; /* in every second width fc1 is */
#endif
    enum { WIDTHS = sizeof widths / sizeof *widths, BACKENDS_MAX = 8, ALGORITHMS = 3, SMOOTH_AND_NOISE = 36 };
    static sample s;
    const mxn_backend *backends[BACKENDS_MAX], *backend, *scalar;
    int failures = 0, tested = 0;

    if (mxn_backend_resolve("scalar", &scalar) != MXN_OK) return 1;
    if (mxn_backend_resolve("no such backend", &backend) != MXN_ERROR_ISA) return 1;
    for (int i = 0; tested < BACKENDS_MAX && (backend = mxn_backend_available(i)) != NULL; i++)
        if (argc < 2 || strcmp(argv[1], mxn_backend_name(backend)) == 0) backends[tested++] = backend;
    if (tested == 0) {
        printf("FAIL backend %s is not available\n", argv[1]);
        return 1;
    }
    for (int t = MXN_TOPOLOGY_V; t <= MXN_TOPOLOGY_P12; t++) {
        const int last = t == MXN_TOPOLOGY_V ? MXN_ALGORITHM_DIRECT : MXN_ALGORITHM_TOOM_COOK;
        double worst[BACKENDS_MAX][ALGORITHMS] = {0};
        int wrong[BACKENDS_MAX][ALGORITHMS] = {0}, wrong_int8[BACKENDS_MAX] = {0};
        for (int w = 0; w < WIDTHS; w++) {
            const mxn_config config = {(mxn_topology)t, widths[w][0], widths[w][1]};
            make_sample(&s, config, w == 0 ? FIRST_FACE : SMOOTH_AND_NOISE, w % 2 == QUANTISED);
            for (int b = 0; b < tested; b++)
                for (int a = MXN_ALGORITHM_DIRECT; a <= last; a++) {
                    worst[b][a] = fmax(worst[b][a], check_network(backends[b], (mxn_algorithm)a, &s));
                    if (w == 0) wrong[b][a] = check_convolutions(backends[b], (mxn_algorithm)a, &s);
                }
            mxn_model *model;
            for (int p = MXN_PRECISION_FLOAT32; p <= MXN_PRECISION_INT8; p++)
                if ((t == MXN_TOPOLOGY_V || p == MXN_PRECISION_INT8) &&
                    mxn_model_new(&model, &config, &s.weights, scalar, (mxn_precision)p, MXN_ALGORITHM_TOOM_COOK) !=
                        MXN_ERROR_ARGUMENT)
                    return 1;
            free_weights(&s.weights);
            for (int kind = 0; kind < KINDS_OF_WEIGHTS; kind++)
                check_int8_network(backends, tested, &config, kind, w == 0 && kind == RANDOM ? FIRST_FACE : FACES - 2,
                                   wrong_int8);
            for (int b = 0; b < tested; b++) wrong_int8[b] += check_int8_kernels(backends[b], &config);
        }
        for (int b = 0; b < tested; b++)
            for (int a = MXN_ALGORITHM_DIRECT; a <= last; a++) {
                const int ok = worst[b][a] < 1e-5 && wrong[b][a] == 0;
                failures += !ok;
                printf("%-4s %-10s %-3s %-9s largest relative error %.2g, %d floats depend on what was there before\n",
                       ok ? "ok" : "FAIL", mxn_backend_name(backends[b]), names[t], algorithms[a], worst[b][a],
                       wrong[b][a]);
            }
        for (int b = 0; b < tested; b++) {
            failures += wrong_int8[b] > 0;
            printf("%-4s %-10s %-3s int8      %d results differ from the reference\n", wrong_int8[b] ? "FAIL" : "ok",
                   mxn_backend_name(backends[b]), names[t], wrong_int8[b]);
        }
    }
    for (int b = 0; b < tested; b++) {
        const int different = check_crops(backends[b], scalar);
        failures += different > 0;
        printf("%-4s %-10s crops, %d pixels differ from scalar\n", different ? "FAIL" : "ok",
               mxn_backend_name(backends[b]), different);
    }
    for (int b = 0; b < tested; b++) {
        const int different = check_scaling(backends[b], scalar);
        failures += different > 0;
        printf("%-4s %-10s scaling, %d pixels differ from scalar\n", different ? "FAIL" : "ok", mxn_backend_name(backends[b]),
               different);
        const double error = check_detector(backends[b], scalar);
        const double allowed = backends[b]->detector->pairs ? 1e-2 : 1e-5; /* rounded in every layer */
        failures += !(error < allowed);
        printf("%-4s %-10s detector, largest relative error %.2g\n", error < allowed ? "ok" : "FAIL",
               mxn_backend_name(backends[b]), error);
    }
    for (int b = 0; b < tested; b++) {
        const double error = check_fixed_point(backends[b]);
        failures += !(error <= 1);
        printf("%-4s %-10s fc1 in fixed point, %.2g of the error that it may have\n", error <= 1 ? "ok" : "FAIL",
               mxn_backend_name(backends[b]), error);
    }
    const int wrong_in_team = check_team(backends[0]);
    failures += wrong_in_team > 0;
    printf("%-4s team, %d wrong calls\n", wrong_in_team ? "FAIL" : "ok", wrong_in_team);
    return failures > 0;
}
