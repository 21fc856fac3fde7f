"""Prints what mxn-edge answers on this machine, as JSON. Runs beside the installed package; argument: a frame as .npy.

With a second argument, a file of such answers, it fails where they differ.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from mxn_edge import Recognizer, Student, active_isa, available_isas

LOGITS = 1e-4


def answers(frame: np.ndarray) -> dict[str, Any]:
    """Logits of fixed faces on every instruction set, in both precisions, and the faces of the frame."""
    noise = np.random.default_rng(1).integers(0, 256, (4, 84, 84), dtype=np.uint8)
    smooth = np.add.outer(np.arange(84), np.arange(84)).astype(np.uint8)
    faces = np.concatenate([noise, smooth[None]])
    return {
        "isa": active_isa(),
        "isas": list(available_isas()),
        "logits": {
            f"{precision} {isa}": Student.load(precision=precision, isa=isa).logits(faces).tolist()
            for precision in ("float32", "int8")
            for isa in available_isas()
        },
        # Which precision is faster differs from machine to machine.
        "faces": [face.to_dict() for face in Recognizer(precision="float32").predict(frame)],
    }


def differences(here: dict[str, Any], there: dict[str, Any]) -> float:
    """The largest difference between two machines' logits; `AssertionError` when it or anything else is too large."""
    largest = 0.0
    for precision in ("float32", "int8"):
        expected = [np.array(there["logits"][key]) for key in there["logits"] if key.startswith(precision)]
        for key, logits in here["logits"].items():
            if key.startswith(precision):
                largest = max(largest, *(float(np.abs(np.array(logits) - other).max()) for other in expected))
                assert precision == "float32" or all(np.array_equal(logits, other) for other in expected), key
    assert len(here["faces"]) == len(there["faces"]) > 0
    for face, other in zip(here["faces"], there["faces"], strict=True):
        assert face["expression"] == other["expression"]
        assert np.abs(np.subtract(face["box"], other["box"])).max() <= 1
        largest = max(largest, float(np.abs(np.subtract(face["logits"], other["logits"])).max()))
    assert largest <= LOGITS, largest
    return largest


if __name__ == "__main__":
    here = answers(np.load(sys.argv[1]))
    if len(sys.argv) == 2:
        print(json.dumps(here))
    else:
        largest = differences(here, json.loads(Path(sys.argv[2]).read_text()))
        face = here["faces"][0]
        print(f"{', '.join(here['isas'])}: logits within {largest:.1e}; {face['expression']} {face['confidence']:.1%}")
