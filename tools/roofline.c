/* What tools/roofline.py runs: the peak rates of this CPU, the time of each layer, and a loop for counting instructions.
 *
 *     roofline measure TOPOLOGY HIDDEN CLASSES ROUNDS BYTES     prints lines of the forms
 *         cycles GHZ
 *         peak NAME GIGA_MULTIPLY_ADDS_PER_SECOND
 *         layer ISA ALGORITHM NAME SECONDS
 *     roofline run TOPOLOGY HIDDEN CLASSES ISA ALGORITHM FACES      only runs the network
 *
 * BYTES are read before each call with cold caches; they must be more than the caches hold.
 * ALGORITHM is "fastest" or "direct", of float32, or "int8".
 *
 * mxn.c is included, not linked, since the layers are run one by one on its private workspace: run_layer() is the one place
 * that repeats what mxn.c does.
 */
#define _POSIX_C_SOURCE 199309L

#include "mxn.c"

#include <stdio.h>
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- Peaks ------------------------------------------------------------------------------------------------------- */

/* Independent sums, so many that none waits for its last addition; with the two factors they fit 16 registers. */
enum { SUMS = 14 };

/* A loop of `turns` × SUMS multiply-adds over vectors of `type`. The barrier keeps each of them where it is: no sum is
 * dropped, merged with another or moved out of the loop. */
#define PEAK(function, attribute, type, start, reg, step)                       \
    attribute static void function(long turns) {                                \
        type x = start, y = start, sum[SUMS];                                   \
        _Pragma("GCC unroll 14") for (int i = 0; i < SUMS; i++) sum[i] = start; \
        for (long turn = 0; turn < turns; turn++)                               \
            _Pragma("GCC unroll 14") for (int i = 0; i < SUMS; i++) {           \
                step;                                                           \
                __asm__ volatile("" : "+" reg(sum[i]), "+" reg(x));             \
            }                                                                   \
        __asm__ volatile("" ::reg(y));                                          \
    }

enum { PEAKS_MAX = 10 };

typedef struct peak {
    const char *name;
    void (*loop)(long turns);
    int lanes; /* multiply-adds per step */
    bool available;
} peak;

#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET(features) __attribute__((target(features)))

/* Without a fused form the product must depend on the sum, or it would be the same in every turn. */
PEAK(scalar_loop, , float, 0.5f, "x", sum[i] = sum[i] * x + y)
PEAK(sse2_loop, , __m128, _mm_set1_ps(0.5f), "x", sum[i] = _mm_add_ps(_mm_mul_ps(sum[i], x), y))
PEAK(avx2_loop, TARGET("avx2,fma"), __m256, _mm256_set1_ps(0.5f), "x", sum[i] = _mm256_fmadd_ps(x, y, sum[i]))
PEAK(avx512_loop, TARGET("avx512f"), __m512, _mm512_set1_ps(0.5f), "v", sum[i] = _mm512_fmadd_ps(x, y, sum[i]))
/* Without dot products of bytes: exact products of 16-bit numbers, added up in pairs, and the sum. The pairs need a register,
 * so that there is one factor only. */
PEAK(int8_sse2_loop, , __m128i, _mm_set1_epi8(1), "x", sum[i] = _mm_add_epi32(sum[i], _mm_madd_epi16(x, x)))
PEAK(int8_avx2_loop, TARGET("avx2"), __m256i, _mm256_set1_epi8(1), "x",
     sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(x, x)))
PEAK(avxvnni_loop, TARGET("avxvnni"), __m256i, _mm256_set1_epi8(1), "x", sum[i] = _mm256_dpbusd_avx_epi32(sum[i], x, y))
PEAK(avx512vnni_loop, TARGET("avx512f,avx512vnni"), __m512i, _mm512_set1_epi8(1), "v",
     sum[i] = _mm512_dpbusd_epi32(sum[i], x, y))

/* The networks of backends that differ in their int8 only differ in fc1, and have one peak of float32. */
static int find_peaks(peak *peaks) {
    const uint32_t features = mxn_cpu_features();
    const bool avx2 = features & MXN_CPU_AVX2, zmm = features & MXN_CPU_AVX512F;
    const peak all[] = {
        {"avx512vnni", avx512_loop, 16, zmm && features & MXN_CPU_AVX512VNNI},
        {"avx512", avx512_loop, 16, zmm},
        {"avxvnni", avx2_loop, 8, avx2 && features & MXN_CPU_AVXVNNI},
        {"avx2", avx2_loop, 8, avx2 && features & MXN_CPU_FMA},
        {"sse2", sse2_loop, 4, true},
        {"scalar", scalar_loop, 1, true},
        {"int8 avx512vnni", avx512vnni_loop, 64, zmm && features & MXN_CPU_AVX512VNNI},
        {"int8 avxvnni", avxvnni_loop, 32, avx2 && features & MXN_CPU_AVXVNNI},
        {"int8 avx2", int8_avx2_loop, 16, avx2},
        {"int8 sse2", int8_sse2_loop, 8, true},
    };
    memcpy(peaks, all, sizeof all);
    return sizeof all / sizeof *all;
}

#elif defined(__aarch64__)
#include <arm_neon.h>

PEAK(scalar_loop, , float, 0.5f, "w", sum[i] = sum[i] * x + y)
PEAK(neon_loop, , float32x4_t, vdupq_n_f32(0.5f), "w", sum[i] = vfmaq_f32(sum[i], x, y))

/* One product of bytes fits 16 bits, two are added up to 32. */
PEAK(int8_neon_loop, , int32x4_t, vdupq_n_s32(1), "w",
     sum[i] = vpadalq_s16(sum[i], vmulq_s16(vreinterpretq_s16_s32(x), vreinterpretq_s16_s32(y))))

#if defined(__clang__)
#define DOTPROD __attribute__((target("dotprod")))
#else
#define DOTPROD __attribute__((target("arch=armv8.2-a+dotprod")))
#endif
#define AS_BYTES vreinterpretq_s8_s32
PEAK(sdot_loop, DOTPROD, int32x4_t, vdupq_n_s32(1), "w", sum[i] = vdotq_s32(sum[i], AS_BYTES(x), AS_BYTES(y)))

static int find_peaks(peak *peaks) {
    const peak all[] = {
        {"neondot", neon_loop, 4, mxn_cpu_features() & MXN_CPU_DOTPROD},
        {"neon", neon_loop, 4, mxn_cpu_features() & MXN_CPU_NEON},
        {"scalar", scalar_loop, 1, true},
        {"int8 neondot", sdot_loop, 16, mxn_cpu_features() & MXN_CPU_DOTPROD},
        {"int8 neon", int8_neon_loop, 8, mxn_cpu_features() & MXN_CPU_NEON},
    };
    memcpy(peaks, all, sizeof all);
    return sizeof all / sizeof *all;
}

#else
static int find_peaks(peak *peaks) { return (void)peaks, 0; }
#endif

/* A chain in which each instruction takes one cycle on every CPU that we know. */
static void cycles_loop(long turns) {
    unsigned long value = 1, other = 2;
    for (long turn = 0; turn < turns; turn++)
        _Pragma("GCC unroll 14") for (int i = 0; i < SUMS; i++)
#if defined(__x86_64__)
            __asm__ volatile("xor %1, %0" : "+r"(value) : "r"(other));
#elif defined(__aarch64__)
            __asm__ volatile("eor %0, %0, %1" : "+r"(value) : "r"(other));
#else
            __asm__ volatile("" : "+r"(value) : "r"(other));
#endif
}

/* Steps per second, in units of 1e9: the best of several tries, since whatever else the machine does can only slow one
 * down. */
static double rate(void (*loop)(long turns)) {
    enum { TURNS = 200000, TRIES = 8 };
    double best = 0;
    for (int i = 0; i < TRIES; i++) {
        const double start = now();
        loop(TURNS);
        const double found = 1e-9 * TURNS * SUMS / (now() - start);
        if (found > best) best = found;
    }
    return best;
}

/* ---- Layers ------------------------------------------------------------------------------------------------------ */

enum layer { LOAD, CONV1, CONV2, DENSE, WHOLE, COLD, LAYERS }; /* the last: the whole, with nothing in the caches */
static const char *const layer_names[LAYERS] = {"load", "conv1", "conv2", "dense", "whole", "cold"};

static uint8_t face[MXN_FACE_PIXELS];
static float logits[MXN_CLASSES_MAX];

static void run_layer(const mxn_model *model, mxn_workspace *workspace, enum layer layer) {
    const mxn_int8_kernels *int8 = model->backend->int8;
    const bool bytes = model->precision == MXN_PRECISION_INT8;
    switch (layer) {
    case LOAD:
        load(model, workspace, face, false);
        break;
    case CONV1:
        if (bytes)
            model->int8_conv1(workspace->image_bytes, &model->int8_layer1, workspace->map_bytes);
        else if (model->conv1_u8)
            model->conv1_u8(face, model->conv1_weight, model->conv1_bias, workspace->map, workspace->scratch);
        else
            model->conv1(workspace->image, model->conv1_weight, model->conv1_bias, workspace->map, workspace->scratch);
        break;
    case CONV2:
        if (bytes)
            model->int8_conv2(workspace->map_bytes, &model->int8_layer2, workspace->flat_bytes);
        else
            model->conv2(workspace->map, model->conv2_weight, model->conv2_bias, workspace->flat[0], workspace->scratch);
        break;
    case DENSE:
        if (bytes)
            int8->fc1(&model->int8_layer3, workspace->flat_bytes, model->flat, model->hidden_blocks, workspace->hidden[0]);
        connect(model, workspace, 1, logits);
        break;
    default: mxn_logits_u8(model, workspace, face, 1, logits);
    }
}

/* Weights and a face of noise: times do not depend on values, as long as none is denormal. */
static float noise(void) {
    static uint32_t state = 2463534242u;
    state ^= state << 13, state ^= state >> 17, state ^= state << 5;
    return (float)state / 4294967296.0f - 0.5f;
}

static const float *noises(size_t count) {
    float *values = malloc(count * sizeof *values);
    if (!values) abort();
    for (size_t i = 0; i < count; i++) values[i] = 0.1f * noise();
    return values;
}

/* Whole multiples of a scale, of which the first of every output is the largest: kept as bytes, as those of a model that was
 * trained for int8. */
static const float *whole_noises(size_t inputs, size_t outputs) {
    float *values = malloc(inputs * outputs * sizeof *values);
    if (!values) abort();
    for (size_t i = 0; i < inputs * outputs; i++)
        values[i] = (i < outputs ? MXN_INT8_MAX : truncf(2 * MXN_INT8_MAX * noise())) / 1024;
    return values;
}

enum { FASTEST, DIRECT, INT8, ALGORITHMS }; /* the first two as in mxn_algorithm */
static const char *const algorithm_names[ALGORITHMS] = {"fastest", "direct", "int8"};

/* The noise is never freed: the program ends soon. */
static mxn_model *new_model(const mxn_config *config, const mxn_backend *backend, int algorithm) {
    const size_t flat = (size_t)mxn_flat_width(config->topology), hidden = (size_t)config->hidden;
    const size_t classes = (size_t)config->classes;
    const mxn_weights weights = {
        noises(MXN_CONV1_TAPS * MXN_CONV1_CHANNELS), noises(MXN_CONV1_CHANNELS),
        noises(MXN_CONV2_TAPS * MXN_CONV2_CHANNELS), noises(MXN_CONV2_CHANNELS),
        whole_noises(flat, hidden), noises(hidden), noises(hidden * classes), noises(classes),
    };
    mxn_model *model;
    const mxn_precision precision = algorithm == INT8 ? MXN_PRECISION_INT8 : MXN_PRECISION_FLOAT32;
    const mxn_status status = mxn_model_new(&model, config, &weights, backend, precision,
                                            algorithm == DIRECT ? MXN_ALGORITHM_DIRECT : MXN_ALGORITHM_FASTEST);
    return status == MXN_OK ? model : NULL;
}

/* Seconds per call, over so many calls that the clock does not matter. */
static double time_layer(const mxn_model *model, mxn_workspace *workspace, enum layer layer) {
    for (long calls = 1;; calls *= 4) {
        const double start = now();
        for (long i = 0; i < calls; i++) run_layer(model, workspace, layer);
        const double seconds = now() - start;
        if (seconds > 5e-4) return seconds / (double)calls;
    }
}

/* Seconds of one call that finds none of its memory in the caches. */
static double time_cold(const mxn_model *model, mxn_workspace *workspace, volatile const char *memory, size_t bytes) {
    for (size_t i = 0; i < bytes; i += MXN_CACHE_LINE) (void)memory[i];
    const double start = now();
    run_layer(model, workspace, WHOLE);
    return now() - start;
}

/* Whether a slower backend has the same kernels: they are measured under its name. */
static bool is_measured_later(int backend, int algorithm) {
    const mxn_backend *this = mxn_backend_available(backend), *later;
    while ((later = mxn_backend_available(++backend)) != NULL) {
        const bool float32 = later->float32 == this->float32 && later->int8->fc1_fixed_point == this->int8->fc1_fixed_point;
        if (algorithm == INT8 ? later->int8 == this->int8 : float32) return true;
    }
    return false;
}

int main(int argc, char **argv) {
    if (argc < 6) return 2;
    const mxn_config config = {(mxn_topology)atoi(argv[2]), atoi(argv[3]), atoi(argv[4])};
    mxn_workspace *workspace = mxn_workspace_new();
    const mxn_backend *backend;
    mxn_model *model;
    for (int i = 0; i < MXN_FACE_PIXELS; i++) face[i] = (uint8_t)(255 * (noise() + 0.5f));

    if (strcmp(argv[1], "run") == 0) {
        int algorithm = 0;
        if (argc < 8 || mxn_backend_resolve(argv[5], &backend) != MXN_OK) return 2;
        while (algorithm < ALGORITHMS && strcmp(argv[6], algorithm_names[algorithm]) != 0) algorithm++;
        if (algorithm == ALGORITHMS || !workspace || !(model = new_model(&config, backend, algorithm))) return 2;
        for (int i = atoi(argv[7]); i > 0; i--) mxn_logits_u8(model, workspace, face, 1, logits);
        return 0;
    }

    const size_t evicted = argc < 7 ? 0 : strtoull(argv[6], NULL, 10);
    char *memory = malloc(evicted + 1);
    if (!memory) return 2;
    memset(memory, 1, evicted); /* memory that was never written has no place of its own */
    peak peaks[PEAKS_MAX];
    const int count = find_peaks(peaks);
    mxn_model *models[8][ALGORITHMS] = {{NULL}};
    int backends = 0;
    for (; (backend = mxn_backend_available(backends)) != NULL; backends++)
        for (int a = 0; a < ALGORITHMS; a++)
            if (!is_measured_later(backends, a) && (!workspace || !(models[backends][a] = new_model(&config, backend, a))))
                return 2;
    for (int round = atoi(argv[5]); round > 0; round--) {
        printf("cycles %.9g\n", rate(cycles_loop));
        for (int i = 0; i < count; i++)
            if (peaks[i].available) printf("peak %s\t%.9g\n", peaks[i].name, peaks[i].lanes * rate(peaks[i].loop));
        for (int i = 0; i < backends; i++)
            for (int a = 0; a < ALGORITHMS; a++)
                for (int layer = 0; layer < LAYERS && models[i][a]; layer++)
                    printf("layer %s %s %s %.9g\n", mxn_backend_name(models[i][a]->backend), algorithm_names[a],
                           layer_names[layer],
                           layer == COLD ? time_cold(models[i][a], workspace, memory, evicted)
                                         : time_layer(models[i][a], workspace, layer));
    }
    return 0;
}
