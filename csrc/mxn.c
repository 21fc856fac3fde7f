/* The run pipeline and its workspace: face -> image -> map -> flat -> hidden -> logits. The only caller of the network's
 * kernels; batches are shared by team.c.
 */
#include "mxn.h"

#include <math.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"
#include "team.h"

/* The paddings of images and maps are zeroed once, in mxn_workspace_init; the kernels write the insides only. */
struct mxn_workspace {
    alignas(MXN_ALIGNMENT) float image[MXN_IMAGE_ROWS * MXN_IMAGE_PITCH];
    alignas(MXN_ALIGNMENT) float map[MXN_MAP_PIXELS * MXN_MAP_PITCH];
    alignas(MXN_ALIGNMENT) float scratch[MXN_SCRATCH];
    alignas(MXN_ALIGNMENT) float flat[MXN_DENSE_FACES][MXN_FLAT_MAX];
    alignas(MXN_ALIGNMENT) float hidden[MXN_DENSE_FACES][MXN_HIDDEN_MAX];
    alignas(MXN_ALIGNMENT) float logits[MXN_DENSE_FACES][MXN_CLASSES_MAX];
    /* of an int8 model, which shares the last two above */
    alignas(MXN_ALIGNMENT) uint8_t image_bytes[MXN_IMAGE_ROWS * MXN_IMAGE_PITCH];
    alignas(MXN_ALIGNMENT) uint8_t map_bytes[MXN_MAP_PIXELS * MXN_MAP_PITCH];
    alignas(MXN_ALIGNMENT) uint8_t flat_bytes[MXN_FLAT_MAX];
};

size_t mxn_workspace_bytes(void) { return sizeof(mxn_workspace); }

mxn_workspace *mxn_workspace_init(void *memory) {
    if ((uintptr_t)memory % MXN_ALIGNMENT != 0) return NULL;
    return memset(memory, 0, sizeof(mxn_workspace));
}

mxn_workspace *mxn_workspace_new(void) {
    void *memory = aligned_alloc(MXN_ALIGNMENT, sizeof(mxn_workspace));
    return memory ? mxn_workspace_init(memory) : NULL;
}

void mxn_workspace_free(mxn_workspace *workspace) { free(workspace); }

/* Whether conv1 reads a face as it is. */
static bool reads_face(const mxn_model *model, bool is_float) { return !is_float && model->conv1_u8; }

/* Loads a face where conv1 does not read it as it is; false when it holds NaN or infinity. */
static bool load(const mxn_model *model, mxn_workspace *workspace, const void *face, bool is_float) {
    const mxn_float32_kernels *float32 = model->backend->float32;
    const mxn_int8_kernels *int8 = model->backend->int8;
    const bool as_bytes = model->precision == MXN_PRECISION_INT8;
    if (is_float) return as_bytes ? int8->load_f32(face, workspace->image_bytes) : float32->load_f32(face, workspace->image);
    if (as_bytes)
        int8->load_u8(face, workspace->image_bytes);
    else if (!reads_face(model, is_float))
        float32->load_u8(face, workspace->image);
    return true;
}

/* The face, loaded or as it is -> flat[index], or in int8 hidden[index]. */
static void convolve(const mxn_model *model, mxn_workspace *workspace, const void *face, bool is_float, int index) {
    if (model->precision == MXN_PRECISION_INT8) {
        model->int8_conv1(workspace->image_bytes, &model->int8_layer1, workspace->map_bytes);
        model->int8_conv2(workspace->map_bytes, &model->int8_layer2, workspace->flat_bytes);
        model->backend->int8->fc1(&model->int8_layer3, workspace->flat_bytes, model->flat, model->hidden_blocks,
                                  workspace->hidden[index]);
        return;
    }
    if (reads_face(model, is_float))
        model->conv1_u8(face, model->conv1_weight, model->conv1_bias, workspace->map, workspace->scratch);
    else
        model->conv1(workspace->image, model->conv1_weight, model->conv1_bias, workspace->map, workspace->scratch);
    model->conv2(workspace->map, model->conv2_weight, model->conv2_bias, workspace->flat[index], workspace->scratch);
}

/* What `convolve` left of up to MXN_DENSE_FACES faces -> their logits. */
static void connect(const mxn_model *model, mxn_workspace *workspace, int faces, float *logits) {
    const mxn_float32_kernels *float32 = model->backend->float32;
    const int hidden = model->hidden_blocks * MXN_DENSE_BLOCK, classes = model->config.classes;
    if (model->precision == MXN_PRECISION_INT8) {
        for (int i = 0; i < faces; i++)
            model->backend->int8->fc2(model->fc2_weight, model->fc2_bias, workspace->hidden[i], hidden,
                                      model->classes_blocks, workspace->logits[i]);
    } else {
        if (model->fc1_quantised)
            model->fc1_quantised(&model->int8_layer3, workspace->flat[0], MXN_FLAT_MAX, model->flat, model->hidden_blocks,
                                 workspace->hidden[0], MXN_HIDDEN_MAX, faces, workspace->scratch);
        else
            float32->dense(model->fc1_weight, model->fc1_bias, model->flat, model->hidden_blocks, true, workspace->flat[0],
                           MXN_FLAT_MAX, workspace->hidden[0], MXN_HIDDEN_MAX, faces);
        float32->dense(model->fc2_weight, model->fc2_bias, hidden, model->classes_blocks, false, workspace->hidden[0],
                       MXN_HIDDEN_MAX, workspace->logits[0], MXN_CLASSES_MAX, faces);
    }
    for (int i = 0; i < faces; i++, logits += classes)
        memcpy(logits, workspace->logits[i], (size_t)classes * sizeof(float));
}

/* faces: `count` faces of float32, or of uint8. */
static mxn_status run(const mxn_model *model, mxn_workspace *workspace, const void *faces, bool is_float, ptrdiff_t count,
                      float *logits) {
    if (count < 0) return MXN_ERROR_ARGUMENT;
    const uint8_t *face = faces;
    if (model->precision == MXN_PRECISION_FLOAT32) {
        /* Instructions of a convolution are about 10 KB, unrolled as they are. When they come from afar the processor waits for
         * the next few lines at every turn; asked for as data all lines come together. */
        enum { CODE_BYTES = 10 * 1024 };
        const uintptr_t conv1 = reads_face(model, is_float) ? (uintptr_t)model->conv1_u8 : (uintptr_t)model->conv1;
        const uintptr_t code[] = {conv1, (uintptr_t)model->conv2};
        for (int layer = 0; layer < 2; layer++)
            for (uintptr_t line = code[layer]; line < code[layer] + CODE_BYTES; line += MXN_CACHE_LINE)
                __builtin_prefetch((const void *)line);
    }
    while (count > 0) {
        const int group = count < MXN_DENSE_FACES ? (int)count : MXN_DENSE_FACES;
        int ready = 0;
        for (; ready < group && load(model, workspace, face, is_float); ready++) {
            convolve(model, workspace, face, is_float, ready);
            face += MXN_FACE_PIXELS * (is_float ? sizeof(float) : sizeof(uint8_t));
        }
        connect(model, workspace, ready, logits);
        if (ready < group) return MXN_ERROR_NOT_FINITE;
        logits += ready * model->config.classes;
        count -= ready;
    }
    return MXN_OK;
}

mxn_status mxn_logits_u8(const mxn_model *model, mxn_workspace *workspace, const uint8_t *faces, ptrdiff_t count,
                         float *logits) {
    return run(model, workspace, faces, false, count, logits);
}

mxn_status mxn_logits_f32(const mxn_model *model, mxn_workspace *workspace, const float *faces, ptrdiff_t count,
                          float *logits) {
    return run(model, workspace, faces, true, count, logits);
}

typedef struct batch {
    const mxn_model *model;
    const void *faces;
    bool is_float;
    float *logits;
    atomic_int status; /* of some part that failed, or MXN_OK */
} batch;

static void run_part(void *context, mxn_workspace *workspace, ptrdiff_t first, ptrdiff_t count) {
    batch *b = context;
    const ptrdiff_t bytes = MXN_FACE_PIXELS * (b->is_float ? sizeof(float) : sizeof(uint8_t));
    const mxn_status status = run(b->model, workspace, (const uint8_t *)b->faces + first * bytes, b->is_float, count,
                                  b->logits + first * b->model->config.classes);
    if (status != MXN_OK) atomic_store(&b->status, (int)status);
}

static mxn_status run_in_team(mxn_team *team, const mxn_model *model, mxn_workspace *workspace, const void *faces,
                              bool is_float, ptrdiff_t count, float *logits) {
    if (count < 0) return MXN_ERROR_ARGUMENT;
    batch b = {model, faces, is_float, logits, MXN_OK};
    mxn_team_run(team, run_part, &b, workspace, count, MXN_DENSE_FACES);
    return (mxn_status)atomic_load(&b.status);
}

mxn_status mxn_team_logits_u8(mxn_team *team, const mxn_model *model, mxn_workspace *workspace, const uint8_t *faces,
                              ptrdiff_t count, float *logits) {
    return run_in_team(team, model, workspace, faces, false, count, logits);
}

mxn_status mxn_team_logits_f32(mxn_team *team, const mxn_model *model, mxn_workspace *workspace, const float *faces,
                               ptrdiff_t count, float *logits) {
    return run_in_team(team, model, workspace, faces, true, count, logits);
}

void mxn_softmax(const float *logits, int classes, ptrdiff_t faces, float *probabilities) {
    for (; faces > 0; faces--, logits += classes, probabilities += classes) {
        float largest = logits[0], sum = 0;
        for (int i = 1; i < classes; i++) largest = logits[i] > largest ? logits[i] : largest;
        for (int i = 0; i < classes; i++) sum += probabilities[i] = expf(logits[i] - largest);
        for (int i = 0; i < classes; i++) probabilities[i] /= sum;
    }
}
