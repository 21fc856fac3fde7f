from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

def available_isas() -> tuple[str, ...]: ...
def resolve_isa(isa: str | None = None) -> str: ...
def reference_logits(
    architecture: str, tensors: Mapping[str, NDArray[np.float32]], face: NDArray[np.float32], out: NDArray[np.float64]
) -> None: ...

class Network:
    @property
    def isa(self) -> str: ...
    @property
    def algorithm(self) -> Literal["direct", "toom-cook"]: ...
    @property
    def classes(self) -> int: ...
    def __init__(
        self,
        architecture: str,
        tensors: Mapping[str, NDArray[np.float32]],
        isa: str | None = None,
        algorithm: Literal["direct", "toom-cook"] | None = None,
    ) -> None: ...
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
