"""Students in int8, simulated in PyTorch, and what quantises them; for `tools.quantise` and `tools.quantise_aware`.

Imports torch, `mxn_edge.weights`, tools.student_network and tools.training. The arithmetic that is simulated, and that
the C core does:

    conv1   a = sum x * q          x: u8 grey levels, q: s8 weights, a: s32, at most 64 * 255 * 127 in size
            y = clamp(rint(max_pool(a) * s[c] + b[c]), 0, 255)             u8
    conv2   the same on y                                   at most 256 * 255 * 127
    fc1     a = sum y * q                                   at most 3872 * 255 * 127: below 2^27
            h = max(a * s[c] + b[c], 0)                                    float32
    fc2     logits = h * w + b, in float32

- Weights are symmetric, one scale per output channel c: q = rint(w / s[c]), s[c] = max |w[..., c]| / 127.
- Activations have the scale 1 and the zero point 0. The network is first rescaled, channel by channel, so that its
  activations fill 0..255; the factors are positive, so that ReLU and max pooling let them through. Requantising needs
  nothing but the weights' scales and the bias, a zero of SAME padding is the integer 0, and max pooling comes first.
- a is converted to float32; product and sum are rounded to float32 one after the other; rint rounds halves to even.
- The u8 x s8 products need 32-bit (or saturation-free) sums: two of them do not fit into 16 bits.
- The C core adds up fc2 in a fixed order (csrc/kernels/int8_dense.inc.h); PyTorch's is another one.

The weights that come out are q * s exactly: s has at most 16 significant bits and the largest |q| of each channel is
127, so that max |w| / 127 is s again, bit for bit, and rounding w / s loses nothing.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mxn_edge.weights import INT8_MAX, QUANTISED_LAYERS, Weights
from tools.student_network import StudentNetwork, from_weights, to_weights
from tools.training import predict

U8_MAX = 255
# Trained numbers are kept near 1: biases are in units of 1 / 256 of the activations' range. A power of two is exact.
_UNIT = 256.0


class QuantisationError(ValueError):
    """The student cannot be quantised; the message says why."""


class QuantisedStudent(nn.Module):
    """A student as an integer kernel computes it; gradients go straight through the rounding.

    Args:
        weights: whose activations fill 0..255: what `rescale` returns, or quantised ones.
    """

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.network = from_weights(weights)
        with torch.no_grad():
            for name in QUANTISED_LAYERS:
                getattr(self.network, name).bias /= _UNIT
            self.network.fc2.weight *= _UNIT

    def forward(self, faces: Tensor) -> Tensor:
        """Return logits (N, classes) of faces (N, 1, 84, 84), raw grey; grey levels are rounded."""
        hidden = self.activations(faces)[-1]
        return F.linear(hidden, self.network.fc2.weight / _UNIT, self.network.fc2.bias)

    def activations(self, faces: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what enters conv2 and fc1, whole numbers 0..255, and fc2; maps are (N, channels, height, width)."""
        network = self.network
        x = _round_activations(faces)
        q, scale = _quantise(network.conv1.weight)
        # Sums of less than 2^24 are exact in float32.
        x = F.conv2d(x, q, stride=network.conv1.stride, padding=network.conv1.padding)
        if network.pool1:
            x = F.max_pool2d(x, 2)
        first = _round_activations(_requantise(x, scale, network.conv1.bias))

        q, scale = _quantise(network.conv2.weight)
        x = F.conv2d(F.pad(first, (1, 2, 1, 2)), q, stride=network.conv2.stride)
        if network.pool2:
            x = F.max_pool2d(x, 2, ceil_mode=True)
        second = _round_activations(_requantise(x, scale, network.conv2.bias))

        q, scale = _quantise(network.fc1.weight)
        flat = second.permute(0, 2, 3, 1).flatten(1)
        # Here they are not; training does not mind.
        x = F.linear(flat, q) if self.training else F.linear(flat.double(), q.double()).float()
        return first, second, F.relu(_requantise(x, scale, network.fc1.bias))

    @torch.no_grad()
    def to_weights(self, labels: tuple[str, ...], preprocessing: str, training: str) -> Weights:
        """Return quantised weights."""
        network = StudentNetwork(self.network.architecture, len(self.network.fc1.bias), len(labels))
        network.load_state_dict(self.network.state_dict())
        for name in QUANTISED_LAYERS:
            layer = getattr(network, name)
            q, scale = _quantise(layer.weight)
            layer.weight.copy_(q * scale.view(-1, *[1] * (q.ndim - 1)))
            layer.bias *= _UNIT
        network.fc2.weight /= _UNIT
        return replace(to_weights(network, labels, preprocessing, training), quantised=True)

    @torch.no_grad()
    def weight_scales(self) -> dict[str, list[float]]:
        """Layer -> scale of each output channel."""
        return {name: _quantise(getattr(self.network, name).weight)[1].tolist() for name in QUANTISED_LAYERS}


def _quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers -127..127, shaped like `weight`, and one scale per output channel (the first axis)."""
    largest = weight.detach().abs().flatten(1).amax(1)
    mantissa, exponent = torch.frexp(largest / INT8_MAX)
    scale = torch.ldexp(torch.round(mantissa * 2**16) / 2**16, exponent)
    scale = torch.where(largest > 0, scale, 1.0)  # a dead channel
    q = weight / scale.view(-1, *[1] * (weight.ndim - 1))
    return q + (q.round() - q).detach(), scale


def _requantise(sums: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    assert bias is not None
    shape = (1, -1) + (1,) * (sums.ndim - 2)
    return sums * scale.view(shape) + (bias * _UNIT).view(shape)


def _round_activations(x: Tensor) -> Tensor:
    x = x.clamp(0, U8_MAX)
    return x + (x.round() - x).detach()


@torch.no_grad()
def rescale(weights: Weights, faces: Tensor, quantile: float = 0.9999) -> Weights:
    """Return weights of the same function whose activations on `faces` (N, 1, 84, 84) fill 0..255 in every channel.

    Above the quantile they will be clamped. A channel that hardly ever answers counts as one of 2 % of the strongest.
    """
    network = from_weights(weights)
    seen: dict[str, list[Tensor]] = {name: [] for name in ("norm1", "norm2", "norm3")}
    for name, outputs in seen.items():
        getattr(network, name).register_forward_hook(
            lambda module, inputs, output, outputs=outputs: outputs.append(output.transpose(0, 1).flatten(1))
        )
    predict(network, faces)
    factors = []
    for outputs in seen.values():
        ranges = torch.from_numpy(np.quantile(torch.cat(outputs, 1).clamp_min(0).numpy(), quantile, axis=1))
        if not ranges.max() > 0:
            raise QuantisationError("a layer of the student is silent on all faces")
        factors.append(U8_MAX / ranges.clamp_min(0.02 * ranges.max()).double().numpy())
    first, second, third = factors
    tensors = {name: tensor.astype(np.float64) for name, tensor in weights.tensors.items()}
    tensors["conv1.weight"] *= first  # the last axis is the output
    tensors["conv1.bias"] *= first
    tensors["conv2.weight"] *= second / first[:, None]
    tensors["conv2.bias"] *= second
    places = len(tensors["fc1.weight"]) // len(second)
    tensors["fc1.weight"] *= third / np.tile(second, places)[:, None]
    tensors["fc1.bias"] *= third
    tensors["fc2.weight"] /= third[:, None]
    scaled = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    return replace(weights, tensors=scaled, quantised=False)
