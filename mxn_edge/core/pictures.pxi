# Frames -> grey pictures: crops, reduced frames, standard light. Over mxn.pxi.

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
        self.run(frame, color, mxn_box(x, y, width, height), True, 0, False, out)

    def views(self, frame, str color, double x, double y, double width, double height, int views, bint standardise, out):
        """What a student is shown of a face. frame: as for crop; out: writable C-contiguous uint8, views × 84 × 84."""
        self.run(frame, color, mxn_box(x, y, width, height), False, views, standardise, out)

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

    cdef int run(self, frame, str color, mxn_box box, bint plain, int views, bint standardise, out) except -1:
        """plain: the box as it is, at the size of out; otherwise views of it."""
        cdef Py_buffer source, target
        cdef mxn_image image
        cdef mxn_status status = MXN_ERROR_MEMORY
        cdef Scratch *scratch
        cdef size_t needed
        cdef int size
        PyObject_GetBuffer(frame, &source, PyBUF_STRIDES | PyBUF_FORMAT)
        try:
            describe(&source, color, &image)
            PyObject_GetBuffer(out, &target, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | PyBUF_WRITABLE)
            try:
                if target.format[0] != b"B" or target.format[1] != 0:
                    raise TypeError("out must be uint8")
                if plain:
                    size = <int>target.shape[0] if target.ndim == 2 else 0
                    if target.ndim != 2 or target.shape[1] != size:
                        raise ValueError("out must be size × size")
                    needed = mxn_crop_scratch_bytes(box, size)
                else:
                    size = FACE_SIZE
                    if target.len != <Py_ssize_t>views * FACE_PIXELS:
                        raise ValueError(f"out has {target.len} pixels; expected {views} × 84 × 84")
                    needed = mxn_views_scratch_bytes(box, views)
                if needed == 0:
                    what = f"output size {size}" if plain else f"number of views {views}"
                    raise ValueError(f"box ({box.x}, {box.y}, {box.width}, {box.height}) or {what} is out of range")
                with nogil:
                    scratch = self.take(needed)
                    if scratch != NULL:
                        if plain:
                            status = mxn_crop_gray(
                                self.backend, &image, box, size, <uint8_t *>target.buf, <char *>scratch + 64, needed
                            )
                        else:
                            status = mxn_views_gray(
                                self.backend, &image, box, views, standardise, <uint8_t *>target.buf,
                                <char *>scratch + 64, needed
                            )
                        free(mxn_pool_give(&self.scratches, scratch))
            finally:
                PyBuffer_Release(&target)
        finally:
            PyBuffer_Release(&source)
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
