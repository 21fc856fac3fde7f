from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

MAX_THREADS: int

def available_isas() -> tuple[str, ...]: ...
def resolve_isa(isa: str | None = None) -> str: ...
def prefers_int8(isa: str | None = None) -> bool: ...
def reference_logits(
    architecture: str, tensors: Mapping[str, NDArray[np.float32]], face: NDArray[np.float32], out: NDArray[np.float64]
) -> None: ...
def reference_logits_int8(
    architecture: str, tensors: Mapping[str, NDArray[np.float32]], face: NDArray[np.uint8], out: NDArray[np.float32]
) -> None: ...

class Network:
    @property
    def isa(self) -> str: ...
    @property
    def precision(self) -> Literal["float32", "int8"]: ...
    @property
    def algorithm(self) -> Literal["direct", "toom-cook"]: ...
    @property
    def classes(self) -> int: ...
    def __init__(
        self,
        architecture: str,
        tensors: Mapping[str, NDArray[np.float32]],
        isa: str | None = None,
        precision: Literal["float32", "int8"] = "float32",
        algorithm: Literal["direct", "toom-cook"] | None = None,
        threads: int = 1,
    ) -> None: ...
    def try_logits(self, faces: NDArray[Any], out: NDArray[np.float32] | None) -> NDArray[np.float32] | None: ...
    def logits(self, faces: NDArray[Any], out: NDArray[np.float32]) -> None: ...

class Cropper:
    isa: str
    def __init__(self, isa: str | None = None) -> None: ...
    def crop(
        self,
        frame: NDArray[np.uint8],
        color: str,
        x: float,
        y: float,
        width: float,
        height: float,
        out: NDArray[np.uint8],
    ) -> None: ...

def standardise(face: NDArray[np.uint8]) -> None: ...
