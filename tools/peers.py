"""Other engines that run the same network, one thread each: how each is loaded, fed and called.

Every engine is optional: its package is imported where it is built. Imports numpy, mxn_edge.weights and
tools.peer_models; mxn_edge.onnx_model where a model is handed over as ONNX.
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mxn_edge.weights import INPUT_SIZE, Weights
from tools.peer_models import ncnn_model, network_layers, tflite_model, tflite_ranges

Face = NDArray[np.uint8]


@dataclass(frozen=True)
class Engine:
    """A loaded network.

    Attributes:
        version: of the package.
        prepare: grey face (84, 84) -> what `run` takes; not timed, which is generous to an engine that needs it.
        run: one call from the user's input to logits that the user can read; timed.
    """

    version: str
    prepare: Callable[[Face], Any]
    run: Callable[[Any], Any]


@dataclass(frozen=True)
class Peer:
    """An engine that may not be installed.

    Attributes:
        key: its name on the command line.
        name: its name in tables.
        precision: "float32" or "int8".
        packages: what pip installs for it.
        build: loads the network; the faces are for calibration. Raises `ImportError` when a package is missing.
    """

    key: str
    name: str
    precision: str
    packages: str
    build: Callable[[Weights, NDArray[np.uint8]], Engine]


def _nchw(face: Face) -> NDArray[np.float32]:
    return face.astype(np.float32)[None, None]


def _onnx(weights: Weights) -> Any:
    """The network as an ONNX model with batch 1: fixed shapes are what every engine likes best."""
    model = import_module("mxn_edge.onnx_model").build_model(weights)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    return model


# ---- ONNX Runtime ---------------------------------------------------------------------------------------------------


def _onnx_runtime(model: bytes) -> Engine:
    runtime = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return Engine(runtime.__version__, lambda face: {"faces": _nchw(face)}, lambda x: session.run(["logits"], x)[0])


def onnx_runtime(weights: Weights, _: NDArray[np.uint8]) -> Engine:
    """ONNX Runtime, float32."""
    return _onnx_runtime(_onnx(weights).SerializeToString())


def onnx_runtime_int8(weights: Weights, calibration: NDArray[np.uint8]) -> Engine:
    """ONNX Runtime, its own static quantisation: QDQ, signed, per channel, ranges from the calibration faces."""
    quantization = import_module("onnxruntime.quantization")
    preprocess = import_module("onnxruntime.quantization.shape_inference").quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self._inputs: Iterator[Any] = ({"faces": _nchw(face)} for face in calibration)

        def get_next(self) -> Any:
            return next(self._inputs, None)

    with tempfile.TemporaryDirectory() as folder:
        plain, prepared, quantised = (Path(folder) / f"{name}.onnx" for name in ("plain", "prepared", "quantised"))
        plain.write_bytes(_onnx(weights).SerializeToString())
        preprocess(plain, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            quantised,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            reduce_range=_saturates(),
        )
        return _onnx_runtime(quantised.read_bytes())


def _saturates() -> bool:
    """Whether sums of two 8-bit products saturate: x86 without VNNI. ONNX Runtime advises 7-bit weights there."""
    return platform.machine() == "x86_64" and "vnni" not in Path("/proc/cpuinfo").read_text()


# ---- LiteRT ---------------------------------------------------------------------------------------------------------


def _litert(model: bytes, prepare: Callable[[Face], Any]) -> Engine:
    """With the delegate XNNPACK, as LiteRT does by itself, or without, whichever is faster on this machine.

    XNNPACK's int8 convolutions may be the slower ones where the CPU has no dot product of 8-bit numbers.
    """
    module = import_module("ai_edge_litert.interpreter")
    resolvers = module.OpResolverType.AUTO, module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    face = prepare(np.full((INPUT_SIZE, INPUT_SIZE), 127, np.uint8))
    return min((_litert_with(module, model, prepare, resolver) for resolver in resolvers), key=partial(_seconds, face))


def _litert_with(module: Any, model: bytes, prepare: Callable[[Face], Any], resolver: Any) -> Engine:
    interpreter = module.Interpreter(model_content=model, num_threads=1, experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    faces, logits = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run(x: Any) -> Any:
        interpreter.set_tensor(faces, x)
        interpreter.invoke()
        return interpreter.get_tensor(logits)

    return Engine(version("ai-edge-litert"), prepare, run)


def _seconds(face: Any, engine: Engine) -> float:
    """The best of some calls."""
    times = []
    for _ in range(20):
        start = perf_counter()
        engine.run(face)
        times.append(perf_counter() - start)
    return min(times)


def litert(weights: Weights, _: NDArray[np.uint8]) -> Engine:
    """LiteRT, float32."""
    return _litert(tflite_model(weights), lambda face: face.astype(np.float32)[None, :, :, None])


def litert_int8(weights: Weights, calibration: NDArray[np.uint8]) -> Engine:
    """LiteRT, int8; ranges from the calibration faces."""
    model = tflite_model(weights, tflite_ranges(weights, calibration))
    return _litert(model, lambda face: (face.astype(np.int16) - 128).astype(np.int8)[None, :, :, None])


# ---- The others -----------------------------------------------------------------------------------------------------


def openvino(weights: Weights, _: NDArray[np.uint8]) -> Engine:
    """OpenVINO, float32, from ONNX."""
    ov = import_module("openvino")
    core = ov.Core()
    settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    model = core.read_model(_onnx(weights).SerializeToString())
    request = core.compile_model(model, "CPU", settings).create_infer_request()

    def run(x: Any) -> Any:
        request.set_input_tensor(x)
        request.infer()
        return request.get_output_tensor().data

    return Engine(version("openvino"), lambda face: ov.Tensor(_nchw(face), shared_memory=False), run)


def ncnn(weights: Weights, _: NDArray[np.uint8]) -> Engine:
    """Tencent's ncnn, float32."""
    module = import_module("ncnn")
    net = module.Net()
    net.opt.num_threads = 1
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    text, binary = ncnn_model(weights)
    with tempfile.TemporaryDirectory() as folder:
        param, data = Path(folder) / "net.param", Path(folder) / "net.bin"
        param.write_text(text)
        data.write_bytes(binary)
        if net.load_param(str(param)) != 0 or net.load_model(str(data)) != 0:
            raise RuntimeError("ncnn does not load the model")
    logits = network_layers(weights)[-1].name

    def run(x: Any) -> Any:
        extractor = net.create_extractor()
        extractor.input("faces", x)
        return np.array(extractor.extract(logits)[1])

    def prepare(face: Face) -> Any:
        # A Mat is a view that does not keep the array alive; its clone owns its values.
        values = face.astype(np.float32)[None]
        return module.Mat(values).clone()

    return Engine(version("ncnn"), prepare, run)


def mnn(weights: Weights, _: NDArray[np.uint8]) -> Engine:
    """Alibaba's MNN, float32, by its own converter from ONNX."""
    module = import_module("MNN")
    # The converter itself. The command mnnconvert around it installs a package and reports its use over the network.
    convert = import_module("_tools").mnnconvert
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "net.onnx", Path(folder) / "net.mnn"
        source.write_bytes(_onnx(weights).SerializeToString())
        names = ["--modelFile", str(source), "--MNNModel", str(target), "--bizCode", "mxn"]
        convert(["mnnconvert", "-f", "ONNX", *names])
        interpreter = module.Interpreter(str(target))
    session = interpreter.createSession({"backend": "CPU", "numThread": 1, "precision": "high"})
    faces, logits = interpreter.getSessionInput(session, "faces"), interpreter.getSessionOutput(session, "logits")
    kind, order = module.Halide_Type_Float, module.Tensor_DimensionType_Caffe
    classes = len(weights.labels)
    host = module.Tensor((1, classes), kind, np.zeros((1, classes), np.float32), order)

    def prepare(face: Face) -> Any:
        return module.Tensor((1, 1, INPUT_SIZE, INPUT_SIZE), kind, _nchw(face), order)

    def run(x: Any) -> Any:
        faces.copyFrom(x)
        interpreter.runSession(session)
        logits.copyToHostTensor(host)
        return np.array(host.getNumpyData())

    return Engine(version("MNN"), prepare, run)


def opencv(weights: Weights, _: NDArray[np.uint8]) -> Engine:
    """OpenCV's DNN module, float32, from ONNX."""
    cv2 = import_module("cv2")
    cv2.setNumThreads(1)
    net = cv2.dnn.readNetFromONNX(np.frombuffer(_onnx(weights).SerializeToString(), np.uint8))

    def run(x: Any) -> Any:
        net.setInput(x)
        return net.forward()

    return Engine(cv2.__version__, _nchw, run)


PEERS = (
    Peer("onnxruntime", "ONNX Runtime", "float32", "onnx onnxruntime", onnx_runtime),
    Peer("onnxruntime-int8", "ONNX Runtime", "int8", "onnx onnxruntime", onnx_runtime_int8),
    Peer("litert", "LiteRT", "float32", "ai-edge-litert", litert),
    Peer("litert-int8", "LiteRT", "int8", "ai-edge-litert", litert_int8),
    Peer("openvino", "OpenVINO", "float32", "onnx openvino", openvino),
    Peer("ncnn", "ncnn", "float32", "ncnn", ncnn),
    Peer("mnn", "MNN", "float32", "onnx MNN", mnn),
    Peer("opencv", "OpenCV DNN", "float32", "onnx opencv-python-headless", opencv),
)
