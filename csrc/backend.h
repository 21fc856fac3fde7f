/* What one instruction set offers: three tables of kernels. Included by the isa/ files, dispatch.c, and the pipelines that
 * call a table (mxn.c, crop.c); never by users of the library.
 */
#ifndef MXN_BACKEND_H
#define MXN_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mxn.h"

/* src: see shapes.h for the layouts of image and map; the bias and ReLU are included; scratch: MXN_SCRATCH floats. */
typedef void (*mxn_conv_kernel)(const float *src, const float *weight, const float *bias, float *dst, float *scratch);
/* The same from a face as it is, without padding. */
typedef void (*mxn_conv_u8_kernel)(const uint8_t *face, const float *weight, const float *bias, float *dst, float *scratch);

/* Rows that are resampled together in a crop: the widest vector of floats there is. */
enum { MXN_CROP_ROWS = 16 };

/* Source rows that are averaged in one call. */
enum { MXN_SCALE_ROWS = 5 };

/* An output pixel: the sum of `start` and `count` products, from element `first` of a row, divided by 2^8. */
typedef struct mxn_scale_column {
    int32_t first, count;
    uint16_t start;
} mxn_scale_column;

/* Depthwise 3×3 convolution, then a pointwise one with bias and ReLU. */
typedef struct mxn_detector_unit {
    float *depthwise; /* ky-kx-c; for kernels with `pairs` so scaled that sums, rounded, are the 16-bit inputs of the next */
    void *pointwise;  /* floats, ic-oc; for kernels with `pairs` int16_t, ic/2-oc-2 */
    float *bias;
    float *scale; /* for kernels with `pairs`: of the sums of products */
} mxn_detector_unit;

/* Input channels, output channels, stride. */
enum { MXN_UNIT_16_32_2, MXN_UNIT_32_32_1, MXN_UNIT_32_64_2, MXN_UNIT_64_64_1, MXN_UNIT_64_64_2, MXN_UNIT_KINDS };

/* height, width: of dst; row: room for `width` pixels of the widest map. Layouts in kernels/detector.inc.h. */
typedef void (*mxn_unit_kernel)(const mxn_detector_unit *unit, const float *src, ptrdiff_t src_pitch, float *dst,
                                ptrdiff_t dst_pitch, int height, int width, float *row);

/* A layer whose weights are int8 times a scale per output: from a sum of inputs times whole weights to sum * scale + bias. One
 * number per output, and zeros up to whole blocks of 16. */
typedef struct mxn_int8_layer {
    void *weight;   /* as the kernel wants them */
    int32_t *start; /* of sums of bytes: byte_offset times the sum of the output's weights */
    float *scale, *bias;
} mxn_int8_layer;

/* fc1 of a float32 model, with ReLU. src: not negative, `inputs` of them, a multiple of 32; pitches: floats from one of up to
 * MXN_DENSE_FACES faces to the next; scratch: MXN_SCRATCH floats. */
typedef void (*mxn_fc1_kernel)(const mxn_int8_layer *layer, const float *src, int src_pitch, int inputs, int blocks, float *dst,
                               int dst_pitch, int faces, void *scratch);

/* The networks in float32, and preprocessing. */
typedef struct mxn_float32_kernels {
    uint32_t features; /* all of these MXN_CPU_ bits must be present */

    void (*load_u8)(const uint8_t *face, float *image);
    bool (*load_f32)(const float *face, float *image); /* false when NaN or infinity was met */
    /* Direct; weight: ky-kx-ic-oc. */
    mxn_conv_kernel conv1[2]; /* [with max-pool]; image -> map */
    mxn_conv_kernel conv2[2]; /* [with max-pool]; map -> flat */
    /* Toom-Cook, with max-pool; weight: see transform.c. */
    mxn_conv_kernel conv1_toom_cook, conv2_toom_cook;
    mxn_conv_u8_kernel conv1_toom_cook_u8; /* NULL where it is not faster than load_u8 and conv1_toom_cook */
    bool conv1_prefers_toom_cook, conv2_prefers_toom_cook; /* it is faster than direct with max-pool */
    /* weight: block of 16 outputs-in-16 outputs; `inputs` is a multiple of 16; pitches: floats from one of up to
     * MXN_DENSE_FACES faces to the next. */
    void (*dense)(const float *weight, const float *bias, int inputs, int blocks, bool relu, const float *src, int src_pitch,
                  float *dst, int dst_pitch, int faces);
    /* fc1 of bytes that are made floats on the way, block of 16 outputs-in-16 outputs; NULL where `dense` is faster. */
    mxn_fc1_kernel fc1_s8;

    /* Pieces of a crop. `gray` has one float per pixel, 0..255. */
    void (*gray_row)(const uint8_t *pixel, ptrdiff_t step, const ptrdiff_t offset[3], const int32_t luma[3], int count,
                     float *gray);
    /* sum[x] = weight[r] * rows[r][x] over the `count` rows in their order, after what is there if `add`. All are readable, and
     * sum writable, to the next multiple of MXN_CROP_ROWS. */
    void (*accumulate_rows)(const float *const *rows, const float *weight, int count, int length, bool add, float *sum);
    /* Horizontal resampling of MXN_CROP_ROWS rows of `length` floats, readable and `block` writable to the next multiple of
     * MXN_CROP_ROWS. weight: [count][taps]; pixel i of row r is the sum of weight[i][t] * rows[r][first[i] + t] over
     * t < last[i] - first[i], rounded; block: column-in-MXN_CROP_ROWS rows, scratch; out: the first `written` rows. */
    void (*resample_block)(const float *const rows[MXN_CROP_ROWS], int length, float *block, const int32_t *first,
                           const int32_t *last, const float *weight, int taps, int count, int written, uint8_t *out);
    /* Scaling of frames, see scale.c: sum[i] (+)= weight[r] * rows[r][i] over up to MXN_SCALE_ROWS rows. The next call's rows
     * probably lie `ahead` bytes behind these. */
    void (*average_rows)(const uint8_t *const rows[MXN_SCALE_ROWS], const uint16_t weight[MXN_SCALE_ROWS], int count,
                         int elements, ptrdiff_t ahead, bool add, uint16_t *sum);
    int scale_lanes; /* rows of sums that are averaged together */
    /* sum: scale_lanes rows, `pitch` elements apart, a whole number of eight; turned: room for elements-in-scale_lanes rows;
     * weight: [width][taps], in units of 2^-16, each twice in 32 bits; out: rows of `width`, the first `rows` of them. */
    void (*average_columns)(const uint16_t *sum, size_t pitch, int elements, const mxn_scale_column *column, int width,
                            const uint32_t *weight, int taps, void *turned, int rows, uint8_t *out);
} mxn_float32_kernels;

/* The face detector. */
typedef struct mxn_detector_kernels {
    uint32_t features;
    bool pairs; /* units multiply 16-bit integers */
    void (*stem)(const float *src, ptrdiff_t src_pitch, const float *weight, const float *bias, float *dst,
                 ptrdiff_t dst_pitch, int height, int width);
    mxn_unit_kernel unit[MXN_UNIT_KINDS];
    void (*lateral)(const float *src, ptrdiff_t src_pitch, const float *weight, const float *bias, float *dst,
                    ptrdiff_t dst_pitch, int height, int width, float *row);
    void (*add_enlarged)(const float *src, ptrdiff_t src_pitch, float *dst, ptrdiff_t dst_pitch, int height, int width);
    /* The first answer of every cell, of 32 and of 64 channels; all answers of one. weight: oc-ic */
    void (*scores[2])(const float *src, ptrdiff_t src_pitch, const float *weight, const float *bias, float *dst, int height,
                      int width);
    void (*answers)(const float *src, int inputs, const float *weight, const float *bias, float *answers);
} mxn_detector_kernels;

/* src, dst: bytes in the layouts of image and map, see shapes.h. */
typedef void (*mxn_int8_conv_kernel)(const uint8_t *src, const mxn_int8_layer *layer, uint8_t *dst);

/* The network in int8. The arithmetic is exact or rounded in a fixed order: every instruction set gives the same bits. */
typedef struct mxn_int8_kernels {
    uint32_t features;
    bool faster_than_float32; /* than the float32 kernels of the same backend */
    int weight_bytes;         /* that a weight takes */
    int byte_offset;          /* what the kernels subtract from each byte of src before multiplying */
    /* q: in-out; weight: zeros, enough for whole blocks of 16 outputs; laid out as the kernels of this table want it. */
    void (*pack)(const int8_t *q, int inputs, int outputs, void *weight);

    void (*load_u8)(const uint8_t *face, uint8_t *image);
    bool (*load_f32)(const float *face, uint8_t *image); /* false when NaN or infinity was met */
    mxn_int8_conv_kernel conv1[2], conv2[2];             /* [with max-pool] */
    void (*fc1)(const mxn_int8_layer *layer, const uint8_t *src, int inputs, int blocks, float *dst);
    /* weight: as for mxn_float32_kernels.dense. */
    void (*fc2)(const float *weight, const float *bias, const float *src, int inputs, int blocks, float *dst);
    /* fc1 of a float32 model by products of bytes; weights as `pack` lays them out, the inputs of a quad a quarter of all
     * apart. NULL where that is no faster. */
    mxn_fc1_kernel fc1_fixed_point;
} mxn_int8_kernels;

struct mxn_backend {
    const char *name;
    const mxn_float32_kernels *float32;
    const mxn_int8_kernels *int8;
    const mxn_detector_kernels *detector;
};

enum {
    MXN_CPU_AVX2 = 1 << 0,
    MXN_CPU_FMA = 1 << 1,
    MXN_CPU_AVX512F = 1 << 2,
    MXN_CPU_AVX512VNNI = 1 << 3,
    MXN_CPU_AVXVNNI = 1 << 4,
    MXN_CPU_NEON = 1 << 5,
    MXN_CPU_DOTPROD = 1 << 6,
};

/* Features that the CPU has AND the operating system saves on a context switch. */
uint32_t mxn_cpu_features(void);

#define MXN_BACKEND(name, float32_isa, int8_isa, detector_isa)  \
    extern const mxn_float32_kernels mxn_float32_##float32_isa; \
    extern const mxn_int8_kernels mxn_int8_##int8_isa;          \
    extern const mxn_detector_kernels mxn_detector_##detector_isa;
#include "backends.def"
#undef MXN_BACKEND

#endif
