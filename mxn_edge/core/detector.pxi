# The face detector: frame -> boxes. Over mxn.pxi and pictures.pxi.

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
