# The student: 84 × 84 grey faces -> logits and probabilities. Over mxn.pxi.

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
    cdef tuple one_answer # its shape

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
        self.one_answer = (self.classes,)

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
        cdef tuple shape
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
                shape = self.one_answer if last == 1 else (source.shape[0], self.classes)
                out = call(empty, <void *>shape, <void *>float32, NULL)
                PyObject_GetBuffer(out, &target, PyBUF_WRITABLE)
                try:
                    self.run(&source, <float *>target.buf)
                    return out
                finally:
                    PyBuffer_Release(&target)
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
                self.run(&source, <float *>target.buf)
                return out
            finally:
                PyBuffer_Release(&target)
        finally:
            PyBuffer_Release(&source)

    def logits(self, faces, out):
        """faces: C-contiguous uint8 or float32, n × 84 × 84; out: writable C-contiguous float32, n × classes."""
        cdef Py_buffer source, target
        cdef Py_ssize_t count
        PyObject_GetBuffer(faces, &source, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)
        try:
            count = source.len // (FACE_PIXELS * source.itemsize)
            PyObject_GetBuffer(out, &target, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | PyBUF_WRITABLE)
            try:
                if target.format[0] != b"f" or target.format[1] != 0:
                    raise TypeError("out must be native float32")
                if target.len != count * self.classes * <Py_ssize_t>sizeof(float):
                    raise ValueError(f"out must be n × {self.classes} for n faces")
                self.run(&source, <float *>target.buf)
            finally:
                PyBuffer_Release(&target)
        finally:
            PyBuffer_Release(&source)

    cdef int run(self, Py_buffer *source, float *logits) except -1:
        cdef bint bytes_in = source.format[0] == b"B"
        cdef Py_ssize_t count = source.len // (FACE_PIXELS * source.itemsize)
        cdef mxn_status status
        if source.format[1] != 0 or not (bytes_in or source.format[0] == b"f"):
            raise TypeError("faces must be uint8 or native float32")
        if source.len != count * FACE_PIXELS * source.itemsize:
            raise ValueError("faces must be n × 84 × 84")
        with nogil:
            status = self.classify(bytes_in, source.buf, count, logits)
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
