# cython: language_level=3, binding=False, embedsignature=False
"""The one door to C: buffers, errors, the GIL. No arithmetic, no policy; imports numpy, to make arrays for results.

Callers (student.py, preprocess.py) hand in arrays whose meaning they have checked; what could corrupt memory is checked
again here. One module in several files, core/*.pxi.
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


import numpy

# C variables: looking a module's globals up by name takes longer than making a small array.
cdef object empty = numpy.empty
cdef object float32 = numpy.dtype("float32")
cdef object uint8 = numpy.dtype("uint8")


include "core/mxn.pxi"

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


include "core/student.pxi"
include "core/pictures.pxi"
include "core/detector.pxi"
include "core/pipeline.pxi"
