"""MicroExpNet in PyTorch, for training. Imports torch and `mxn_edge.weights`.

The trained form may scale its input and normalise after each layer; `to_weights` folds all of that into the eight
tensors of a weight file, which compute the same logits.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mxn_edge.weights import ARCHITECTURES, Weights

#: Architecture -> stride of conv1, first pool, second pool (MicroExpNet paper, section 4).
_TOPOLOGIES = {
    "microexpnet-v": (4, False, False),
    "microexpnet-p1": (2, True, False),
    "microexpnet-p2": (4, False, True),
    "microexpnet-p12": (2, True, True),
}


class _PositiveBatchNorm(nn.Module):
    """Batch normalisation with a trained offset but no trained factor, over (N, C) or (N, C, H, W).

    Its factor 1 / deviation is positive, so that it commutes with max pooling. Nothing is lost: a positive factor goes
    through the ReLU into the next layer.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.eps = 1e-5
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, torch.ones_like(self.bias), self.bias, self.training, 0.1, self.eps
        )


class StudentNetwork(nn.Module):
    """A student of any of the four architectures.

    Input is (N, 1, 84, 84) raw grey, 0..255: TensorFlow's SAME padding puts zeros around the picture, which are black
    pixels, so a scale may be applied to the input but no mean may be subtracted.

    Args:
        architecture: a key of `mxn_edge.weights.ARCHITECTURES`.
        hidden: number of hidden units.
        classes: number of classes.
        batch_norm: normalise the convolutions (after their pool) and the hidden layer, before their ReLU.
        dropout: probability of dropping a hidden unit in training.
        input_scale: factor on the input.
    """

    def __init__(
        self,
        architecture: str = "microexpnet-p12",
        hidden: int = 48,
        classes: int = 8,
        *,
        batch_norm: bool = False,
        dropout: float = 0.0,
        input_scale: float = 1.0,
    ) -> None:
        super().__init__()
        stride, self.pool1, self.pool2 = _TOPOLOGIES[architecture]
        self.architecture = architecture
        self.input_scale = input_scale
        # SAME padding: 3 or 2 on all sides for conv1; conv2's is asymmetric, see forward.
        self.conv1 = nn.Conv2d(1, 16, 8, stride, padding=3 if stride == 2 else 2, bias=not batch_norm)
        self.conv2 = nn.Conv2d(16, 32, 4, 2, bias=not batch_norm)
        self.fc1 = nn.Linear(ARCHITECTURES[architecture], hidden, bias=not batch_norm)
        self.fc2 = nn.Linear(hidden, classes)
        self.norm1 = _PositiveBatchNorm(16) if batch_norm else nn.Identity()
        self.norm2 = _PositiveBatchNorm(32) if batch_norm else nn.Identity()
        self.norm3 = _PositiveBatchNorm(hidden) if batch_norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        for layer in (self.conv1, self.conv2, self.fc1):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, faces: Tensor) -> Tensor:
        """Return logits (N, classes) of faces (N, 1, 84, 84), raw grey."""
        # Bias and ReLU after the pool give the same as before it, and cost a quarter; so does a positive normalisation.
        x = self.conv1(faces * self.input_scale)
        if self.pool1:
            x = F.max_pool2d(x, 2)
        x = F.pad(F.relu(self.norm1(x)), (1, 2, 1, 2))  # SAME for 21 -> 11
        x = self.conv2(x)
        if self.pool2:
            x = F.max_pool2d(x, 2, ceil_mode=True)  # SAME for 11 -> 6
        x = F.relu(self.norm2(x)).permute(0, 2, 3, 1)  # height, width, channel, as the weight file has it
        x = self.dropout(F.relu(self.norm3(self.fc1(x.flatten(1)))))
        logits: Tensor = self.fc2(x)
        return logits


def to_weights(network: StudentNetwork, labels: tuple[str, ...], preprocessing: str, training: str) -> Weights:
    """Fold normalisation and input scale into the plain form, in float64, and return it as float32 weights.

    Without either, the tensors are the network's own, bit for bit.
    """
    tensors = {}
    layers: tuple[tuple[str, nn.Conv2d | nn.Linear, nn.Module, float], ...] = (
        ("conv1", network.conv1, network.norm1, network.input_scale),
        ("conv2", network.conv2, network.norm2, 1.0),
        ("fc1", network.fc1, network.norm3, 1.0),
        ("fc2", network.fc2, nn.Identity(), 1.0),
    )
    for name, layer, norm, scale in layers:
        weight, bias = _fold(layer, norm, scale)
        order = (2, 3, 1, 0) if isinstance(layer, nn.Conv2d) else (1, 0)
        tensors[f"{name}.weight"] = np.ascontiguousarray(weight.permute(order).numpy())
        tensors[f"{name}.bias"] = bias.numpy()
    return Weights(network.architecture, labels, preprocessing, training, tensors)


@torch.no_grad()
def _fold(layer: nn.Conv2d | nn.Linear, norm: nn.Module, scale: float) -> tuple[Tensor, Tensor]:
    weight = layer.weight.detach().double() * scale
    bias = torch.zeros(len(weight), dtype=torch.float64) if layer.bias is None else layer.bias.detach().double()
    if isinstance(norm, _PositiveBatchNorm):
        factor = 1 / torch.sqrt(norm.running_var.double() + norm.eps)
        weight = weight * factor.view(-1, *[1] * (weight.ndim - 1))
        bias = (bias - norm.running_mean.double()) * factor + norm.bias.double()
    return weight.float(), bias.float()


@torch.no_grad()
def from_weights(weights: Weights) -> StudentNetwork:
    """Return the plain network of a weight file; `to_weights` gives the same tensors back, bit for bit."""
    network = StudentNetwork(weights.architecture, weights.hidden, len(weights.labels))
    for name in ("conv1", "conv2", "fc1", "fc2"):
        layer = getattr(network, name)
        order = (3, 2, 0, 1) if name.startswith("conv") else (1, 0)
        layer.weight.copy_(torch.from_numpy(weights.tensors[f"{name}.weight"].transpose(order).copy()))
        layer.bias.copy_(torch.from_numpy(weights.tensors[f"{name}.bias"].copy()))
    return network.eval()


@torch.no_grad()
def trainable_from_weights(
    weights: Weights, faces: Tensor, *, dropout: float = 0.0, input_scale: float = 1.0
) -> StudentNetwork:
    """Return the network of a weight file in the form that is trained, with the same logits up to rounding.

    Folding has lost what the layers were normalised by. It is measured again, and each layer's weights are brought to
    the norm that a new network has, so that learning rates mean the same.

    Args:
        weights: the weight file's content.
        faces: (N, 1, 84, 84) raw grey, usual ones.
        dropout: as for `StudentNetwork`.
        input_scale: as for `StudentNetwork`.
    """
    plain = from_weights(weights)
    outputs: dict[str, Tensor] = {}
    for name in ("norm1", "norm2", "norm3"):  # which do nothing in the plain network but see each layer's output
        getattr(plain, name).register_forward_hook(lambda module, _, output, name=name: outputs.update({name: output}))
    plain(faces)
    network = StudentNetwork(
        weights.architecture,
        weights.hidden,
        len(weights.labels),
        batch_norm=True,
        dropout=dropout,
        input_scale=input_scale,
    )
    unit = torch.full((1,), 1 / input_scale)  # what 1 in this network's input of a layer is in the plain one's
    for number, name in enumerate(("conv1", "conv2", "fc1"), 1):
        layer, norm, source = getattr(network, name), getattr(network, f"norm{number}"), getattr(plain, name)
        weight = source.weight * _per_input(unit, source.weight)
        factor = layer.weight.norm() / weight.norm()
        layer.weight.copy_(weight * factor)
        output = outputs[f"norm{number}"].transpose(0, 1).flatten(1)
        mean, variance = output.mean(1), output.var(1, correction=0)
        norm.running_mean.copy_(factor * (mean - source.bias))
        norm.running_var.copy_(factor**2 * variance)
        unit = torch.sqrt(variance + norm.eps / factor**2)
        norm.bias.copy_(mean / unit)
    network.fc2.weight.copy_(plain.fc2.weight * unit)
    network.fc2.bias.copy_(plain.fc2.bias)
    return network.eval()


def _per_input(unit: Tensor, weight: Tensor) -> Tensor:
    """Shape a factor per input channel for a layer's weights; fc1 has the channels of each pixel in turn."""
    if weight.ndim == 4:
        return unit.view(1, -1, 1, 1)
    return unit.repeat(weight.shape[1] // len(unit))
