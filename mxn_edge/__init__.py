"""Facial expression recognition on a plain CPU.

    from mxn_edge import Recognizer
    for face in Recognizer().predict(frame):
        print(face.box, face.expression, face.confidence)

Importing this does no work: each public name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mxn_edge._core import available_isas as available_isas
    from mxn_edge.detector import Box as Box
    from mxn_edge.detector import Detector as Detector
    from mxn_edge.detector import DetectorUnavailableError as DetectorUnavailableError
    from mxn_edge.detector import YuNetDetector as YuNetDetector
    from mxn_edge.recognizer import Face as Face
    from mxn_edge.recognizer import Recognizer as Recognizer
    from mxn_edge.student import Student as Student
    from mxn_edge.student import active_isa as active_isa
    from mxn_edge.weights import WeightFileError as WeightFileError

__version__ = "0.1.0"

_HOME = {
    "Box": "detector",
    "Detector": "detector",
    "DetectorUnavailableError": "detector",
    "Face": "recognizer",
    "Recognizer": "recognizer",
    "Student": "student",
    "WeightFileError": "weights",
    "YuNetDetector": "detector",
    "active_isa": "student",
    "available_isas": "_core",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_HOME]
