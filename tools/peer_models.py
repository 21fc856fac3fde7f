"""The network in the formats of other engines: LiteRT (float32 and int8) and ncnn.

Written directly, one operator per layer: no converter is needed, and nothing is lost or added on the way. Imports
numpy, mxn_edge.weights and, for LiteRT's format, the schema that comes with the package ai-edge-litert.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mxn_edge.weights import INPUT_SIZE, Weights

#: Smallest and largest value of each layer's output, by the layer's name.
Ranges = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Layer:
    """A layer as all formats need it.

    Attributes:
        kind: "conv", "pool" or "dense".
        name: of its parameters in the weight file; pools are "pool1" and "pool2".
        relu: whether ReLU follows.
        kernel, stride, before, after: of a convolution or a pool, with the padding that TensorFlow calls SAME.
        shape: of its output, (height, width, channels) or (features,).
    """

    kind: str
    name: str
    shape: tuple[int, ...]
    relu: bool = False
    kernel: int = 1
    stride: int = 1
    before: int = 0
    after: int = 0


def network_layers(weights: Weights) -> list[Layer]:
    """The layers from face to logits."""
    layers: list[Layer] = []
    size = INPUT_SIZE
    channels = 1

    def add(kind: str, name: str, kernel: int, stride: int) -> None:
        nonlocal size, channels
        output = -(-size // stride)
        padding = max((output - 1) * stride + kernel - size, 0)
        if kind == "conv":
            channels = weights.tensors[f"{name}.weight"].shape[-1]
        shape = (output, output, channels)
        before = padding // 2
        layers.append(Layer(kind, name, shape, kind == "conv", kernel, stride, before, padding - before))
        size = output

    pool1 = weights.architecture in ("microexpnet-p1", "microexpnet-p12")
    pool2 = weights.architecture in ("microexpnet-p2", "microexpnet-p12")
    add("conv", "conv1", 8, 2 if pool1 else 4)
    if pool1:
        add("pool", "pool1", 2, 2)
    add("conv", "conv2", 4, 2)
    if pool2:
        add("pool", "pool2", 2, 2)
    for name in ("fc1", "fc2"):
        layers.append(Layer("dense", name, weights.tensors[f"{name}.bias"].shape, relu=name == "fc1"))
    return layers


# ---- ncnn -----------------------------------------------------------------------------------------------------------


def ncnn_model(weights: Weights) -> tuple[str, bytes]:
    """The contents of a .param and a .bin file: "faces" (1, 84, 84) -> "fc2", the logits."""
    lines = [f"Input faces 0 1 faces 0={INPUT_SIZE} 1={INPUT_SIZE} 2=1"]
    binary = bytearray()
    last = "faces"
    channels = 1
    for layer in network_layers(weights):
        if layer.kind == "pool":
            # Pad mode 0 rounds up, and pads behind with what max ignores.
            operator = f"Pooling {layer.name} 1 1 {last} {layer.name} 0=0 1={layer.kernel} 2={layer.stride} 5=0"
        else:
            weight = weights.tensors[f"{layer.name}.weight"]
            if layer.kind == "conv":
                weight = weight.transpose(3, 2, 0, 1)
                kind, geometry = "Convolution", f"1={layer.kernel} 3={layer.stride} 4={layer.before} 15={layer.after}"
                geometry += f" 14={layer.before} 16={layer.after} 5=1"
            else:
                weight = _channels_first(weight, channels).T
                kind, geometry = "InnerProduct", "1=1"
            operator = f"{kind} {layer.name} 1 1 {last} {layer.name} 0={layer.shape[-1]} {geometry}"
            operator += f" {6 if layer.kind == 'conv' else 2}={weight.size} 9={int(layer.relu)}"
            binary += bytes(4)  # weights follow as float32
            binary += np.ascontiguousarray(weight, "<f4").tobytes()
            binary += weights.tensors[f"{layer.name}.bias"].astype("<f4").tobytes()
        lines.append(operator)
        last = layer.name
        channels = layer.shape[-1] if layer.kind != "dense" else 1
    return f"7767517\n{len(lines)} {len(lines)}\n" + "\n".join(lines) + "\n", bytes(binary)


def _channels_first(weight: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    """Rows in height-width-channel order -> channel-height-width."""
    rows, outputs = weight.shape
    return weight.reshape(-1, channels, outputs).transpose(1, 0, 2).reshape(rows, outputs)


# ---- LiteRT ---------------------------------------------------------------------------------------------------------


def tflite_model(weights: Weights, ranges: Ranges | None = None) -> bytes:
    """A .tflite file with batch 1: "faces" (1, 84, 84, 1) -> float32 "logits".

    Args:
        weights: the student.
        ranges: outputs of every layer that has parameters. With them the network is int8: weights symmetric per output
            channel, activations per tensor, "faces" the grey values less 128. Without them it is float32.

    Raises `ImportError` without the package ai-edge-litert.
    """
    return _Tflite(weights, ranges).pack()


class _Tflite:
    """Builds the flatbuffer: tensors and buffers are numbered in the order in which they are added."""

    def __init__(self, weights: Weights, ranges: Ranges | None) -> None:
        self._schema = schema = import_module("ai_edge_litert.schema_py_generated")
        self._int8 = ranges is not None
        self._codes: dict[tuple[int, int], int] = {}
        self._operators: list[Any] = []
        self._tensors: list[Any] = []
        self._buffers: list[Any] = [schema.BufferT()]  # number 0 is "no data"
        scale, zero = 1.0, -128  # grey values are whole numbers: nothing is lost
        last = first = self._activation("faces", (INPUT_SIZE, INPUT_SIZE, 1), scale, zero)
        for layer in network_layers(weights):
            inputs = [last]
            if layer.kind != "pool":
                weight, bias = (weights.tensors[f"{layer.name}.{part}"] for part in ("weight", "bias"))
                inputs += self._parameters(layer, weight, bias, scale)
                if ranges is not None:
                    scale, zero = _activation_scale(ranges[layer.name], relu=layer.relu)
            last = self._activation(layer.name, layer.shape, scale, zero)
            self._add(inputs, last, *self._options(layer))
        if self._int8:
            quantized = last
            last = self._activation("logits", (len(weights.labels),))
            operator = schema.BuiltinOperator.DEQUANTIZE
            self._add([quantized], last, operator, 2, schema.BuiltinOptions.NONE, None)
        self._graph = schema.SubGraphT(self._tensors, [first], [last], self._operators, weights.architecture)

    def pack(self) -> bytes:
        flatbuffers = import_module("flatbuffers")
        codes = [
            self._schema.OperatorCodeT(deprecatedBuiltinCode=operator, version=version, builtinCode=operator)
            for operator, version in self._codes
        ]
        model = self._schema.ModelT(3, codes, [self._graph], "mxn-edge", self._buffers)
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _add(self, inputs: list[int], output: int, operator: int, version: int, kind: int, options: Any) -> None:
        code = self._codes.setdefault((operator, version), len(self._codes))
        self._operators.append(
            self._schema.OperatorT(
                opcodeIndex=code, inputs=inputs, outputs=[output], builtinOptionsType=kind, builtinOptions=options
            )
        )

    def _options(self, layer: Layer) -> tuple[int, int, int, Any]:
        """Operator, its version, and its options."""
        schema = self._schema
        kinds = schema.BuiltinOptions
        function = schema.ActivationFunctionType.RELU if layer.relu else schema.ActivationFunctionType.NONE
        same = schema.Padding.SAME
        operators = schema.BuiltinOperator
        stride, kernel = layer.stride, layer.kernel
        if layer.kind == "conv":
            options = schema.Conv2DOptionsT(same, stride, stride, function)
            return operators.CONV_2D, 3 if self._int8 else 1, kinds.Conv2DOptions, options
        if layer.kind == "pool":
            options = schema.Pool2DOptionsT(same, stride, stride, kernel, kernel, function)
            return operators.MAX_POOL_2D, 2 if self._int8 else 1, kinds.Pool2DOptions, options
        # Flattens its input by itself, in the order that our weights have.
        options = schema.FullyConnectedOptionsT(function)
        return operators.FULLY_CONNECTED, 4 if self._int8 else 1, kinds.FullyConnectedOptions, options

    def _parameters(
        self, layer: Layer, weight: NDArray[np.float32], bias: NDArray[np.float32], input_scale: float
    ) -> tuple[int, int]:
        weight = weight.transpose(3, 0, 1, 2) if layer.kind == "conv" else weight.T
        if not self._int8:
            return self._constant(f"{layer.name}.weight", weight), self._constant(f"{layer.name}.bias", bias)
        axes = tuple(range(1, weight.ndim))
        scales = np.maximum(np.abs(weight).max(axis=axes), 1e-12) / 127
        rounded = np.rint(weight / scales.reshape(-1, *[1] * len(axes))).astype(np.int8)
        biases = np.rint(bias / (input_scale * scales)).astype(np.int32)
        return (
            self._constant(f"{layer.name}.weight", rounded, scales),
            self._constant(f"{layer.name}.bias", biases, input_scale * scales),
        )

    def _constant(self, name: str, values: NDArray[Any], scales: NDArray[np.floating] | None = None) -> int:
        little_endian = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
        self._buffers.append(self._schema.BufferT(np.frombuffer(little_endian.tobytes(), np.uint8)))
        zeros = None if scales is None else [0] * len(scales)
        return self._tensor(name, values.shape, values.dtype, len(self._buffers) - 1, scales, zeros)

    def _activation(self, name: str, shape: tuple[int, ...], scale: float | None = None, zero: int = 0) -> int:
        if not self._int8 or scale is None:
            return self._tensor(name, (1, *shape), np.dtype(np.float32), 0)
        return self._tensor(name, (1, *shape), np.dtype(np.int8), 0, [scale], [zero])

    def _tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        buffer: int,
        scales: Any = None,
        zeros: list[int] | None = None,
    ) -> int:
        schema = self._schema
        types = {"float32": schema.TensorType.FLOAT32, "int8": schema.TensorType.INT8, "int32": schema.TensorType.INT32}
        quantization = None
        if scales is not None:
            quantization = schema.QuantizationParametersT(scale=list(map(float, scales)), zeroPoint=zeros)
        self._tensors.append(schema.TensorT(list(shape), types[dtype.name], buffer, name, quantization))
        return len(self._tensors) - 1


def _activation_scale(limits: tuple[float, float], *, relu: bool) -> tuple[float, int]:
    """Scale and zero point of int8 values that cover the range, and zero."""
    low, high = (0.0 if relu else min(limits[0], 0.0)), max(limits[1], 0.0)
    scale = max(high - low, 1e-12) / 255
    return scale, round(-128 - low / scale)


def tflite_ranges(weights: Weights, faces: NDArray[np.uint8]) -> Ranges:
    """What the layers with parameters give for `faces` (n, 84, 84), by LiteRT itself in float32."""
    litert = import_module("ai_edge_litert.interpreter")
    interpreter = litert.Interpreter(
        model_content=tflite_model(weights),
        num_threads=1,
        experimental_preserve_all_tensors=True,
        # What is fused by a delegate cannot be read.
        experimental_op_resolver_type=litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    names = {layer.name for layer in network_layers(weights) if layer.kind != "pool"}
    outputs = {item["name"]: item["index"] for item in interpreter.get_tensor_details() if item["name"] in names}
    faces_index = interpreter.get_input_details()[0]["index"]
    limits = dict.fromkeys(outputs, (0.0, 0.0))
    for face in faces:
        interpreter.set_tensor(faces_index, face.astype(np.float32)[None, :, :, None])
        interpreter.invoke()
        for name, index in outputs.items():
            values = interpreter.get_tensor(index)
            low, high = limits[name]
            limits[name] = min(low, float(values.min())), max(high, float(values.max()))
    return limits
