# cython: language_level=3, binding=False, embedsignature=False
"""The one door to C: buffers, errors, the GIL. No arithmetic, no policy; imports numpy, to make arrays for results.

Callers (student.py, preprocess.py) hand in arrays whose meaning they have checked; what could corrupt memory is checked
again here.
"""

from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS,
    PyBUF_FORMAT,
    PyBUF_STRIDES,
    PyBUF_WRITABLE,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.exc cimport PyErr_Clear
from libc.math cimport rint
from libc.stdint cimport uint8_t
from libc.stdlib cimport free


from numpy import empty, float32, uint8


cdef extern from "Python.h":
    # Without Cython's raising: failure is an answer here.
    int try_buffer "PyObject_GetBuffer"(object exporter, Py_buffer *view, int flags)

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

cdef enum:
    FACE_SIZE = 84
    FACE_PIXELS = 84 * 84
    FACES_MAX = 512 # of one frame

MAX_THREADS = MXN_THREADS_MAX

cdef dict TOPOLOGIES = {
    "microexpnet-v": MXN_TOPOLOGY_V,
    "microexpnet-p1": MXN_TOPOLOGY_P1,
    "microexpnet-p2": MXN_TOPOLOGY_P2,
    "microexpnet-p12": MXN_TOPOLOGY_P12,
}

cdef dict PRECISIONS = {
    "float32": MXN_PRECISION_FLOAT32,
    "int8": MXN_PRECISION_INT8,
}

cdef dict ALGORITHMS = {
    None: MXN_ALGORITHM_FASTEST,
    "direct": MXN_ALGORITHM_DIRECT,
    "toom-cook": MXN_ALGORITHM_TOOM_COOK,
}

cdef dict COLORS = {
    "gray": (MXN_COLOR_GRAY, 1),
    "rgb": (MXN_COLOR_RGB, 3),
    "bgr": (MXN_COLOR_BGR, 3),
    "rgba": (MXN_COLOR_RGBA, 4),
    "bgra": (MXN_COLOR_BGRA, 4),
}


def available_isas():
    names = []
    cdef const mxn_backend *backend
    cdef int i = 0
    while True:
        backend = mxn_backend_available(i)
        if backend == NULL:
            return tuple(names)
        names.append(mxn_backend_name(backend).decode())
        i += 1


cdef const mxn_backend *resolve(isa) except NULL:
    cdef const mxn_backend *backend = NULL
    cdef bytes name = b"" if isa is None else isa.encode()
    if mxn_backend_resolve(name, &backend) != MXN_OK:
        import os

        wanted = f"instruction set {isa!r}" if isa else f"MXN_EDGE_ISA={os.environ.get('MXN_EDGE_ISA', '')!r}"
        raise ValueError(f"{wanted} is not available on this machine; available: {', '.join(available_isas())}")
    return backend


def resolve_isa(isa=None):
    return mxn_backend_name(resolve(isa)).decode()


def prefers_int8(isa=None):
    """Whether int8 is faster than float32 on an instruction set."""
    return bool(mxn_backend_prefers_int8(resolve(isa)))


cdef class _Tensors:
    """Buffers of the eight float32 tensors, held while C reads them."""

    cdef Py_buffer views[8]
    cdef int held
    cdef mxn_config config
    cdef mxn_weights weights

    def __cinit__(self, str architecture, tensors):
        self.held = 0
        self.config.topology = <mxn_topology><int>TOPOLOGIES[architecture]
        self.config.hidden = tensors["fc1.bias"].shape[0]
        self.config.classes = tensors["fc2.bias"].shape[0]
        cdef Py_ssize_t flat = mxn_flat_width(self.config.topology)
        cdef Py_ssize_t hidden = self.config.hidden
        cdef Py_ssize_t classes = self.config.classes
        self.weights.conv1_weight = self.take(tensors, "conv1.weight", 8 * 8 * 16)
        self.weights.conv1_bias = self.take(tensors, "conv1.bias", 16)
        self.weights.conv2_weight = self.take(tensors, "conv2.weight", 4 * 4 * 16 * 32)
        self.weights.conv2_bias = self.take(tensors, "conv2.bias", 32)
        self.weights.fc1_weight = self.take(tensors, "fc1.weight", flat * hidden)
        self.weights.fc1_bias = self.take(tensors, "fc1.bias", hidden)
        self.weights.fc2_weight = self.take(tensors, "fc2.weight", hidden * classes)
        self.weights.fc2_bias = self.take(tensors, "fc2.bias", classes)

    cdef const float *take(self, tensors, str name, Py_ssize_t count) except NULL:
        cdef Py_buffer *view = &self.views[self.held]
        PyObject_GetBuffer(tensors[name], view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)
        self.held += 1
        if view.format[0] != b"f" or view.format[1] != 0 or view.len != count * <Py_ssize_t>sizeof(float):
            raise ValueError(f"tensor {name!r} must be {count} native float32 values")
        return <const float *>view.buf

    def __dealloc__(self):
        cdef int i
        for i in range(self.held):
            PyBuffer_Release(&self.views[i])


cdef class Network:
    """A packed model of one backend with workspaces for the threads that use it."""

    cdef mxn_model *model
    cdef mxn_team *team # NULL for one thread
    cdef mxn_pool workspaces
    cdef readonly str isa
    cdef readonly str precision
    cdef readonly str algorithm
    cdef readonly int classes

    def __cinit__(self, str architecture, tensors, isa=None, precision="float32", algorithm=None, int threads=1):
        """precision: "float32" or "int8". algorithm: "direct", "toom-cook", or None for the fastest; the attribute says
        which was chosen. threads: that share a batch, the caller's included."""
        cdef const mxn_backend *backend = resolve(isa)
        cdef _Tensors held = _Tensors(architecture, tensors)
        cdef mxn_status status
        if precision not in PRECISIONS:
            raise ValueError(f"precision {precision!r} is unknown; expected one of {tuple(PRECISIONS)}")
        if algorithm not in ALGORITHMS:
            raise ValueError(f"algorithm {algorithm!r} is unknown; expected one of {tuple(ALGORITHMS)}")
        status = mxn_model_new(
            &self.model, &held.config, &held.weights, backend, <mxn_precision><int>PRECISIONS[precision],
            <mxn_algorithm><int>ALGORITHMS[algorithm]
        )
        if status == MXN_ERROR_MEMORY:
            raise MemoryError
        if status != MXN_OK:
            raise ValueError(
                f"unsupported: {held.config.hidden} hidden units, {held.config.classes} classes, "
                f"algorithm {algorithm!r} for {architecture} in {precision}"
            )
        if threads != 1:
            status = mxn_team_new(&self.team, threads)
            if status == MXN_ERROR_MEMORY:
                raise MemoryError(f"{threads} threads cannot be started")
            if status != MXN_OK:
                raise ValueError(f"threads is {threads}; expected 1 to {MXN_THREADS_MAX}")
        # Of the model, not of what was asked for.
        self.isa = mxn_backend_name(mxn_model_backend(self.model)).decode()
        self.precision = "int8" if mxn_model_precision(self.model) == MXN_PRECISION_INT8 else "float32"
        self.algorithm = "toom-cook" if mxn_model_algorithm(self.model) == MXN_ALGORITHM_TOOM_COOK else "direct"
        self.classes = held.config.classes

    def __dealloc__(self):
        cdef void *workspace = mxn_pool_take(&self.workspaces)
        while workspace != NULL:
            mxn_workspace_free(<mxn_workspace *>workspace)
            workspace = mxn_pool_take(&self.workspaces)
        mxn_team_free(self.team)
        mxn_model_free(self.model)

    def try_logits(self, faces, out):
        """Logits of what needs neither conversion nor an explanation of what is wrong with it; None for anything else.

        faces: C-contiguous uint8 or native float32, 84 × 84 or n × 84 × 84; out: writable C-contiguous float32, classes
        or n × classes, or None for a new array. Returns out. Raises for NaN or infinity only.
        """
        cdef Py_buffer source, target
        cdef bint fits
        cdef int last
        if try_buffer(faces, &source, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) < 0:
            PyErr_Clear()
            return None
        try:
            last = source.ndim - 1
            fits = (
                1 <= last <= 2
                and source.shape[last] == FACE_SIZE
                and source.shape[last - 1] == FACE_SIZE
                and (source.format[0] == b"B" or source.format[0] == b"f")
                and source.format[1] == 0
            )
            if not fits:
                return None
            if out is None:
                out = empty(self.classes, float32) if last == 1 else empty((source.shape[0], self.classes), float32)
            if try_buffer(out, &target, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | PyBUF_WRITABLE) < 0:
                PyErr_Clear()
                return None
            try:
                fits = (
                    target.ndim == last
                    and target.shape[last - 1] == self.classes
                    and (last == 1 or target.shape[0] == source.shape[0])
                    and target.format[0] == b"f"
                    and target.format[1] == 0
                )
                if not fits:
                    return None
                self.run(&source, &target)
                return out
            finally:
                PyBuffer_Release(&target)
        finally:
            PyBuffer_Release(&source)

    def logits(self, faces, out):
        """faces: C-contiguous uint8 or float32, n × 84 × 84; out: writable C-contiguous float32, n × classes."""
        cdef Py_buffer source, target
        PyObject_GetBuffer(faces, &source, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)
        try:
            PyObject_GetBuffer(out, &target, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | PyBUF_WRITABLE)
            try:
                self.run(&source, &target)
            finally:
                PyBuffer_Release(&target)
        finally:
            PyBuffer_Release(&source)

    cdef int run(self, Py_buffer *source, Py_buffer *target) except -1:
        cdef bint bytes_in = source.format[0] == b"B"
        cdef Py_ssize_t count = source.len // (FACE_PIXELS * source.itemsize)
        cdef mxn_status status
        if source.format[1] != 0 or not (bytes_in or source.format[0] == b"f"):
            raise TypeError("faces must be uint8 or native float32")
        if target.format[0] != b"f" or target.format[1] != 0:
            raise TypeError("out must be native float32")
        if source.len != count * FACE_PIXELS * source.itemsize:
            raise ValueError("faces must be n × 84 × 84")
        if target.len != count * self.classes * <Py_ssize_t>sizeof(float):
            raise ValueError(f"out must be n × {self.classes} for n faces")
        with nogil:
            status = self.classify(bytes_in, source.buf, count, <float *>target.buf)
        if status == MXN_ERROR_MEMORY:
            raise MemoryError
        if status == MXN_ERROR_NOT_FINITE:
            raise ValueError("a face contains NaN or infinity")
        return 0

    cdef mxn_status classify(self, bint bytes_in, const void *faces, Py_ssize_t count, float *logits) noexcept nogil:
        cdef mxn_workspace *workspace = <mxn_workspace *>mxn_pool_take(&self.workspaces)
        cdef mxn_status status
        if workspace == NULL:
            workspace = mxn_workspace_new()
        if workspace == NULL:
            return MXN_ERROR_MEMORY
        status = self.run_batch(workspace, bytes_in, faces, count, logits)
        mxn_workspace_free(<mxn_workspace *>mxn_pool_give(&self.workspaces, workspace))
        return status

    cdef mxn_status run_batch(
        self, mxn_workspace *workspace, bint bytes_in, const void *faces, Py_ssize_t count, float *logits
    ) noexcept nogil:
        if self.team == NULL and bytes_in:
            return mxn_logits_u8(self.model, workspace, <const uint8_t *>faces, count, logits)
        if self.team == NULL:
            return mxn_logits_f32(self.model, workspace, <const float *>faces, count, logits)
        if bytes_in:
            return mxn_team_logits_u8(self.team, self.model, workspace, <const uint8_t *>faces, count, logits)
        return mxn_team_logits_f32(self.team, self.model, workspace, <const float *>faces, count, logits)


def reference_logits(str architecture, tensors, face, out):
    """The double-precision yardstick. face: float32 84 × 84; out: writable float64, classes values."""
    reference(_Tensors(architecture, tensors), face, b"f", out, b"d")


def reference_logits_int8(str architecture, tensors, face, out):
    """The yardstick of int8, bit for bit. face: uint8 84 × 84; out: writable float32, classes values."""
    reference(_Tensors(architecture, tensors), face, b"B", out, b"f")


cdef int reference(_Tensors held, face, const char *face_format, out, const char *out_format) except -1:
    cdef Py_buffer source, target
    cdef mxn_status status
    PyObject_GetBuffer(face, &source, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)
    try:
        PyObject_GetBuffer(out, &target, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | PyBUF_WRITABLE)
        try:
            if source.format[0] != face_format[0] or source.len != FACE_PIXELS * source.itemsize:
                raise ValueError(f"face must be 84 × 84 of format {face_format.decode()!r}")
            if target.format[0] != out_format[0] or target.len != held.config.classes * target.itemsize:
                raise ValueError(f"out must have {held.config.classes} values of format {out_format.decode()!r}")
            with nogil:
                if face_format[0] == b"B":
                    status = mxn_reference_logits_int8(
                        &held.config, &held.weights, <const uint8_t *>source.buf, <float *>target.buf
                    )
                else:
                    status = mxn_reference_logits(
                        &held.config, &held.weights, <const float *>source.buf, <double *>target.buf
                    )
            if status == MXN_ERROR_MEMORY:
                raise MemoryError
        finally:
            PyBuffer_Release(&target)
    finally:
        PyBuffer_Release(&source)
    return 0


cdef int describe(Py_buffer *source, str color, mxn_image *image) except -1:
    """What C is told of a frame: uint8, height × width (× channels), any strides."""
    cdef int color_code, channels
    color_code, channels = COLORS[color]
    if source.format[0] != b"B" or source.format[1] != 0:
        raise TypeError("frame must be uint8")
    if source.ndim != (2 if channels == 1 else 3) or (channels > 1 and source.shape[2] != channels):
        raise ValueError(f"frame has the wrong shape for color {color!r}")
    if not (0 < source.shape[0] < 65536 and 0 < source.shape[1] < 65536):
        raise ValueError("frame sides must be 1 to 65535 pixels")
    image.data = <const uint8_t *>source.buf
    image.height, image.width = <int>source.shape[0], <int>source.shape[1]
    image.row_stride, image.column_stride = source.strides[0], source.strides[1]
    image.channel_stride = source.strides[2] if channels > 1 else 0
    image.color = <mxn_color>color_code
    return 0


cdef struct Scratch:
    size_t bytes # of the block that starts with this


cdef class Cropper:
    """Crops and reduced frames of one backend, with scratch memory that is used again."""

    cdef const mxn_backend *backend
    cdef mxn_pool scratches
    cdef readonly str isa

    def __cinit__(self, isa=None):
        self.backend = resolve(isa)
        self.isa = mxn_backend_name(self.backend).decode()

    def __dealloc__(self):
        cdef void *scratch = mxn_pool_take(&self.scratches)
        while scratch != NULL:
            free(scratch)
            scratch = mxn_pool_take(&self.scratches)

    def crop(self, frame, str color, double x, double y, double width, double height, out):
        """frame: uint8, height × width (× channels), any strides; out: writable C-contiguous uint8, size × size."""
        cdef Py_buffer source, target
        PyObject_GetBuffer(frame, &source, PyBUF_STRIDES | PyBUF_FORMAT)
        try:
            PyObject_GetBuffer(out, &target, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | PyBUF_WRITABLE)
            try:
                self.run(&source, &target, color, mxn_box(x, y, width, height))
            finally:
                PyBuffer_Release(&target)
        finally:
            PyBuffer_Release(&source)

    def reduce(self, frame, str color, int width, int height):
        """A frame reduced to width × height grey pixels: uint8, height × width. frame: as for crop."""
        cdef Py_buffer source, target
        cdef mxn_image image
        cdef mxn_status status = MXN_ERROR_ARGUMENT
        cdef size_t needed
        cdef Scratch *scratch
        PyObject_GetBuffer(frame, &source, PyBUF_STRIDES | PyBUF_FORMAT)
        try:
            describe(&source, color, &image)
            needed = mxn_scale_scratch_bytes(&image, width, height)
            if needed == 0:
                raise ValueError(f"a frame of {image.width} × {image.height} cannot be reduced to {width} × {height}")
            out = empty((height, width), uint8)
            PyObject_GetBuffer(out, &target, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | PyBUF_WRITABLE)
            try:
                with nogil:
                    scratch = self.take(needed)
                    if scratch == NULL:
                        status = MXN_ERROR_MEMORY
                    else:
                        status = mxn_scale_gray(
                            self.backend, &image, width, height, <uint8_t *>target.buf, <char *>scratch + 64,
                            scratch.bytes - 64
                        )
                        free(mxn_pool_give(&self.scratches, scratch))
            finally:
                PyBuffer_Release(&target)
        finally:
            PyBuffer_Release(&source)
        if status != MXN_OK:
            raise MemoryError
        return out

    cdef Scratch *take(self, size_t needed) noexcept nogil:
        """Scratch memory whose payload, `needed` bytes, starts 64 bytes in."""
        cdef Scratch *scratch = <Scratch *>mxn_pool_take(&self.scratches)
        if scratch != NULL and scratch.bytes < needed + 64:
            free(scratch)
            scratch = NULL
        if scratch == NULL:
            scratch = <Scratch *>allocate_aligned(needed + 64)
            if scratch != NULL:
                scratch.bytes = needed + 64
        return scratch

    cdef int run(self, Py_buffer *source, Py_buffer *target, str color, mxn_box box) except -1:
        cdef mxn_image image
        cdef mxn_status status
        cdef Scratch *scratch
        cdef size_t needed
        cdef int size = <int>target.shape[0] if target.ndim == 2 else 0
        describe(source, color, &image)
        if target.format[0] != b"B" or target.format[1] != 0:
            raise TypeError("out must be uint8")
        if target.ndim != 2 or target.shape[1] != size:
            raise ValueError("out must be size × size")
        needed = mxn_crop_scratch_bytes(box, size)
        if needed == 0:
            raise ValueError(f"box ({box.x}, {box.y}, {box.width}, {box.height}) or output size {size} is out of range")
        with nogil:
            scratch = self.take(needed)
            if scratch == NULL:
                status = MXN_ERROR_MEMORY
            else:
                status = mxn_crop_gray(
                    self.backend, &image, box, size, <uint8_t *>target.buf, <char *>scratch + 64, scratch.bytes - 64
                )
                free(mxn_pool_give(&self.scratches, scratch))
        if status == MXN_ERROR_MEMORY:
            raise MemoryError
        if status != MXN_OK:
            raise ValueError("frame or box is out of range")
        return 0


def standardise(face):
    """face: writable C-contiguous uint8, size × size, at most 1024; changed in place."""
    cdef Py_buffer view
    PyObject_GetBuffer(face, &view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | PyBUF_WRITABLE)
    try:
        if view.format[0] != b"B" or view.format[1] != 0:
            raise TypeError("face must be uint8")
        with nogil:
            mxn_standardise(<uint8_t *>view.buf, <int>view.len)
    finally:
        PyBuffer_Release(&view)


def softmax(logits, out):
    """Along the last axis. Both C-contiguous float32 of the same shape, which has no 0 at its end; out is written."""
    cdef Py_buffer source, target
    PyObject_GetBuffer(logits, &source, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)
    try:
        PyObject_GetBuffer(out, &target, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | PyBUF_WRITABLE)
        try:
            if source.format[0] != b"f" or target.format[0] != b"f" or source.len != target.len:
                raise TypeError("logits and out must be float32 of the same size")
            if source.ndim == 0 or source.shape[source.ndim - 1] == 0:
                raise ValueError("logits must have at least one class")
            mxn_softmax(
                <const float *>source.buf, <int>source.shape[source.ndim - 1],
                source.len // 4 // source.shape[source.ndim - 1], <float *>target.buf
            )
        finally:
            PyBuffer_Release(&target)
    finally:
        PyBuffer_Release(&source)


cdef class _DetectorTensors:
    """Buffers of the detector's tensors, held while C reads them."""

    cdef Py_buffer views[80]
    cdef int held
    cdef mxn_detector_weights weights

    def __cinit__(self, tensors):
        cdef int i, inputs, outputs
        self.held = 0
        names = [level + str(i) for level in "abc" for i in range(3)] + ["head4", "head8", "head16"]
        self.weights.stem_weight = self.take(tensors, "stem.weight", (3, 3, 16))
        self.weights.stem_bias = self.take(tensors, "stem.bias", (16,))
        for i in range(MXN_DETECTOR_UNITS):
            inputs = 16 if i == 0 else 32 if i in (1, 2, 3, 9) else 64
            outputs = 32 if i in (0, 1, 2, 9) else 64
            self.weights.unit[i].depthwise = self.take(tensors, f"{names[i]}.depthwise", (3, 3, inputs))
            self.weights.unit[i].pointwise = self.take(tensors, f"{names[i]}.pointwise", (inputs, outputs))
            self.weights.unit[i].bias = self.take(tensors, f"{names[i]}.bias", (outputs,))
        self.weights.lateral_weight = self.take(tensors, "lateral.weight", (64, 32))
        self.weights.lateral_bias = self.take(tensors, "lateral.bias", (32,))
        for i in range(MXN_DETECTOR_LEVELS):
            inputs = 32 if i == 0 else 64
            self.weights.out[i].weight = self.take(tensors, f"out{4 << i}.weight", (inputs, 5))
            self.weights.out[i].bias = self.take(tensors, f"out{4 << i}.bias", (5,))
        self.weights.refiner_stem_weight = self.take(tensors, "refine.stem.weight", (3, 3, 16))
        self.weights.refiner_stem_bias = self.take(tensors, "refine.stem.bias", (16,))
        for i in range(MXN_REFINER_UNITS):
            inputs = 16 if i == 0 else 32 if i == 1 else 64
            outputs = 32 if i == 0 else 64
            self.weights.refiner_unit[i].depthwise = self.take(tensors, f"refine{i}.depthwise", (3, 3, inputs))
            self.weights.refiner_unit[i].pointwise = self.take(tensors, f"refine{i}.pointwise", (inputs, outputs))
            self.weights.refiner_unit[i].bias = self.take(tensors, f"refine{i}.bias", (outputs,))
        self.weights.refiner_out.weight = self.take(tensors, "refine.out.weight", (MXN_REFINER_FLAT, 5))
        self.weights.refiner_out.bias = self.take(tensors, "refine.out.bias", (5,))

    cdef const float *take(self, tensors, str name, tuple shape) except NULL:
        cdef Py_buffer *view = &self.views[self.held]
        if name not in tensors:
            raise ValueError(f"tensor {name!r} is missing")
        PyObject_GetBuffer(tensors[name], view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)
        self.held += 1
        if view.format[0] != b"f" or view.format[1] != 0:
            raise ValueError(f"tensor {name!r} must be native float32")
        if tuple([view.shape[i] for i in range(view.ndim)]) != shape:
            raise ValueError(f"tensor {name!r} must have shape {shape}")
        return <const float *>view.buf

    def __dealloc__(self):
        cdef int i
        for i in range(self.held):
            PyBuffer_Release(&self.views[i])


cdef class DetectorNetwork:
    """The packed face detector of one backend with workspaces for the threads that use it."""

    cdef mxn_detector *detector
    cdef mxn_pool workspaces
    cdef readonly str isa

    def __cinit__(self, tensors, isa=None):
        """tensors: float32 arrays, named and shaped as weights.detector_shapes says, all finite."""
        cdef const mxn_backend *backend = resolve(isa)
        cdef _DetectorTensors held = _DetectorTensors(tensors)
        if mxn_detector_new(&self.detector, &held.weights, backend) != MXN_OK:
            raise MemoryError
        self.isa = mxn_backend_name(backend).decode()

    def __dealloc__(self):
        cdef void *workspace = mxn_pool_take(&self.workspaces)
        while workspace != NULL:
            mxn_detector_workspace_free(<mxn_detector_workspace *>workspace)
            workspace = mxn_pool_take(&self.workspaces)
        mxn_detector_free(self.detector)

    cdef mxn_detector_workspace *take(self) noexcept nogil:
        cdef void *workspace = mxn_pool_take(&self.workspaces)
        return <mxn_detector_workspace *>workspace if workspace != NULL else mxn_detector_workspace_new()

    cdef void give(self, mxn_detector_workspace *workspace) noexcept nogil:
        mxn_detector_workspace_free(<mxn_detector_workspace *>mxn_pool_give(&self.workspaces, workspace))

    def detect(self, frame, str color, double min_face, float score_threshold, int max_faces):
        """A list of (x, y, width, height, score, x, y and side of the square), the surest first.

        frame: as for Cropper.crop; max_faces: 1 or more.
        """
        cdef Py_buffer source
        cdef mxn_image image
        cdef mxn_detection[FACES_MAX] found
        cdef mxn_box square
        cdef int i, count
        PyObject_GetBuffer(frame, &source, PyBUF_STRIDES | PyBUF_FORMAT)
        try:
            describe(&source, color, &image)
            count = self.find(&image, min_face, score_threshold, max_faces, found)
        finally:
            PyBuffer_Release(&source)
        boxes = []
        for i in range(count):
            square = mxn_face_square(&found[i], MXN_FACE_SCALE)
            boxes.append((found[i].x, found[i].y, found[i].width, found[i].height, found[i].score, square.x, square.y, square.width))
        return boxes

    cdef int find(
        self, const mxn_image *image, double min_face, float score_threshold, int max_faces, mxn_detection *found
    ) except -1:
        """Writes up to FACES_MAX faces, the surest first, and returns how many."""
        cdef mxn_detect_options options = mxn_detect_options(min_face, score_threshold, min(max_faces, FACES_MAX))
        cdef mxn_detector_workspace *workspace
        cdef mxn_status status = MXN_ERROR_MEMORY
        cdef int count = 0
        with nogil:
            workspace = self.take()
            if workspace != NULL:
                status = mxn_detect(self.detector, workspace, image, &options, found, &count)
                self.give(workspace)
        if status == MXN_ERROR_MEMORY:
            raise MemoryError
        if status != MXN_OK:
            raise ValueError(f"min_face {min_face}, score_threshold {score_threshold} or max_faces {max_faces} is out of range")
        return count

    def answers(self, gray):
        """What the network says of every cell: float32, cells × 5. gray: C-contiguous uint8, height × width."""
        cdef Py_buffer source, target
        cdef mxn_status status
        cdef mxn_detector_workspace *workspace
        PyObject_GetBuffer(gray, &source, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)
        try:
            if source.ndim != 2 or source.format[0] != b"B" or source.format[1] != 0:
                raise TypeError("gray must be uint8, height × width")
            if not (0 < source.shape[0] < 65536 and 0 < source.shape[1] < 65536):
                raise ValueError("sides must be 1 to 65535 pixels")
            out = empty((mxn_detector_cells(source.shape[1], source.shape[0]), MXN_DETECTOR_ANSWERS), float32)
            PyObject_GetBuffer(out, &target, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | PyBUF_WRITABLE)
            try:
                with nogil:
                    workspace = self.take()
                    if workspace == NULL:
                        status = MXN_ERROR_MEMORY
                    else:
                        status = mxn_detector_answers(
                            self.detector, workspace, <const uint8_t *>source.buf, <int>source.shape[1],
                            <int>source.shape[0], <float *>target.buf
                        )
                        self.give(workspace)
            finally:
                PyBuffer_Release(&target)
        finally:
            PyBuffer_Release(&source)
        if status != MXN_OK:
            raise MemoryError
        return out

    def refiner_answers(self, pixels):
        """What the second look says: five floats. pixels: C-contiguous uint8, 48 × 48, standardised."""
        cdef Py_buffer source
        cdef float[5] said
        cdef mxn_detector_workspace *workspace
        PyObject_GetBuffer(pixels, &source, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)
        try:
            if source.format[0] != b"B" or source.format[1] != 0 or source.len != MXN_REFINER_PIXELS:
                raise ValueError("pixels must be uint8, 48 × 48")
            workspace = self.take()
            if workspace == NULL:
                raise MemoryError
            mxn_refiner_answers(self.detector, workspace, <const uint8_t *>source.buf, said)
            self.give(workspace)
        finally:
            PyBuffer_Release(&source)
        return [said[i] for i in range(5)]


cdef class Pipeline:
    """Frame -> the expressions of its faces in one call. What it does would also be a dozen Python calls, which take a tenth
    of the time when the interpreter's own code has left the caches."""

    cdef DetectorNetwork detector
    cdef Cropper cropper
    cdef Network network
    cdef bint standardise
    cdef double min_face
    cdef float score_threshold
    cdef int max_faces
    cdef tuple labels

    def __init__(self, DetectorNetwork detector, Cropper cropper, Network network, bint standardise, tuple labels, options):
        """standardise: faces before the network sees them. labels: of its classes. options: as for DetectorNetwork.detect."""
        if len(labels) != network.classes:
            raise ValueError(f"{len(labels)} labels for {network.classes} classes")
        self.detector, self.cropper, self.network, self.standardise = detector, cropper, network, standardise
        self.labels = labels
        self.min_face, self.score_threshold, self.max_faces = options

    def run(self, frame, str color):
        """A list, the largest face first, of: box inside the frame (x, y, width, height in whole pixels), label, its
        probability, a dict of all probabilities, logits, score of the detector. frame: as for Cropper.crop."""
        cdef Py_buffer source, target
        cdef mxn_image image
        cdef mxn_detection[FACES_MAX] found
        cdef int classes = self.network.classes
        cdef int i, k, best, count
        cdef float *row
        cdef float[MXN_CLASSES_MAX] probabilities
        PyObject_GetBuffer(frame, &source, PyBUF_STRIDES | PyBUF_FORMAT)
        try:
            describe(&source, color, &image)
            count = self.detector.find(&image, self.min_face, self.score_threshold, self.max_faces, found)
            if count == 0:
                return []
            largest_first(found, count)
            logits = empty((count, classes), float32)
            PyObject_GetBuffer(logits, &target, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | PyBUF_WRITABLE)
            try:
                self.look_at(&image, found, count, <float *>target.buf)
                faces = []
                for i in range(count):
                    row = <float *>target.buf + i * classes
                    mxn_softmax(row, classes, 1, probabilities)
                    best = 0
                    by_label = {}
                    for k in range(classes):
                        by_label[self.labels[k]] = probabilities[k]
                        if probabilities[k] > probabilities[best]:
                            best = k
                    faces.append(
                        (inside(&image, &found[i]), self.labels[best], probabilities[best], by_label, logits[i], found[i].score)
                    )
            finally:
                PyBuffer_Release(&target)
        finally:
            PyBuffer_Release(&source)
        return faces

    cdef int look_at(self, const mxn_image *image, const mxn_detection *found, int count, float *logits) except -1:
        """Crops and classifies the faces."""
        cdef mxn_box square
        cdef Scratch *scratch
        cdef uint8_t *crops
        cdef mxn_status status = MXN_OK
        cdef size_t needed = 0
        cdef int i
        for i in range(count):
            square = mxn_face_square(&found[i], MXN_FACE_SCALE)
            needed = max(needed, mxn_crop_scratch_bytes(square, FACE_SIZE))
        with nogil:
            scratch = self.cropper.take(needed + count * FACE_PIXELS)
            if scratch == NULL:
                status = MXN_ERROR_MEMORY
            else:
                crops = <uint8_t *>scratch + 64 + needed
                for i in range(count):
                    square = mxn_face_square(&found[i], MXN_FACE_SCALE)
                    status = mxn_crop_gray(
                        self.cropper.backend, image, square, FACE_SIZE, crops + i * FACE_PIXELS, <char *>scratch + 64, needed
                    )
                    if status != MXN_OK:
                        break
                    if self.standardise:
                        mxn_standardise(crops + i * FACE_PIXELS, FACE_PIXELS)
                if status == MXN_OK:
                    status = self.network.classify(True, crops, count, logits)
                free(mxn_pool_give(&self.cropper.scratches, scratch))
        if status == MXN_ERROR_MEMORY:
            raise MemoryError
        if status != MXN_OK:
            raise ValueError("a face is too large to be cropped")
        return 0


cdef void largest_first(mxn_detection *found, int count) noexcept:
    """By the area of their boxes; those that are alike stay in their order."""
    cdef mxn_detection face
    cdef int i, j
    for i in range(1, count):
        face = found[i]
        j = i
        while j > 0 and <double>found[j - 1].width * found[j - 1].height < <double>face.width * face.height:
            found[j] = found[j - 1]
            j -= 1
        found[j] = face


cdef tuple inside(const mxn_image *image, const mxn_detection *face):
    """The part of a box that lies inside the frame, in whole pixels; at least one pixel."""
    cdef int left, top, right, bottom
    left = <int>min(max(rint(face.x), 0), image.width - 1)
    top = <int>min(max(rint(face.y), 0), image.height - 1)
    right = <int>min(max(rint(<double>face.x + face.width), left + 1), image.width)
    bottom = <int>min(max(rint(<double>face.y + face.height), top + 1), image.height)
    return left, top, right - left, bottom - top


def face_square(double x, double y, double width, double height, double scale):
    """x, y and side of the square for a face's box; scale: of its side, in units of the box's mean side."""
    cdef mxn_detection face = mxn_detection(x, y, width, height, 0)
    cdef mxn_box square = mxn_face_square(&face, scale)
    return square.x, square.y, square.width


def detector_size(int width, int height, double min_face):
    """Width and height to which the detector reduces a frame."""
    cdef mxn_image image
    cdef int to_width, to_height
    image.width, image.height = width, height
    if mxn_detector_size(&image, min_face, &to_width, &to_height) != MXN_OK:
        raise ValueError(f"width {width}, height {height} or min_face {min_face} is out of range")
    return to_width, to_height
