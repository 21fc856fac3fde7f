# Frame -> expressions in one call. Over all the others.

cdef class Pipeline:
    """Frame -> the expressions of its faces in one call. What it does would also be a dozen Python calls, which take a tenth
    of the time when the interpreter's own code has left the caches."""

    cdef DetectorNetwork detector
    cdef Cropper cropper
    cdef Network network
    cdef bint standardise
    cdef int views
    cdef double min_face
    cdef float score_threshold
    cdef int max_faces
    cdef tuple labels

    def __cinit__(
        self, DetectorNetwork detector not None, Cropper cropper not None, Network network not None, bint standardise,
        int views, tuple labels not None, options
    ):
        """standardise, views: of faces, as for Cropper.views. labels: of the network's classes. options: as for
        DetectorNetwork.detect."""
        if len(labels) != network.classes:
            raise ValueError(f"{len(labels)} labels for {network.classes} classes")
        if mxn_views_scratch_bytes(mxn_box(0, 0, 1, 1), views) == 0:
            raise ValueError(f"views is {views}")
        self.detector, self.cropper, self.network = detector, cropper, network
        self.standardise, self.views, self.labels = standardise, views, labels
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
        cdef float *answers
        cdef mxn_status status = MXN_OK
        cdef size_t needed = 0
        cdef size_t row = self.views * self.network.classes
        cdef int i
        for i in range(count):
            square = mxn_face_square(&found[i], MXN_FACE_SCALE)
            needed = max(needed, mxn_views_scratch_bytes(square, self.views))
        with nogil:
            scratch = self.cropper.take(needed + count * (self.views * FACE_PIXELS + row * sizeof(float)))
            if scratch == NULL:
                status = MXN_ERROR_MEMORY
            else:
                crops = <uint8_t *>scratch + 64 + needed
                answers = <float *>(crops + count * self.views * FACE_PIXELS)
                for i in range(count):
                    square = mxn_face_square(&found[i], MXN_FACE_SCALE)
                    status = mxn_views_gray(
                        self.cropper.backend, image, square, self.views, self.standardise,
                        crops + i * self.views * FACE_PIXELS, <char *>scratch + 64, needed
                    )
                    if status != MXN_OK:
                        break
                if status == MXN_OK:
                    status = self.network.classify(True, crops, count * self.views, answers)
                if status == MXN_OK:
                    mxn_mean_logits(answers, self.network.classes, count, self.views, logits)
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
