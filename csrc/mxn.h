/* The public C API of mxn-edge: facial expression logits from face images on a plain CPU.
 *
 *     mxn_backend_resolve(NULL, &backend);
 *     mxn_model_new(&model, &config, &weights, backend, MXN_PRECISION_FLOAT32, MXN_ALGORITHM_FASTEST);
 *     mxn_workspace *workspace = mxn_workspace_new();
 *     mxn_views_gray(backend, &image, box, views, true, faces, scratch, scratch_bytes);
 *     mxn_logits_u8(model, workspace, faces, views, logits);
 *     mxn_mean_logits(logits, classes, 1, views, means);
 *
 * Threads. Backends, models and detectors are immutable: any number of threads may use one at once. A workspace and
 * scratch memory serve one call at a time; a team any number. Every other function may be called from any thread at any
 * time. What X_new made is freed by X_free, once, when no call uses it any more.
 *
 * Errors. No function prints, aborts or keeps global state. What can fail returns a status, or NULL where it returns
 * memory, and then leaves its outputs untouched unless it says otherwise. Sizes, counts and enumerations are checked; a
 * pointer must not be NULL unless that is said to be fine, and must have the room that the function documents.
 *
 * Alignment. Pictures, faces, weights and logits need that of their type only; memory handed in for workspaces and
 * scratch needs MXN_ALIGNMENT.
 */
#ifndef MXN_H
#define MXN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shapes.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Inside a library only what is declared here is seen from outside; programs that use it define nothing. */
#ifdef MXN_EXPORT
#pragma GCC visibility push(default)
#endif

/* ---- Version --------------------------------------------------------------------------------------------------- */

/* Of the binary interface. MAJOR is raised when programs must be compiled anew, and is part of the library's SONAME;
 * MINOR when something is added. */
#define MXN_ABI_MAJOR 0
#define MXN_ABI_MINOR 2
#define MXN_ABI_VERSION (MXN_ABI_MAJOR * 1000 + MXN_ABI_MINOR)

/* MXN_ABI_VERSION of the library that runs. It fits the header when MAJOR is the same and MINOR not smaller. */
int mxn_abi_version(void);

typedef enum mxn_status {
    MXN_OK = 0,
    MXN_ERROR_MEMORY,      /* an allocation failed, or the memory handed in is too small */
    MXN_ERROR_ARGUMENT,    /* a size, count or enumeration is out of its documented range */
    MXN_ERROR_ISA,         /* an instruction set is unknown, not compiled in, or not supported by this CPU */
    MXN_ERROR_NOT_FINITE,  /* a float32 face holds NaN or infinity */
} mxn_status;

/* ---- Instruction sets ------------------------------------------------------------------------------------------ */

/* The kernels of one instruction set: constant, for the life of the program. Asking the CPU what it has is slow under
 * a hypervisor, so it is done here, once, and the answer passed on. */
typedef struct mxn_backend mxn_backend;

/* The i-th backend that this build and this CPU support, fastest first; NULL past the last. */
const mxn_backend *mxn_backend_available(int i);
/* One of the names in backends.def; belongs to the library. */
const char *mxn_backend_name(const mxn_backend *backend);
/* Whether int8 is faster than float32 on it: where the instruction set has dot products of bytes. */
bool mxn_backend_prefers_int8(const mxn_backend *backend);

/* The backend of an instruction set. NULL or "" means the environment variable MXN_EDGE_ISA, and the fastest available
 * where that is unset or empty. MXN_ERROR_ISA when it is not available; there is no fallback. */
mxn_status mxn_backend_resolve(const char *isa, const mxn_backend **backend);

/* ---- The network ----------------------------------------------------------------------------------------------- */

/* The candidates of the paper's figure 3. */
typedef enum mxn_topology {
    MXN_TOPOLOGY_V,   /* no pooling */
    MXN_TOPOLOGY_P1,  /* max-pool after conv1 */
    MXN_TOPOLOGY_P2,  /* max-pool after conv2 */
    MXN_TOPOLOGY_P12, /* max-pool after both; with 48 hidden units this is MicroExpNet */
} mxn_topology;

/* In what numbers the network is computed. */
typedef enum mxn_precision {
    MXN_PRECISION_FLOAT32,
    /* Bytes times 8-bit weights, 32-bit sums; the last layer in float32. Each output of conv1, conv2 and fc1 has a scale
     * s = max |w| / 127 and whole weights rint(w / s), which loses nothing when the weights were made so; activations are
     * rounded and clamped to 0..255, so weights must be scaled for that: see docs/design.md. float32 faces are rounded,
     * halves to even, and clamped alike. Logits are the same bits on every instruction set. */
    MXN_PRECISION_INT8,
} mxn_precision;

/* How the float32 convolutions that a max-pool follows are computed; all others are direct. Results differ by rounding. */
typedef enum mxn_algorithm {
    MXN_ALGORITHM_FASTEST,   /* for each layer, what is fastest on the backend */
    MXN_ALGORITHM_DIRECT,    /* multiplications as in the definition */
    MXN_ALGORITHM_TOOM_COOK, /* fewer multiplications, see toom_cook.h; not for MXN_TOPOLOGY_V, which has no max-pool, and
                              * not for int8 */
} mxn_algorithm;

typedef struct mxn_config {
    mxn_topology topology;
    int hidden;  /* 1 to MXN_HIDDEN_MAX */
    int classes; /* 1 to MXN_CLASSES_MAX */
} mxn_config;

/* Unpacked weights in TensorFlow's layouts, C-contiguous float32. `flat` is MXN_FLAT_POOLED for p2 and p12,
 * MXN_FLAT_PLAIN for v and p1; the flattened map is in height-width-channel order. */
typedef struct mxn_weights {
    const float *conv1_weight; /* ky-kx-ic-oc: 8, 8, 1, 16 */
    const float *conv1_bias;   /* 16 */
    const float *conv2_weight; /* ky-kx-ic-oc: 4, 4, 16, 32 */
    const float *conv2_bias;   /* 32 */
    const float *fc1_weight;   /* in-out: flat, hidden */
    const float *fc1_bias;     /* hidden */
    const float *fc2_weight;   /* in-out: hidden, classes */
    const float *fc2_bias;     /* classes */
} mxn_weights;

/* All that a weight file holds. `mxn-edge export MODEL --to c` writes one as C source; examples/c reads one from a file. */
typedef struct mxn_student {
    mxn_config config;
    mxn_weights weights;
    bool quantised;            /* made for MXN_PRECISION_INT8 */
    const char *preprocessing; /* "face-square", "face-square-standardised" or "microexpnet-paper" */
    const char *const *labels; /* config.classes of them, UTF-8 */
} mxn_student;

typedef struct mxn_model mxn_model;
typedef struct mxn_workspace mxn_workspace;

/* Number of features that enter the first fully connected layer: MXN_FLAT_POOLED or MXN_FLAT_PLAIN. */
int mxn_flat_width(mxn_topology topology);

/* Packs a copy of the weights for one backend; `weights` may go afterwards. MXN_ERROR_ARGUMENT when the configuration,
 * precision or algorithm is out of range or does not go together, MXN_ERROR_MEMORY when an allocation failed. */
mxn_status mxn_model_new(mxn_model **model, const mxn_config *config, const mxn_weights *weights,
                         const mxn_backend *backend, mxn_precision precision, mxn_algorithm algorithm);
/* As given to mxn_model_new. */
const mxn_backend *mxn_model_backend(const mxn_model *model);
mxn_precision mxn_model_precision(const mxn_model *model);
/* MXN_ALGORITHM_TOOM_COOK when at least one layer is computed so, else MXN_ALGORITHM_DIRECT. */
mxn_algorithm mxn_model_algorithm(const mxn_model *model);
void mxn_model_free(mxn_model *model); /* NULL is fine */

/* Memory for one call at a time, about 240 KB; serves every model. Either from the heap, or laid out in memory of the
 * caller's (mxn_workspace_bytes() bytes, aligned to MXN_ALIGNMENT; returns NULL when it is not aligned), which is not
 * freed with mxn_workspace_free. */
mxn_workspace *mxn_workspace_new(void); /* NULL when out of memory */
void mxn_workspace_free(mxn_workspace *workspace); /* NULL is fine */
size_t mxn_workspace_bytes(void);
mxn_workspace *mxn_workspace_init(void *memory);

/* Logits of `count` faces (84×84 grey, 0..255, one after another): classes floats per face, one face after another.
 * MXN_ERROR_ARGUMENT when `count` is negative; 0 is fine. The float32 form returns MXN_ERROR_NOT_FINITE at the first face with NaN or infinity; the logits of the faces
 * before it are then already written. */
mxn_status mxn_logits_u8(const mxn_model *model, mxn_workspace *workspace, const uint8_t *faces, ptrdiff_t count,
                         float *logits);
mxn_status mxn_logits_f32(const mxn_model *model, mxn_workspace *workspace, const float *faces, ptrdiff_t count,
                          float *logits);

/* ---- Threads --------------------------------------------------------------------------------------------------- */

#define MXN_THREADS_MAX 256

/* Threads that share the faces of a batch with their caller, and sleep between calls. One team serves any number of
 * models and callers: who finds it at work computes alone, and so does a process that was forked after the team was
 * made. */
typedef struct mxn_team mxn_team;

/* `threads`: 1 to MXN_THREADS_MAX, the caller's included: one fewer is started. MXN_ERROR_ARGUMENT when out of range,
 * MXN_ERROR_MEMORY when a thread cannot be started or has no memory. */
mxn_status mxn_team_new(mxn_team **team, int threads);
void mxn_team_free(mxn_team *team); /* nobody may be using it; NULL is fine */

/* As mxn_logits_u8 and mxn_logits_f32, with the same bits; `workspace` is the caller's. After MXN_ERROR_NOT_FINITE any of
 * the logits may have been written. */
mxn_status mxn_team_logits_u8(mxn_team *team, const mxn_model *model, mxn_workspace *workspace, const uint8_t *faces,
                              ptrdiff_t count, float *logits);
mxn_status mxn_team_logits_f32(mxn_team *team, const mxn_model *model, mxn_workspace *workspace, const float *faces,
                               ptrdiff_t count, float *logits);

/* ---- The reference --------------------------------------------------------------------------------------------- */

/* The yardstick of every test: the same logits of one face by plain loops in double precision, unfused. `logits` has
 * room for config->classes. MXN_ERROR_ARGUMENT and MXN_ERROR_MEMORY as mxn_model_new. */
mxn_status mxn_reference_logits(const mxn_config *config, const mxn_weights *weights, const float *face,
                                double *logits);
/* The same for MXN_PRECISION_INT8, by plain loops over 32-bit integers: the very bits that every backend gives. */
mxn_status mxn_reference_logits_int8(const mxn_config *config, const mxn_weights *weights, const uint8_t *face,
                                     float *logits);

/* ---- Preprocessing --------------------------------------------------------------------------------------------- */

/* Order of the channels along the channel axis. */
typedef enum mxn_color {
    MXN_COLOR_GRAY,
    MXN_COLOR_RGB,
    MXN_COLOR_BGR,
    MXN_COLOR_RGBA, /* the fourth channel is ignored */
    MXN_COLOR_BGRA,
} mxn_color;

/* A picture of 8-bit samples anywhere in memory: sample (y, x, c) is data[y * row_stride + x * column_stride +
 * c * channel_stride]; strides are in bytes and may be negative. */
typedef struct mxn_image {
    const uint8_t *data;
    int width, height; /* pixels, 1 to MXN_IMAGE_SIDE_MAX */
    ptrdiff_t row_stride, column_stride, channel_stride;
    mxn_color color;
} mxn_image;

/* A box in pixels; pixel i covers [i, i + 1). It may lie partly or wholly outside the image. */
typedef struct mxn_box {
    double x, y, width, height;
} mxn_box;

#define MXN_IMAGE_SIDE_MAX 65535
#define MXN_BOX_SIDE_MAX 69000.0 /* the side of an image, and the margin of its views */
#define MXN_CROP_SIZE_MAX 1024

/* Resamples `box` to `size`×`size` grey pixels: luma of ITU-R BT.601, triangle filter whose support grows with the
 * reduction (so that it is antialiased, and linear interpolation when it enlarges), border pixels repeated outward.
 * Reads each pixel of the box once and copies none of the image. `out` has room for size * size bytes, `scratch` for
 * mxn_crop_scratch_bytes(), aligned to MXN_ALIGNMENT; the same box gives the same pixels on every instruction set.
 * MXN_ERROR_ARGUMENT when image, box or size is out of range, MXN_ERROR_MEMORY when `scratch` is small or not aligned. */
size_t mxn_crop_scratch_bytes(mxn_box box, int size); /* 0 when the box or size is out of range */
mxn_status mxn_crop_gray(const mxn_backend *backend, const mxn_image *image, mxn_box box, int size, uint8_t *out,
                         void *scratch, size_t scratch_bytes);

/* Reduces a whole image to width × height grey pixels, row after row: luma of ITU-R BT.601 of the mean of the area that a
 * pixel covers, exact to about half a grey level. Never enlarges: MXN_ERROR_ARGUMENT when a side is above the image's. One
 * pass over the image; the same pixels on every instruction set. `scratch`: mxn_scale_scratch_bytes() bytes (a few rows of
 * the image; 0 when a size is out of range), aligned to MXN_ALIGNMENT. */
size_t mxn_scale_scratch_bytes(const mxn_image *image, int width, int height);
mxn_status mxn_scale_gray(const mxn_backend *backend, const mxn_image *image, int width, int height, uint8_t *out,
                          void *scratch, size_t scratch_bytes);

/* Brings `count` grey pixels to mean 128 and standard deviation 52, in place, so that light and contrast say nothing; a
 * deviation below 10 grey levels counts as 10, so that noise is not blown up. Exact: the same on every machine. Nothing
 * to do when `count` is not positive. */
void mxn_standardise(uint8_t *pixels, int count);

/* What a student is shown of a face: `views` (1, 2 or MXN_VIEWS_MAX) grey pictures of it, MXN_FACE_PIXELS bytes each. One is
 * the box as mxn_crop_gray gives it; several are of boxes moved by a forty-second of it to the left, right, top and bottom, the
 * second and third mirrored. `standardise`: bring all to the same mean and deviation, as mxn_standardise does. `scratch`:
 * mxn_views_scratch_bytes() bytes. Errors are those of mxn_crop_gray. */
#define MXN_VIEWS_MAX 4
size_t mxn_views_scratch_bytes(mxn_box face, int views); /* 0 when the box or the number of views is out of range */
mxn_status mxn_views_gray(const mxn_backend *backend, const mxn_image *image, mxn_box face, int views, bool standardise,
                          uint8_t *out, void *scratch, size_t scratch_bytes);

/* The answer to each face: the means over its views of the logits, `faces` × `views` rows of `classes`; `means` has `faces` rows
 * and may be the same array. */
void mxn_mean_logits(const float *logits, int classes, ptrdiff_t faces, int views, float *means);

/* Probabilities of `faces` rows of `classes` logits each, for logits of any size; both arrays may be the same. */
void mxn_softmax(const float *logits, int classes, ptrdiff_t faces, float *probabilities);

/* ---- Face detection -------------------------------------------------------------------------------------------- */

/* Weights of the detector, C-contiguous float32. Channels of the units: 16-32, 32-32, 32-32; 32-64, 64-64, 64-64; 64-64,
 * 64-64, 64-64; heads 32-32, 64-64, 64-64. The first unit of each three halves height and width. Depthwise sums should lie
 * within -8 to 8: backends that multiply 16-bit integers round them to 1/4096, and clamp them there. */
typedef struct mxn_unit_weights {
    const float *depthwise; /* ky-kx-c: 3, 3, in */
    const float *pointwise; /* ic-oc: in, out */
    const float *bias;      /* out */
} mxn_unit_weights;

typedef struct mxn_out_weights {
    const float *weight; /* ic-oc: 32 or 64, 5 */
    const float *bias;   /* 5 */
} mxn_out_weights;

typedef struct mxn_detector_weights {
    const float *stem_weight; /* ky-kx-oc: 3, 3, 16 */
    const float *stem_bias;   /* 16 */
    mxn_unit_weights unit[MXN_DETECTOR_UNITS];
    const float *lateral_weight; /* ic-oc: 64, 32 */
    const float *lateral_bias;   /* 32 */
    mxn_out_weights out[MXN_DETECTOR_LEVELS];
    /* of the second look: units 16-32, 32-64, 64-64, 64-64, of which the first two halve height and width */
    const float *refiner_stem_weight; /* ky-kx-oc: 3, 3, 16 */
    const float *refiner_stem_bias;   /* 16 */
    mxn_unit_weights refiner_unit[MXN_REFINER_UNITS];
    mxn_out_weights refiner_out; /* weight: in-out: MXN_REFINER_FLAT, 5; the map in height-width-channel order */
} mxn_detector_weights;

typedef struct mxn_detector mxn_detector;
/* Memory for one call at a time. It grows when a larger frame comes, and is then as large for all that follow. */
typedef struct mxn_detector_workspace mxn_detector_workspace;

typedef struct mxn_detection {
    float x, y, width, height; /* pixels of the image; may reach over its borders */
    float score;               /* 0 to 1 */
} mxn_detection;

typedef struct mxn_detect_options {
    double min_face;       /* side of the smallest face, as a fraction of the image's shorter side: above 0, to 1 */
    float score_threshold; /* 0 to 1 */
    int max_faces;         /* at least 1: room in `found` */
} mxn_detect_options;

/* Packs a copy of the weights for one backend; `weights` may go afterwards. MXN_ERROR_MEMORY when an allocation failed. */
mxn_status mxn_detector_new(mxn_detector **detector, const mxn_detector_weights *weights, const mxn_backend *backend);
const mxn_backend *mxn_detector_backend(const mxn_detector *detector);
void mxn_detector_free(mxn_detector *detector); /* NULL is fine */

mxn_detector_workspace *mxn_detector_workspace_new(void); /* NULL when out of memory */
void mxn_detector_workspace_free(mxn_detector_workspace *workspace); /* NULL is fine */

/* Finds faces, the surest first. The image is reduced until the smallest face is as small as the network can see; a second
 * look at each candidate, cut out of the whole image, decides and corrects its box. Faces smaller than 0.8 * min_face are
 * left out. Time and memory grow with the square of 1 / min_face, up to 30 bytes for each pixel of the frame; each pixel of the
 * frame is read once, and once more where it belongs to a candidate. `*count` becomes how many there are. MXN_ERROR_ARGUMENT
 * when image or options are out of range, MXN_ERROR_MEMORY when a workspace cannot grow: it is usable again afterwards. */
mxn_status mxn_detect(const mxn_detector *detector, mxn_detector_workspace *workspace, const mxn_image *image,
                      const mxn_detect_options *options, mxn_detection *found, int *count);

/* The square to cut out for a student: `scale` times the mean side of the face's box, about its centre. It lies on a grid of a
 * thirty-second of its side or finer, so that boxes that differ in the last digits, as between CPUs, mean the same crop; the
 * grid moves it by a sixty-fourth at most. MXN_FACE_SCALE belongs to the package's detector: FER+ faces fill their pictures, and its boxes
 * have 1 / 1.12 of their side (median of 1,434 training faces). */
#define MXN_FACE_SCALE 1.12
mxn_box mxn_face_square(const mxn_detection *face, double scale);

/* The same in steps, for tests and benchmarks. mxn_detector_size gives the size to which an image is reduced;
 * mxn_detector_answers runs the network on a grey picture and writes, for every cell of the maps with stride 4, 8 and 16,
 * row by row, the MXN_DETECTOR_ANSWERS numbers of the network: `answers` has room for mxn_detector_cells() cells. Errors
 * are those of mxn_detect. */
mxn_status mxn_detector_size(const mxn_image *image, double min_face, int *width, int *height);
ptrdiff_t mxn_detector_cells(int width, int height);
mxn_status mxn_detector_answers(const mxn_detector *detector, mxn_detector_workspace *workspace, const uint8_t *gray,
                                int width, int height, float *answers);
/* What the second look says of MXN_REFINER_SIZE × MXN_REFINER_SIZE pixels that mxn_standardise has seen to:
 * MXN_DETECTOR_ANSWERS numbers. */
void mxn_refiner_answers(const mxn_detector *detector, mxn_detector_workspace *workspace, const uint8_t *pixels,
                         float *answers);

#ifdef MXN_EXPORT
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
