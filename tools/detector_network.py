"""The face detector as a PyTorch network: layers, loss, decoding, weight file. Imports torch and safetensors.

csrc/detect.c runs the same network; docs/detector.md describes it. Pictures are grey; boxes are x0, y0, x1, y1 in
pixels of the picture, where pixel n covers [n, n + 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save
from torch import Tensor, nn
from torch.nn import functional as F

#: Channels of the stem and of the maps at strides 4, 8 and 16.
CHANNELS = (16, 32, 64, 64)
STRIDES = (4, 8, 16)
#: Sides of the faces that the cells of each stride answer for, in pixels.
RANGES = ((6.0, 28.0), (22.0, 60.0), (46.0, 1000.0))
#: A cell's box has this many strides a side when the network says 0.
BOX_STRIDES = 4.0
#: Bounds of the logarithms of a box's sides.
LOG_SIDE = 3.0
#: Boxes that overlap a surer one by more go: intersection over union, or over the smaller box.
NMS_IOU, NMS_INSIDE = 0.4, 0.65
FORMAT, FORMAT_VERSION = "mxn-edge-detector", "1"


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class Unit(nn.Module):
    """3×3 convolution as a depthwise and a pointwise one, with nothing between; then normalisation and ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        # PyTorch's backward of a depthwise convolution with a stride takes ten times as long as without.
        self.depthwise = nn.Conv2d(inputs, inputs, 3, 1, 1, groups=inputs, bias=False)
        self.stride = stride
        self.pointwise = _convolution(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps n × inputs × H × W to n × outputs × ⌈H/stride⌉ × ⌈W/stride⌉."""
        out: Tensor = self.pointwise(self.depthwise(x)[:, :, :: self.stride, :: self.stride])
        return out


class DetectorNetwork(nn.Module):
    """Grey pictures n × 1 × H × W, (value - 128) / 64 -> n × cells × 5: logit, dx, dy, log width, log height."""

    def __init__(self) -> None:
        super().__init__()
        stem, *maps = CHANNELS
        self.stem = _convolution(1, stem, 3, 2)
        self.units = nn.ModuleDict()
        before = stem
        for name, channels in zip("abc", maps, strict=True):
            for i in range(3):
                self.units[f"{name}{i}"] = Unit(before, channels, 2 if i == 0 else 1)
                before = channels
        self.lateral = nn.Conv2d(maps[1], maps[0], 1)
        self.outs = nn.ModuleDict()
        for stride, channels in zip(STRIDES, maps, strict=True):
            self.units[f"head{stride}"] = Unit(channels, channels)
            out = nn.Conv2d(channels, 5, 1)
            nn.init.normal_(out.weight, 0, 0.01)
            nn.init.zeros_(out.bias)  # type: ignore[arg-type]
            with torch.no_grad():
                out.bias[0] = -4.0  # type: ignore[index]
            self.outs[str(stride)] = out

    def maps(self, x: Tensor) -> list[Tensor]:
        """Raw answers, one map n × 5 × h × w for each stride."""
        x = self.stem(x)
        maps = []
        for name in "abc":
            for i in range(3):
                x = self.units[f"{name}{i}"](x)
            maps.append(x)
        a, b, c = maps
        b = b + _enlarge(c, b)
        a = a + _enlarge(self.lateral(b), a)
        return [
            self.outs[str(stride)](self.units[f"head{stride}"](x)) for stride, x in zip(STRIDES, (a, b, c), strict=True)
        ]

    def forward(self, x: Tensor) -> Tensor:
        """Cells of all strides, the finest first, row by row."""
        return torch.cat([out.flatten(2).transpose(1, 2) for out in self.maps(x)], 1)


def _enlarge(x: Tensor, like: Tensor) -> Tensor:
    height, width = like.shape[2:]
    return F.interpolate(x, scale_factor=2)[:, :, :height, :width]


def as_input(pictures: NDArray[np.uint8]) -> Tensor:
    """Pictures n × H × W -> what the network takes."""
    return ((torch.from_numpy(pictures).float() - 128) / 64)[:, None]


def cells(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Centres, cells × 2, and strides, cells, for pictures of this size."""
    centres, strides = [], []
    for stride in STRIDES:
        y, x = torch.meshgrid(torch.arange(0, height, stride), torch.arange(0, width, stride), indexing="ij")
        centres.append(torch.stack([x, y], -1).reshape(-1, 2) + 0.5)
        strides.append(torch.full((x.numel(),), float(stride)))
    return torch.cat(centres), torch.cat(strides)


def decode(answers: Tensor, height: int, width: int) -> Tensor:
    """Boxes, ... × cells × 4, of what the network says, ... × cells × 5."""
    centres, strides = cells(height, width)
    middle = centres + answers[..., 1:3] * strides[:, None]
    half = torch.exp(answers[..., 3:5].clamp(-LOG_SIDE, LOG_SIDE)) * (strides * BOX_STRIDES / 2)[:, None]
    return torch.cat([middle - half, middle + half], -1)


def assign(boxes: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """What each cell is to learn.

    Args:
        boxes: n × faces × 5: x0, y0, x1, y1, target (0: no box, below: ignored).
        height: of the pictures.
        width: of the pictures.

    Returns:
        n × cells: 1 for a cell at the middle of a face of its size, -1 where either answer is fine, 0 elsewhere; and
        the number of the face.
    """
    centres, strides = cells(height, width)
    low, high = (torch.tensor([r[i] for r in RANGES]) for i in range(2))
    level = torch.tensor([STRIDES.index(int(s)) for s in strides.tolist()])
    low, high = low[level], high[level]
    w, h = (boxes[..., 2] - boxes[..., 0])[..., None], (boxes[..., 3] - boxes[..., 1])[..., None]
    side = (w * h).clamp(min=0).sqrt()
    dx = ((boxes[..., 0] + boxes[..., 2])[..., None] / 2 - centres[:, 0]).abs()
    dy = ((boxes[..., 1] + boxes[..., 3])[..., None] / 2 - centres[:, 1]).abs()
    reach_x, reach_y = torch.maximum(0.2 * w, 0.55 * strides), torch.maximum(0.2 * h, 0.55 * strides)
    asked, ignored = (boxes[..., 4] > 0)[..., None], (boxes[..., 4] < 0)[..., None]
    near = (dx < torch.minimum(reach_x, 1.5 * strides)) & (dy < torch.minimum(reach_y, 1.5 * strides))
    positive = asked & near & (side >= low) & (side < high)
    around = (dx < 0.4 * w) & (dy < 0.4 * h)
    other_size = (side >= 0.6 * low) & (side < 1.5 * high)
    either = (asked & other_size & (around | ((dx < reach_x) & (dy < reach_y)))) | (
        ignored & (dx < 0.5 * w) & (dy < 0.5 * h)
    )
    distance = torch.where(positive, (dx / w.clamp(min=1)) ** 2 + (dy / h.clamp(min=1)) ** 2, 9.0)
    nearest, face = distance.min(1)
    kind = torch.where(nearest < 9.0, 1.0, torch.where(either.any(1), -1.0, 0.0))
    return kind, face


def detection_loss(answers: Tensor, boxes: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of scores, loss of boxes, and the mean IoU of the cells that were asked.

    Scores: the quality focal loss (Li et al., 2020, arXiv 2006.04388): the target of a face's cell is the IoU of its
    box, times the face's own target. Boxes: the distance-IoU loss (Zheng et al., 2020, arXiv 1911.08287).
    """
    kind, face = assign(boxes, height, width)
    positive = kind > 0
    wanted_boxes = torch.gather(boxes, 1, face[..., None].expand(-1, -1, 5))[positive]
    found = decode(answers, height, width)[positive]
    low, high = torch.maximum(found[:, :2], wanted_boxes[:, :2]), torch.minimum(found[:, 2:4], wanted_boxes[:, 2:4])
    shared = (high - low).clamp(min=0).prod(1)
    union = (found[:, 2:] - found[:, :2]).prod(1) + (wanted_boxes[:, 2:4] - wanted_boxes[:, :2]).prod(1) - shared
    iou = shared / union.clamp(min=1e-3)
    apart = ((found[:, :2] + found[:, 2:] - wanted_boxes[:, :2] - wanted_boxes[:, 2:4]) ** 2).sum(1) / 4
    hull = torch.maximum(found[:, 2:], wanted_boxes[:, 2:4]) - torch.minimum(found[:, :2], wanted_boxes[:, :2])
    box_loss = (1 - iou + apart / (hull**2).sum(1).clamp(min=1)).sum()
    logit = answers[..., 0]
    wanted = torch.zeros_like(logit)
    wanted[positive] = iou.detach() * wanted_boxes[:, 4]
    weight = (wanted - torch.sigmoid(logit.detach())).abs() ** 2 * (kind >= 0)
    score_loss = (weight * F.binary_cross_entropy_with_logits(logit, wanted, reduction="none")).sum()
    count = positive.sum().clamp(min=1)
    return score_loss / count, box_loss / count, iou.mean() if len(iou) else iou.sum()


def suppress(boxes: NDArray[np.float32], scores: NDArray[np.float32]) -> list[int]:
    """Non-maximum suppression; numbers of the boxes that stay, the surest first."""
    area = np.prod(boxes[:, 2:] - boxes[:, :2], 1)
    left = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(int(best))
        low, high = np.maximum(boxes[best, :2], boxes[left, :2]), np.minimum(boxes[best, 2:], boxes[left, 2:])
        shared = np.prod(np.clip(high - low, 0, None), 1)
        gone = (shared > NMS_IOU * (area[best] + area[left] - shared)) | (
            shared > NMS_INSIDE * np.minimum(area[best], area[left])
        )
        left = left[~gone]
    return kept


@torch.no_grad()
def detect(network: DetectorNetwork, picture: NDArray[np.uint8], threshold: float) -> NDArray[np.float32]:
    """Faces of a grey picture: n × 5, x0, y0, x1, y1, score, the surest first."""
    answers = network(as_input(picture[None]))
    scores = torch.sigmoid(answers[0, :, 0]).numpy()
    chosen = np.flatnonzero(scores >= threshold)
    boxes = decode(answers, *picture.shape)[0].numpy()[chosen]
    kept = suppress(boxes, scores[chosen])
    return np.concatenate([boxes[kept], scores[chosen][kept, None]], 1)


def _folded(weight: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """A convolution's weight and bias that do what it and the normalisation behind it did."""
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale


@torch.no_grad()
def tensors_of(network: DetectorNetwork) -> dict[str, NDArray[np.float32]]:
    """The weights as csrc/detect.c takes them: normalisation folded in; channels last, outputs last of all."""

    def folded() -> Iterator[tuple[str, Tensor]]:
        weight, bias = _folded(network.stem[0].weight, network.stem[1])  # type: ignore[arg-type]
        yield "stem.weight", weight[:, 0].permute(1, 2, 0)
        yield "stem.bias", bias
        for name, unit in network.units.items():
            weight, bias = _folded(unit.pointwise[0].weight, unit.pointwise[1])  # type: ignore[index,union-attr,arg-type]
            yield f"{name}.depthwise", unit.depthwise.weight[:, 0].permute(1, 2, 0)  # type: ignore[index,union-attr]
            yield f"{name}.pointwise", weight[:, :, 0, 0].T
            yield f"{name}.bias", bias
        yield "lateral.weight", network.lateral.weight[:, :, 0, 0].T
        yield "lateral.bias", network.lateral.bias  # type: ignore[misc]
        for stride, out in network.outs.items():
            yield f"out{stride}.weight", out.weight[:, :, 0, 0].T  # type: ignore[index]
            yield f"out{stride}.bias", out.bias  # type: ignore[misc]

    return {name: np.ascontiguousarray(tensor.numpy().astype(np.float32)) for name, tensor in folded()}


def _unfold(weight: Tensor, norm: nn.BatchNorm2d, value: Tensor, bias: Tensor) -> None:
    """The inverse of `_folded`: a normalisation that changes nothing but adds the bias."""
    assert norm.running_var is not None
    norm.reset_parameters()
    norm.running_var.fill_(1 - norm.eps)
    norm.bias.copy_(bias)
    weight.copy_(value)


def _unfold_unit(unit: Any, name: str, of: Mapping[str, Tensor]) -> None:
    unit.depthwise.weight.copy_(of[f"{name}.depthwise"].permute(2, 0, 1)[:, None])
    pointwise = of[f"{name}.pointwise"].T[:, :, None, None]
    _unfold(unit.pointwise[0].weight, unit.pointwise[1], pointwise, of[f"{name}.bias"])


def _unfold_stem(stem: Any, name: str, of: Mapping[str, Tensor]) -> None:
    weight = of[f"{name}.weight"].permute(2, 0, 1)[:, None]
    _unfold(stem[0].weight, stem[1], weight, of[f"{name}.bias"])


@torch.no_grad()
def load_tensors(network: DetectorNetwork, tensors: Mapping[str, NDArray[np.float32]]) -> None:
    """The inverse of `tensors_of`."""
    of = {name: torch.from_numpy(np.asarray(tensor)) for name, tensor in tensors.items()}
    _unfold_stem(network.stem, "stem", of)
    for name, unit in network.units.items():
        _unfold_unit(unit, name, of)
    outs: Any = network.outs
    for name, out in [("lateral", network.lateral), *((f"out{stride}", out) for stride, out in outs.items())]:
        out.weight.copy_(of[f"{name}.weight"].T[:, :, None, None])
        out.bias.copy_(of[f"{name}.bias"])


@torch.no_grad()
def load_refiner(refiner: Refiner, tensors: Mapping[str, NDArray[np.float32]], crops: Tensor) -> None:
    """The inverse of `refiner_tensors`, to train on: normalisations as if they had seen `crops`, n × 1 × 48 × 48."""
    of = {name: torch.from_numpy(np.asarray(tensor)) for name, tensor in tensors.items()}
    _unfold_stem(refiner.stem, "refine.stem", of)
    for i, unit in enumerate(refiner.units):
        _unfold_unit(unit, f"refine{i}", of)
    refiner.out.weight.copy_(of["refine.out.weight"].T)
    refiner.out.bias.copy_(of["refine.out.bias"])

    def settle(norm: Any, inputs: tuple[Tensor], _out: Tensor) -> None:
        norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))
        norm.running_var.copy_(inputs[0].var((0, 2, 3)))
        norm.weight.copy_(torch.sqrt(norm.running_var + norm.eps))
        norm.bias.add_(norm.running_mean)

    hooks = [m.register_forward_hook(settle) for m in refiner.modules() if isinstance(m, nn.BatchNorm2d)]
    refiner.eval()(crops)
    for hook in hooks:
        hook.remove()


#: Depthwise sums stay below this in the weight file's networks, half of what 16-bit kernels can hold.
DEPTHWISE_PEAK = 4.0


@torch.no_grad()
def depthwise_peaks(network: nn.Module, inputs: Iterable[Tensor]) -> list[NDArray[np.float32]]:
    """The largest size of each channel's depthwise sums over some inputs; a unit after the other."""
    units = [module for module in network.modules() if isinstance(module, Unit)]
    peaks = [torch.zeros(unit.depthwise.in_channels) for unit in units]

    def keep(peak: Tensor) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(_module: nn.Module, _inputs: Any, sums: Tensor) -> None:
            peak.copy_(torch.maximum(peak, sums.abs().amax((0, 2, 3))))

        return hook

    hooks = [unit.depthwise.register_forward_hook(keep(peak)) for unit, peak in zip(units, peaks, strict=True)]
    for x in inputs:
        network(x)
    for hook in hooks:
        hook.remove()
    return [peak.numpy() for peak in peaks]


def equalise(tensors: dict[str, NDArray[np.float32]], peaks: Iterable[NDArray[np.float32]]) -> None:
    """Bring the depthwise sums of every channel to the same size, in place: `DEPTHWISE_PEAK` at most, above half of it.

    By powers of two, which the next layer takes back: in float32 the network's answers keep their bits.
    """
    names = [name.removesuffix(".depthwise") for name in tensors if name.endswith(".depthwise")]
    for name, peak in zip(names, peaks, strict=True):
        scale = np.exp2(np.clip(np.floor(np.log2(DEPTHWISE_PEAK / np.maximum(peak, 1e-6))), -16, 16))
        tensors[f"{name}.depthwise"] = (tensors[f"{name}.depthwise"] * scale).astype(np.float32)
        tensors[f"{name}.pointwise"] = (tensors[f"{name}.pointwise"] / scale[:, None]).astype(np.float32)


def write_detector(
    path: Path,
    network: DetectorNetwork,
    refiner: Refiner,
    pictures: Iterable[NDArray[np.uint8]],
    crops: Tensor,
    metadata: dict[str, Any],
) -> None:
    """Write the weight file that `mxn_edge.Detector` reads.

    Args:
        path: of the file.
        network: the first stage.
        refiner: the second look.
        pictures: some that the first stage may see, H × W each, for `equalise`.
        crops: some that the second look may see, n × 1 × 48 × 48.
        metadata: besides the format.
    """
    texts = {key: str(value) for key, value in metadata.items()}
    tensors = tensors_of(network) | refiner_tensors(refiner)
    peaks = depthwise_peaks(network.eval(), (as_input(picture[None]) for picture in pictures))
    equalise(tensors, peaks + depthwise_peaks(refiner.eval(), [crops]))
    path.write_bytes(save(tensors, {"format": FORMAT, "format_version": FORMAT_VERSION, **texts}))


#: Side of the pictures that the refiner looks at, and of the square it is cut from, in units of the box's longer side.
REFINED_SIZE, REFINED_SQUARE = 48, 1.4


class Refiner(nn.Module):
    """A closer look at one candidate: pictures n × 1 × 48 × 48 -> n × 5: logit, dx, dy, log width, log height.

    dx, dy and the logarithms of the sides are in units of the square that was cut out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = _convolution(1, 16, 3, 2)
        self.units = nn.ModuleList([Unit(16, 32, 2), Unit(32, 64, 2), Unit(64, 64), Unit(64, 64)])
        self.drop = nn.Dropout(0.2)
        self.out = nn.Linear(6 * 6 * 64, 5)
        nn.init.normal_(self.out.weight, 0, 0.01)
        with torch.no_grad():
            self.out.bias.copy_(torch.tensor([0.0, 0.0, 0.0, -0.55, -0.35]))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = self.stem(x)
        for unit in self.units:
            x = unit(x)
        out: Tensor = self.out(self.drop(x.permute(0, 2, 3, 1).flatten(1)))
        return out


@torch.no_grad()
def refiner_tensors(refiner: Refiner) -> dict[str, NDArray[np.float32]]:
    """As `tensors_of`."""
    weight, bias = _folded(refiner.stem[0].weight, refiner.stem[1])  # type: ignore[arg-type]
    tensors = {"refine.stem.weight": weight[:, 0].permute(1, 2, 0), "refine.stem.bias": bias}
    for i, unit in enumerate(refiner.units):
        weight, bias = _folded(unit.pointwise[0].weight, unit.pointwise[1])  # type: ignore[index,union-attr,arg-type]
        tensors[f"refine{i}.depthwise"] = unit.depthwise.weight[:, 0].permute(1, 2, 0)  # type: ignore[index,union-attr]
        tensors[f"refine{i}.pointwise"] = weight[:, :, 0, 0].T
        tensors[f"refine{i}.bias"] = bias
    tensors |= {"refine.out.weight": refiner.out.weight.T, "refine.out.bias": refiner.out.bias}
    return {name: np.ascontiguousarray(tensor.numpy().astype(np.float32)) for name, tensor in tensors.items()}
