"""Random views of grey faces, for training, batched and reproducible. Imports torch only.

`draw_views` decides what happens to each face, from a seeded generator; `render` does it, at any output size. The same
views can thus be shown to a student and, smaller, to its teacher.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

INPUT_SIZE = 84


@dataclass(frozen=True)
class AugmentOptions:
    """How far views stray from the plain face, see `AUGMENT_HELP`; everything 0 leaves it as it is."""

    shift: float = 0.14
    scale: float = 0.16
    rotation: float = 10.0
    mildness: float = 0.0
    flip: float = 0.5
    brightness: float = 25.0
    contrast: float = 0.5
    gamma: float = 0.4
    blur: float = 0.7
    least_blur: float = -0.7
    noise: float = 6.0
    cutout: float = 0.1


#: Field of `AugmentOptions` -> what it says.
AUGMENT_HELP = {
    "shift": "largest shift along either axis, as a fraction of the picture",
    "scale": "largest change of size, as a fraction; applied along both axes together",
    "rotation": "largest rotation in degrees",
    "mildness": "exponent of a random factor 0..1 on the three above; 0: all faces stray alike, 1: most only a little",
    "flip": "probability of mirroring left and right",
    "brightness": "largest offset in grey levels",
    "contrast": "largest change of contrast, as a power of two",
    "gamma": "largest change of gamma, as a power of two",
    "blur": "probability of blurring or sharpening",
    "least_blur": "least strength of the blur, 1 being the largest; below 0 sharpens",
    "noise": "largest standard deviation of the noise, in grey levels",
    "cutout": "probability of hiding a rectangle",
}
NO_AUGMENTATION = AugmentOptions(**{field.name: 0.0 for field in fields(AugmentOptions)})


@dataclass(frozen=True)
class Views:
    """What happens to each of N faces.

    Attributes:
        affine: (N, 2, 3), output to input coordinates, both -1..1 from edge to edge.
        offset: (N,) grey levels added.
        contrast: (N,) factor on the distance from the face's mean.
        gamma: (N,) exponent.
        blur: (N,) 1 is a full Gaussian blur, 0 nothing, below 0 sharpens.
        noise: (N,) standard deviation in grey levels.
        box: (N, 4) left, top, right, bottom of the hidden rectangle, 0..1; empty when right is not above left.
        fill: (N,) grey level of the hidden rectangle.
    """

    affine: Tensor
    offset: Tensor
    contrast: Tensor
    gamma: Tensor
    blur: Tensor
    noise: Tensor
    box: Tensor
    fill: Tensor

    def __getitem__(self, index: Tensor | slice) -> Views:
        return Views(**{field.name: getattr(self, field.name)[index] for field in fields(self)})


def draw_views(count: int, options: AugmentOptions, generator: Generator) -> Views:
    """Draw `count` independent views."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator) * (high - low) + low

    def chance(probability: float) -> Tensor:
        return (torch.rand(count, generator=generator) < probability).float()

    angle = uniform(-1, 1) * math.radians(options.rotation)
    zoom = uniform(-options.scale, options.scale)
    mirror = 1 - 2 * chance(options.flip)
    shift = uniform(-2 * options.shift, 2 * options.shift, 2)  # the coordinates span two units
    corner, extent = uniform(-0.1, 0.9, 2), uniform(0.15, 0.4, 2)
    light = {
        "offset": uniform(-options.brightness, options.brightness),
        "contrast": 2 ** uniform(-options.contrast, options.contrast),
        "gamma": 2 ** uniform(-options.gamma, options.gamma),
        "blur": uniform(options.least_blur, 1.0) * chance(options.blur),
        "noise": uniform(0, options.noise) * chance(0.5),
        "box": torch.cat([corner, corner + extent * chance(options.cutout)[:, None]], 1),
        "fill": uniform(0, 255),
    }
    strength = uniform(0, 1) ** options.mildness
    angle, zoom, shift = angle * strength, 1 + zoom * strength, shift * strength[:, None]
    cosine, sine = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    affine = torch.stack(
        [torch.stack([cosine * mirror, -sine, shift[:, 0]], 1), torch.stack([sine * mirror, cosine, shift[:, 1]], 1)], 1
    )
    return Views(affine=affine, **light)


def render(faces: Tensor, views: Views, generator: Generator, size: int = INPUT_SIZE) -> Tensor:
    """Show faces (N, H, W) uint8 as `views` says: (N, 1, size, size) float32, 0..255.

    Shift, size, rotation and mirroring are one bilinear resampling; beyond the picture its border goes on. The
    generator is only for the noise.
    """
    count = len(faces)

    def column(values: Tensor) -> Tensor:
        return values.view(count, 1, 1, 1)

    centres = (torch.arange(size) + 0.5) / size
    # F.affine_grid does the same with one small product per face, and takes longer than all the rest.
    across, down = torch.meshgrid(2 * centres - 1, 2 * centres - 1, indexing="xy")
    corners = torch.stack([across, down, torch.ones_like(down)]).flatten(1)
    grid = (views.affine.view(-1, 3) @ corners).view(count, 2, size, size).permute(0, 2, 3, 1)
    x = F.grid_sample(faces[:, None].float(), grid, "bilinear", "border", align_corners=False)
    x = _blur(x, column(views.blur))
    mean = x.mean((2, 3), keepdim=True)
    x = ((x - mean) * column(views.contrast) + mean + column(views.offset)).clamp_(0, 255)
    x = (x / 255).pow_(column(views.gamma)).mul_(255)
    if (noisy := views.noise.nonzero().flatten()).numel():
        noise = torch.randn(len(noisy), 1, size, size, generator=generator)
        x[noisy] += noise * views.noise[noisy].view(-1, 1, 1, 1)
    left, top, right, bottom = views.box.T[:, :, None]
    across = (centres >= left) & (centres < right)
    down = (centres >= top) & (centres < bottom)
    x = torch.where((down[:, :, None] & across[:, None, :])[:, None], column(views.fill), x)
    return x.clamp_(0, 255)


def _blur(x: Tensor, strength: Tensor) -> Tensor:
    """Move x towards (1), or away from (below 0), its Gaussian blur; sigma is 2.5 % of the picture."""
    if not (touched := strength.flatten().nonzero().flatten()).numel():
        return x
    size = x.shape[-1]
    sigma = 0.025 * size
    radius = math.ceil(3 * sigma)
    steps = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    # The blur along one axis as a matrix, the border going on outside: much faster than a one-channel convolution.
    matrix = torch.zeros(size, size)
    rows = torch.arange(size)[:, None].expand(-1, len(steps))
    columns = (rows + steps).clamp(0, size - 1)
    matrix.index_put_((rows, columns), (kernel / kernel.sum()).expand(size, -1), accumulate=True)
    sharp = x[touched]
    # Twice the last axis, turned in between: one large product each, where matrix @ x would be one per face.
    across = sharp @ matrix.T
    blurred = (across.mT.contiguous() @ matrix.T).mT
    x[touched] = torch.lerp(sharp, blurred, strength[touched])
    return x


def standardise(x: Tensor) -> Tensor:
    """Bring every picture (N, 1, H, W) to mean 128 and deviation 52 in whole grey levels, as csrc/standardise.c."""
    mean, deviation = x.mean((2, 3), keepdim=True), x.std((2, 3), keepdim=True, correction=0)
    return torch.floor((x - mean) * (52 / deviation.clamp_min(10)) + 128.5).clamp_(0, 255)


def preparation(preprocessing: str) -> Callable[[Tensor], Tensor]:
    """Return what a preprocessing of `mxn_edge.preprocess.Preprocessor` does to faces after they are cut out."""
    return standardise if preprocessing == "face-square-standardised" else lambda faces: faces


def face_views(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four views of pictures (N, 1, H, W) that `mxn_edge.preprocess.Preprocessor` makes of each at run time.

    They are moved by two pixels to the left, right, top and bottom; beyond the picture its border goes on.
    """
    height, width = x.shape[2:]
    padded = F.pad(x, (2, 2, 2, 2), mode="replicate")

    def window(left: int, top: int) -> Tensor:
        return padded[:, :, top : top + height, left : left + width]

    return window(0, 2), window(4, 2).flip(3), window(2, 0).flip(3), window(2, 4)


def resize_faces(faces: Tensor, size: int = INPUT_SIZE) -> Tensor:
    """Return faces (N, H, W) uint8 as "face-square" crops them at run time: (N, 1, size, size) float32.

    A triangle filter (bilinear, widened when it reduces), rounded to whole grey levels.
    """
    x = F.interpolate(faces[:, None].float(), (size, size), mode="bilinear", align_corners=False, antialias=True)
    return torch.floor(x + 0.5).clamp_(0, 255)
