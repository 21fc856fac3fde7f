# What the rest uses of C: csrc/mxn.h, pool.h and shapes.h.

cdef extern from "Python.h":
    # Without Cython's raising: failure is an answer here.
    int try_buffer "PyObject_GetBuffer"(object exporter, Py_buffer *view, int flags)
    # Without a tuple for the arguments.
    object call "PyObject_CallFunctionObjArgs"(object callable, void *, void *, void *end)

cdef extern from * nogil:
    """
    /* aligned_alloc wants a multiple of the alignment. */
    #include <stdlib.h>
    static void *allocate_aligned(size_t bytes) { return aligned_alloc(64, (bytes + 63) / 64 * 64); }
    """
    void *allocate_aligned(size_t bytes)


cdef extern from "shapes.h":
    enum:
        MXN_CLASSES_MAX


cdef extern from "pool.h" nogil:
    ctypedef struct mxn_pool:
        pass
    void *mxn_pool_take(mxn_pool *pool)
    void *mxn_pool_give(mxn_pool *pool, void *block)


cdef extern from "mxn.h" nogil:
    ctypedef enum mxn_status:
        MXN_OK
        MXN_ERROR_MEMORY
        MXN_ERROR_ARGUMENT
        MXN_ERROR_ISA
        MXN_ERROR_NOT_FINITE

    ctypedef struct mxn_backend:
        pass
    const mxn_backend *mxn_backend_available(int i)
    const char *mxn_backend_name(const mxn_backend *backend)
    bint mxn_backend_prefers_int8(const mxn_backend *backend)
    mxn_status mxn_backend_resolve(const char *isa, const mxn_backend **backend)

    ctypedef enum mxn_topology:
        MXN_TOPOLOGY_V
        MXN_TOPOLOGY_P1
        MXN_TOPOLOGY_P2
        MXN_TOPOLOGY_P12

    ctypedef enum mxn_precision:
        MXN_PRECISION_FLOAT32
        MXN_PRECISION_INT8

    ctypedef enum mxn_algorithm:
        MXN_ALGORITHM_FASTEST
        MXN_ALGORITHM_DIRECT
        MXN_ALGORITHM_TOOM_COOK

    ctypedef struct mxn_config:
        mxn_topology topology
        int hidden
        int classes

    ctypedef struct mxn_weights:
        const float *conv1_weight
        const float *conv1_bias
        const float *conv2_weight
        const float *conv2_bias
        const float *fc1_weight
        const float *fc1_bias
        const float *fc2_weight
        const float *fc2_bias

    ctypedef struct mxn_model:
        pass
    ctypedef struct mxn_workspace:
        pass

    int mxn_flat_width(mxn_topology topology)
    mxn_status mxn_model_new(
        mxn_model **model, const mxn_config *config, const mxn_weights *weights, const mxn_backend *backend,
        mxn_precision precision, mxn_algorithm algorithm
    )
    const mxn_backend *mxn_model_backend(const mxn_model *model)
    mxn_precision mxn_model_precision(const mxn_model *model)
    mxn_algorithm mxn_model_algorithm(const mxn_model *model)
    void mxn_model_free(mxn_model *model)
    mxn_workspace *mxn_workspace_new()
    void mxn_workspace_free(mxn_workspace *workspace)
    mxn_status mxn_logits_u8(
        const mxn_model *model, mxn_workspace *workspace, const uint8_t *faces, Py_ssize_t count, float *logits
    )
    mxn_status mxn_logits_f32(
        const mxn_model *model, mxn_workspace *workspace, const float *faces, Py_ssize_t count, float *logits
    )
    enum:
        MXN_THREADS_MAX
    ctypedef struct mxn_team:
        pass
    mxn_status mxn_team_new(mxn_team **team, int threads)
    void mxn_team_free(mxn_team *team)
    mxn_status mxn_team_logits_u8(
        mxn_team *team, const mxn_model *model, mxn_workspace *workspace, const uint8_t *faces, Py_ssize_t count,
        float *logits
    )
    mxn_status mxn_team_logits_f32(
        mxn_team *team, const mxn_model *model, mxn_workspace *workspace, const float *faces, Py_ssize_t count,
        float *logits
    )
    mxn_status mxn_reference_logits(
        const mxn_config *config, const mxn_weights *weights, const float *face, double *logits
    )
    mxn_status mxn_reference_logits_int8(
        const mxn_config *config, const mxn_weights *weights, const uint8_t *face, float *logits
    )

    ctypedef enum mxn_color:
        MXN_COLOR_GRAY
        MXN_COLOR_RGB
        MXN_COLOR_BGR
        MXN_COLOR_RGBA
        MXN_COLOR_BGRA

    ctypedef struct mxn_image:
        const uint8_t *data
        int width
        int height
        Py_ssize_t row_stride
        Py_ssize_t column_stride
        Py_ssize_t channel_stride
        mxn_color color

    ctypedef struct mxn_box:
        double x
        double y
        double width
        double height

    size_t mxn_crop_scratch_bytes(mxn_box box, int size)
    mxn_status mxn_crop_gray(
        const mxn_backend *backend, const mxn_image *image, mxn_box box, int size, uint8_t *out, void *scratch,
        size_t scratch_bytes
    )
    size_t mxn_scale_scratch_bytes(const mxn_image *image, int width, int height)
    mxn_status mxn_scale_gray(
        const mxn_backend *backend, const mxn_image *image, int width, int height, uint8_t *out, void *scratch,
        size_t scratch_bytes
    )
    void mxn_standardise(uint8_t *pixels, int count)
    size_t mxn_views_scratch_bytes(mxn_box face, int views)
    mxn_status mxn_views_gray(
        const mxn_backend *backend, const mxn_image *image, mxn_box face, int views, bint standardise, uint8_t *out,
        void *scratch, size_t scratch_bytes
    )
    void mxn_mean_logits(const float *logits, int classes, Py_ssize_t faces, int views, float *means)
    void mxn_softmax(const float *logits, int classes, Py_ssize_t faces, float *probabilities)

    enum:
        MXN_DETECTOR_UNITS
        MXN_DETECTOR_LEVELS
        MXN_DETECTOR_ANSWERS
        MXN_REFINER_UNITS
        MXN_REFINER_FLAT
        MXN_REFINER_PIXELS

    ctypedef struct mxn_unit_weights:
        const float *depthwise
        const float *pointwise
        const float *bias

    ctypedef struct mxn_out_weights:
        const float *weight
        const float *bias

    ctypedef struct mxn_detector_weights:
        const float *stem_weight
        const float *stem_bias
        mxn_unit_weights *unit
        const float *lateral_weight
        const float *lateral_bias
        mxn_out_weights *out
        const float *refiner_stem_weight
        const float *refiner_stem_bias
        mxn_unit_weights *refiner_unit
        mxn_out_weights refiner_out

    ctypedef struct mxn_detector:
        pass
    ctypedef struct mxn_detector_workspace:
        pass

    ctypedef struct mxn_detection:
        float x
        float y
        float width
        float height
        float score

    ctypedef struct mxn_detect_options:
        double min_face
        float score_threshold
        int max_faces

    mxn_status mxn_detector_new(
        mxn_detector **detector, const mxn_detector_weights *weights, const mxn_backend *backend
    )
    void mxn_detector_free(mxn_detector *detector)
    mxn_detector_workspace *mxn_detector_workspace_new()
    void mxn_detector_workspace_free(mxn_detector_workspace *workspace)
    const double MXN_FACE_SCALE
    mxn_box mxn_face_square(const mxn_detection *face, double scale)
    mxn_status mxn_detect(
        const mxn_detector *detector, mxn_detector_workspace *workspace, const mxn_image *image,
        const mxn_detect_options *options, mxn_detection *found, int *count
    )
    mxn_status mxn_detector_size(const mxn_image *image, double min_face, int *width, int *height)
    Py_ssize_t mxn_detector_cells(int width, int height)
    mxn_status mxn_detector_answers(
        const mxn_detector *detector, mxn_detector_workspace *workspace, const uint8_t *gray, int width, int height,
        float *answers
    )
    void mxn_refiner_answers(
        const mxn_detector *detector, mxn_detector_workspace *workspace, const uint8_t *pixels, float *answers
    )
