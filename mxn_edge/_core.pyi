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
    def views(
        self,
        frame: NDArray[np.uint8],
        color: str,
        x: float,
        y: float,
        width: float,
        height: float,
        views: int,
        standardise: bool,
        out: NDArray[np.uint8],
    ) -> None: ...
    def reduce(self, frame: NDArray[np.uint8], color: str, width: int, height: int) -> NDArray[np.uint8]: ...

def standardise(face: NDArray[np.uint8]) -> None: ...
def softmax(logits: NDArray[np.float32], out: NDArray[np.float32]) -> None: ...
def face_square(x: float, y: float, width: float, height: float, scale: float) -> tuple[float, float, float]: ...
def detector_size(width: int, height: int, min_face: float) -> tuple[int, int]: ...

class DetectorNetwork:
    isa: str
    def __init__(self, tensors: Mapping[str, NDArray[np.float32]], isa: str | None = None) -> None: ...
    def detect(
        self, frame: NDArray[np.uint8], color: str, min_face: float, score_threshold: float, max_faces: int
    ) -> list[tuple[float, float, float, float, float, float, float, float]]: ...
    def answers(self, gray: NDArray[np.uint8]) -> NDArray[np.float32]: ...
    def refiner_answers(self, pixels: NDArray[np.uint8]) -> list[float]: ...

class Pipeline:
    def __init__(
        self,
        detector: DetectorNetwork,
        cropper: Cropper,
        network: Network,
        standardise: bool,
        views: int,
        labels: tuple[str, ...],
        options: tuple[float, float, int],
    ) -> None: ...
    def run(
        self, frame: NDArray[np.uint8], color: str
    ) -> list[tuple[tuple[int, int, int, int], str, float, dict[str, float], NDArray[np.float32], float]]: ...
