"""Weights -> ONNX model. Imports numpy, onnx (an extra: whoever imports this module says so) and weights.

Every layer becomes one standard ONNX operator, with TensorFlow's SAME padding written out in numbers. The weight file's
metadata goes along, so that tools/import_onnx.py can give the same weight file back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mxn_edge.weights import FORMAT, INPUT_SIZE, Weights, metadata_of

IR_VERSION = 8
OPSETS = (13, 14, 15, 16, 17)
INPUT_SHAPES = {"nchw": ("n", 1, INPUT_SIZE, INPUT_SIZE), "nhwc": ("n", INPUT_SIZE, INPUT_SIZE, 1)}
CONV2_CHANNELS = 32


class _Graph:
    """A chain of ONNX nodes on square feature maps."""

    def __init__(self, first: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.last = first
        self.size = INPUT_SIZE

    def add(self, operator: str, name: str, parameters: Sequence[str] = (), **attributes: Any) -> None:
        self.nodes.append(helper.make_node(operator, [self.last, *parameters], [name], name=name, **attributes))
        self.last = name

    def add_window(self, operator: str, name: str, kernel: int, stride: int, parameters: Sequence[str] = ()) -> None:
        """Add a convolution or a pool with the padding that TensorFlow calls SAME."""
        output = -(-self.size // stride)
        total = max((output - 1) * stride + kernel - self.size, 0)
        before, after = total // 2, total - total // 2
        self.size = output
        self.add(
            operator,
            name,
            parameters,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[before, before, after, after],
        )


def _initializer(name: str, tensor: NDArray[np.float32]) -> onnx.TensorProto:
    if name in ("conv1.weight", "conv2.weight"):
        tensor = tensor.transpose(3, 2, 0, 1)
    elif name == "fc1.weight":
        # Its rows follow the flattened feature map: height-width-channel here, channel-height-width in ONNX.
        rows, hidden = tensor.shape
        tensor = tensor.reshape(-1, CONV2_CHANNELS, hidden).transpose(1, 0, 2).reshape(rows, hidden)
    return numpy_helper.from_array(np.ascontiguousarray(tensor), name)


def build_model(weights: Weights, opset: int = 17, layout: str = "nchw") -> onnx.ModelProto:
    """The ONNX model of `weights`: float32 "faces" (a batch of raw grey values 0..255) -> float32 "logits".

    Args:
        weights: the student to export.
        opset: one of `OPSETS`.
        layout: a key of `INPUT_SHAPES`, the shape of "faces".
    """
    pool1 = weights.architecture in ("microexpnet-p1", "microexpnet-p12")
    pool2 = weights.architecture in ("microexpnet-p2", "microexpnet-p12")
    graph = _Graph("faces")
    if layout == "nhwc":
        graph.add("Transpose", "faces_nchw", perm=[0, 3, 1, 2])
    graph.add_window("Conv", "conv1", 8, 2 if pool1 else 4, ["conv1.weight", "conv1.bias"])
    graph.add("Relu", "conv1_relu")
    if pool1:
        graph.add_window("MaxPool", "pool1", 2, 2)
    graph.add_window("Conv", "conv2", 4, 2, ["conv2.weight", "conv2.bias"])
    graph.add("Relu", "conv2_relu")
    if pool2:
        graph.add_window("MaxPool", "pool2", 2, 2)
    graph.add("Flatten", "features", axis=1)
    graph.add("Gemm", "fc1", ["fc1.weight", "fc1.bias"])
    graph.add("Relu", "fc1_relu")
    graph.add("Gemm", "logits", ["fc2.weight", "fc2.bias"])

    classes = len(weights.labels)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            weights.architecture,
            [helper.make_tensor_value_info("faces", TensorProto.FLOAT, INPUT_SHAPES[layout])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ("n", classes))],
            [_initializer(name, tensor) for name, tensor in sorted(weights.tensors.items())],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=IR_VERSION,
        producer_name=FORMAT,
    )
    helper.set_model_props(model, metadata_of(weights))
    return model
