/* The run pipeline and its workspace: face -> image -> map -> flat -> hidden -> logits. The only caller of the network's
 * kernels.
 */
#include "mxn.h"

#include <stdalign.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

/* The paddings of images and maps are zeroed once, in mxn_workspace_init; the kernels write the insides only. */
struct mxn_workspace {
    alignas(MXN_ALIGNMENT) float image[MXN_IMAGE_ROWS * MXN_IMAGE_PITCH];
    alignas(MXN_ALIGNMENT) float map[MXN_MAP_PIXELS * MXN_MAP_PITCH];
    alignas(MXN_ALIGNMENT) float scratch[MXN_SCRATCH];
    alignas(MXN_ALIGNMENT) float flat[MXN_FLAT_MAX];
    alignas(MXN_ALIGNMENT) float hidden[MXN_HIDDEN_MAX];
    alignas(MXN_ALIGNMENT) float logits[MXN_CLASSES_MAX];
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

static void run_float32(const mxn_model *model, mxn_workspace *workspace) {
    const mxn_float32_kernels *kernels = model->backend->float32;
    model->conv1(workspace->image, model->conv1_weight, model->conv1_bias, workspace->map, workspace->scratch);
    model->conv2(workspace->map, model->conv2_weight, model->conv2_bias, workspace->flat, workspace->scratch);
    kernels->dense(model->fc1_weight, model->fc1_bias, workspace->flat, model->flat, model->hidden_blocks, true,
                   workspace->hidden);
    kernels->dense(model->fc2_weight, model->fc2_bias, workspace->hidden, model->hidden_blocks * MXN_DENSE_BLOCK,
                   model->classes_blocks, false, workspace->logits);
}

static void run_int8(const mxn_model *model, mxn_workspace *workspace) {
    const mxn_int8_kernels *kernels = model->backend->int8;
    model->int8_conv1(workspace->image_bytes, &model->int8_layer1, workspace->map_bytes);
    model->int8_conv2(workspace->map_bytes, &model->int8_layer2, workspace->flat_bytes);
    kernels->fc1(&model->int8_layer3, workspace->flat_bytes, model->flat, model->hidden_blocks, workspace->hidden);
    kernels->fc2(model->fc2_weight, model->fc2_bias, workspace->hidden, model->hidden_blocks * MXN_DENSE_BLOCK,
                 model->classes_blocks, workspace->logits);
}

/* From the loaded image to the logits. */
static void run(const mxn_model *model, mxn_workspace *workspace, float *logits) {
    (model->precision == MXN_PRECISION_INT8 ? run_int8 : run_float32)(model, workspace);
    memcpy(logits, workspace->logits, (size_t)model->config.classes * sizeof(float));
}

mxn_status mxn_logits_u8(const mxn_model *model, mxn_workspace *workspace, const uint8_t *faces, ptrdiff_t count,
                         float *logits) {
    if (count < 0) return MXN_ERROR_ARGUMENT;
    for (; count > 0; count--, faces += MXN_FACE_PIXELS, logits += model->config.classes) {
        if (model->precision == MXN_PRECISION_INT8)
            model->backend->int8->load_u8(faces, workspace->image_bytes);
        else
            model->backend->float32->load_u8(faces, workspace->image);
        run(model, workspace, logits);
    }
    return MXN_OK;
}

mxn_status mxn_logits_f32(const mxn_model *model, mxn_workspace *workspace, const float *faces, ptrdiff_t count,
                          float *logits) {
    if (count < 0) return MXN_ERROR_ARGUMENT;
    for (; count > 0; count--, faces += MXN_FACE_PIXELS, logits += model->config.classes) {
        const bool finite = model->precision == MXN_PRECISION_INT8
                                ? model->backend->int8->load_f32(faces, workspace->image_bytes)
                                : model->backend->float32->load_f32(faces, workspace->image);
        if (!finite) return MXN_ERROR_NOT_FINITE;
        run(model, workspace, logits);
    }
    return MXN_OK;
}
