"""Train the detector's second look at its candidates: python -m tools.train_refiner DATA CHECKPOINT OUT.

Imports `tools.detector_photos`, `tools.detector_views`, `tools.detector_network` and `tools.train_detector`, whose
CHECKPOINT holds the first stage; so does a weight file. OUT is the weight file of both.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from mxn_edge.weights import read_detector_weights
from tools.checkpoints import TrainingError, read_checkpoint, write_checkpoint
from tools.detector_network import (
    REFINED_SIZE,
    REFINED_SQUARE,
    DetectorNetwork,
    Refiner,
    load_refiner,
    load_tensors,
    write_detector,
)
from tools.detector_photos import Photo, label
from tools.detector_views import HardPlace, Sources
from tools.terminal import HelpFormatter, between
from tools.train_detector import blend, gather, mine

Picture = NDArray[np.uint8]
Offsets = tuple[float, float, float, float]

#: Steps from one state of a training that is kept to the next.
CHECKPOINT_STEPS = 1000


class Crops:
    """Crops as the refiner gets them: faces around which a first guess lies, and what was taken for faces."""

    def __init__(self, sources: Sources, random: np.random.Generator) -> None:
        self._sources, self._random = sources, random

    def crop(self) -> tuple[Picture, float, Offsets]:
        """A picture, whether it is a face, and where the face's box lies in the square."""
        draw = self._random.random()
        if draw < 0.5:
            return self._face()
        if draw < 0.6:
            return self._beside_a_face()
        return self._background()

    def batch(self, count: int) -> tuple[Picture, NDArray[np.float32], NDArray[np.float32]]:
        """As `crop`: count × 48 × 48, count, count × 4."""
        pictures, wanted, offsets = zip(*(self.crop() for _ in range(count)), strict=True)
        return np.stack(pictures), np.array(wanted, np.float32), np.array(offsets, np.float32)

    def _a_face(self) -> tuple[Photo, NDArray[np.float32]]:
        draw = self._random.random()
        sources = self._sources
        photos = sources.portraits if draw < 0.65 else sources.fer if draw < 0.75 else sources.groups
        photo = photos[int(self._random.integers(len(photos)))]
        boxes = photo.boxes[photo.boxes[:, 4] >= 0.7]
        return photo, boxes[self._random.integers(len(boxes))]

    def _face(self) -> tuple[Picture, float, Offsets]:
        random = self._random
        photo, (x, y, width, height, _) = self._a_face()
        spread = 1.0 if random.random() < 0.75 else 1.8  # most guesses are good
        guess_width, guess_height = (side * np.exp(random.normal(0, 0.13 * spread)) for side in (width, height))
        cx = x + width / 2 + random.normal(0, 0.09 * spread) * width
        cy = y + height / 2 + random.normal(0, 0.09 * spread) * height
        side = REFINED_SQUARE * max(guess_width, guess_height)
        angle = random.normal(0, 8 if random.random() < 0.75 else 20)
        # Turned about the face's own centre, which stays where it is in the square.
        picture = self._cut(photo.image, cx, cy, side, angle, (x + width / 2, y + height / 2))
        offsets = (
            (x + width / 2 - cx) / side,
            (y + height / 2 - cy) / side,
            math.log(width / side),
            math.log(height / side),
        )
        if random.random() < 0.15:
            self._cover(picture)
        return self._spoil(picture), 1.0, offsets

    def _beside_a_face(self) -> tuple[Picture, float, Offsets]:
        """Part of a face, or a face much too large or small: the guess overlaps it by less than a quarter or so."""
        random = self._random
        photo, (x, y, width, height, _) = self._a_face()
        cx, cy, side = x + width / 2, y + height / 2, REFINED_SQUARE * max(width, height)
        if random.random() < 0.5:
            side *= 0.4 if random.random() < 0.5 else 2.6
        else:
            angle = random.uniform(0, 2 * math.pi)
            cx, cy = cx + 0.75 * width * math.cos(angle), cy + 0.75 * height * math.sin(angle)
            side *= math.exp(random.normal(0, 0.2))
        return self._spoil(self._cut(photo.image, cx, cy, side, random.normal(0, 8), (cx, cy))), 0.0, (0, 0, 0, 0)

    def _background(self) -> tuple[Picture, float, Offsets]:
        random, hard = self._random, self._sources.hard
        if hard and random.random() < 0.75:
            place = hard[int(len(hard) * random.random() ** 1.3)]
            image = self._sources.backgrounds[place.background].image
            side = REFINED_SQUARE * 1.12 * place.side * math.exp(random.normal(0, 0.12))
            cx, cy = (v + random.normal(0, 0.08) * place.side for v in (place.x, place.y))
        else:
            image = self._sources.backgrounds[int(random.integers(len(self._sources.backgrounds)))].image
            side = math.exp(random.uniform(math.log(16), math.log(min(image.shape))))
            cx, cy = random.uniform(0, image.shape[1]), random.uniform(0, image.shape[0])  # over the border, too
        return self._spoil(self._cut(image, cx, cy, side, random.normal(0, 10), (cx, cy))), 0.0, (0, 0, 0, 0)

    def _cut(
        self, image: Picture, cx: float, cy: float, side: float, degrees: float, pivot: tuple[float, float]
    ) -> Picture:
        """A square of the image, turned about `pivot`.

        Beyond the image is another, not its border repeated: streaks would tell faces, whose pictures are tight, from
        backgrounds.
        """
        turn = cv2.getRotationMatrix2D(pivot, degrees, 1.0)
        scale = REFINED_SIZE / side
        matrix = scale * turn
        matrix[:, 2] += [REFINED_SIZE / 2 - 0.5 - scale * cx, REFINED_SIZE / 2 - 0.5 - scale * cy]
        source = cv2.GaussianBlur(image, (0, 0), 0.4 / scale) if scale < 0.8 else image
        other = self._sources.backgrounds[int(self._random.integers(len(self._sources.backgrounds)))].image
        size = (REFINED_SIZE, REFINED_SIZE)
        if self._random.random() < 0.85:
            behind = cv2.resize(other, size, interpolation=cv2.INTER_AREA)
            return np.asarray(
                cv2.warpAffine(source, matrix, size, dst=behind, borderMode=cv2.BORDER_TRANSPARENT), np.uint8
            )
        return np.asarray(cv2.warpAffine(source, matrix, size, borderMode=cv2.BORDER_REPLICATE), np.uint8)

    def _cover(self, picture: Picture) -> None:
        random = self._random
        width, height = random.integers(8, 24, 2)
        x, y = random.integers(0, REFINED_SIZE - width), random.integers(0, REFINED_SIZE - height)
        picture[y : y + height, x : x + width] = random.integers(0, 256)

    def _spoil(self, picture: Picture) -> Picture:
        """Few pixels, blur, little light, noise, JPEG."""
        random = self._random
        if random.random() < 0.5:
            few = int(random.integers(14, REFINED_SIZE))
            small = cv2.resize(picture, (few, few), interpolation=cv2.INTER_AREA)
            picture = np.asarray(cv2.resize(small, picture.shape, interpolation=cv2.INTER_LINEAR), np.uint8)
        image = picture.astype(np.float32)
        if random.random() < 0.2:
            image = cv2.GaussianBlur(image, (0, 0), random.uniform(0.4, 1.5))  # type: ignore[assignment]
        if random.random() < 0.3:
            image = image * random.uniform(0.2, 1.2) + random.uniform(0, 40)
        if random.random() < 0.25:
            ramp = np.linspace(-0.5, 0.5, REFINED_SIZE, dtype=np.float32)
            image = image * (1 + random.uniform(-1, 1) * ramp + random.uniform(-0.6, 0.6) * ramp[:, None])
        if random.random() < 0.4:
            noise = random.standard_normal(image.shape, dtype=np.float32)
            image = image + noise * random.uniform(1, 9)
        picture = np.clip(image, 0, 255).astype(np.uint8)
        if random.random() < 0.15:
            quality = [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(25, 80))]
            picture = np.asarray(
                cv2.imdecode(cv2.imencode(".jpg", picture, quality)[1], cv2.IMREAD_GRAYSCALE), np.uint8
            )
        return picture


def as_refined_input(pictures: Picture) -> Tensor:
    """Brings each picture to mean 128 and deviation 52, as csrc/standardise.c does, and then as the first stage's."""
    x = torch.from_numpy(pictures).float()
    mean, deviation = x.mean((1, 2), keepdim=True), x.std((1, 2), keepdim=True, correction=0)
    return (((x - mean) * (52 / deviation.clamp(min=10))).clamp(-128, 127) / 64)[:, None]


class Batches(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Batch i of a training, drawn when it is asked for; which process draws it makes no difference."""

    def __init__(self, sources: Sources, *, steps: int, batch: int, seed: int) -> None:
        self._sources, self._steps, self._batch, self._seed = sources, steps, batch, seed

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, Tensor]:
        random = np.random.default_rng((self._seed, i))
        pictures, wanted, offsets = Crops(self._sources, random).batch(self._batch)
        x = as_refined_input(pictures)
        if random.random() < 0.5:
            x, offsets = x.flip(3), offsets * np.array([-1, 1, 1, 1], np.float32)
        return x, torch.from_numpy(wanted), torch.from_numpy(offsets)


def box_iou(said: Tensor, there: Tensor) -> Tensor:
    """Intersection over union of boxes n × 4: x, y of the centre, logarithms of width and height."""
    half, other_half = said[:, 2:].exp() / 2, there[:, 2:].exp() / 2
    low = torch.maximum(said[:, :2] - half, there[:, :2] - other_half)
    high = torch.minimum(said[:, :2] + half, there[:, :2] + other_half)
    shared = (high - low).clamp(min=0).prod(1)
    return shared / (4 * half.prod(1) + 4 * other_half.prod(1) - shared)


def train(
    sources: Sources,
    *,
    steps: int,
    batch: int,
    seed: int,
    learning_rate: float = 4e-3,
    workers: int = 0,
    start: Mapping[str, NDArray[np.float32]] | None = None,
    checkpoint: Path | None = None,
) -> Refiner:
    """Train on crops that are drawn as they are needed, by so many processes beside this one; on from `start`.

    A training that was interrupted goes on from `checkpoint`, which is written every `CHECKPOINT_STEPS`. The network
    computes in bfloat16, for which many CPUs have instructions.

    Raises:
        TrainingError: the checkpoint is of a training with other options, or not one.
    """
    torch.manual_seed(seed)
    refiner, average = Refiner(), Refiner()
    refiner.to(memory_format=torch.channels_last)  # type: ignore[call-overload,unused-ignore]
    if start is not None:
        load_refiner(refiner, start, Batches(sources, steps=1, batch=1000, seed=seed)[0][0])
        refiner.train()
    average.load_state_dict(refiner.state_dict())
    optimizer = torch.optim.AdamW(refiner.parameters(), weight_decay=0.01)
    options = {"steps": steps, "batch": batch, "seed": seed, "learning_rate": learning_rate}
    options |= {"hard_places": len(sources.hard), "from_a_start": start is not None}
    begun = 0
    if checkpoint is not None and checkpoint.is_file():
        saved = read_checkpoint(checkpoint, options)
        refiner.load_state_dict(saved["network"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["random"])
        begun = saved["step"]
    losses, began = np.zeros(4), time.perf_counter()
    batches = Batches(sources, steps=steps, batch=batch, seed=seed)
    # Its own generator: it would draw a number from the one that drops activations.
    drawn = DataLoader(
        batches, batch_size=None, sampler=range(begun, steps), num_workers=workers, generator=torch.Generator()
    )
    for step, (x, wanted, offsets) in enumerate(drawn, begun):
        for group in optimizer.param_groups:
            group["lr"] = (
                learning_rate * min(1, (step + 1) / 200) * (0.5 * (1 + math.cos(math.pi * step / steps)) + 0.002)
            )
        with torch.autocast("cpu", torch.bfloat16):
            said = refiner(x.contiguous(memory_format=torch.channels_last))
        said = said.float()
        face = wanted > 0
        score = F.binary_cross_entropy_with_logits(said[:, 0], wanted * 0.98 + 0.01)
        box = F.smooth_l1_loss(said[face, 1:], offsets[face], beta=0.05)
        iou = box_iou(said[face, 1:], offsets[face]).mean()
        optimizer.zero_grad()
        (score + 4 * box + 1 - iou).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        blend(average, refiner, min(0.998, (step + 1) / (step + 20)))
        wrong = ((said[:, 0] > 0) != face).float().mean().item()
        losses += [score.item(), box.item(), iou.item(), wrong]
        if (step + 1) % 250 == 0:
            score_loss, box_loss, mean_iou, error = losses / 250
            seconds = time.perf_counter() - began
            print(
                f"step {step + 1}  score_loss {score_loss:.4f}  box_loss {box_loss:.4f}  iou {mean_iou:.4f}  "
                f"wrong {error:.2%}  {seconds:.0f} s",
                flush=True,
            )
            losses[:] = 0
        if checkpoint is not None and (step + 1) % CHECKPOINT_STEPS == 0:
            state = {"network": refiner.state_dict(), "average": average.state_dict(), "step": step + 1}
            state |= {"optimizer": optimizer.state_dict(), "random": torch.get_rng_state()}
            write_checkpoint(checkpoint, options, state)
    return average.eval()


def read_first_stage(path: Path) -> tuple[DetectorNetwork, dict[str, Any]]:
    """The first stage of a checkpoint or a weight file, and how it was trained."""
    network = DetectorNetwork()
    if path.suffix == ".safetensors":
        weights = read_detector_weights(path)
        load_tensors(network, weights.tensors)
        training: dict[str, Any] = json.loads(weights.training)
        return network.eval(), training
    saved = torch.load(path, weights_only=True)
    network.load_state_dict(saved["average"])
    return network.eval(), {"first stage": saved["options"], "steps": saved["step"]}


def reduced(sources: Sources) -> Iterator[Picture]:
    """Pictures as the first stage sees them in use: a hundred of every kind, with a shorter side of 160 pixels."""
    for photos in (sources.portraits, sources.groups, sources.backgrounds):
        for photo in photos[:: max(1, len(photos) // 100)]:
            scale = 160 / min(photo.image.shape)
            yield np.asarray(cv2.resize(photo.image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and write; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.train_refiner", description=__doc__, formatter_class=HelpFormatter
    )
    add = parser.add_argument
    add("data", type=Path, metavar="DATA", help="folder with portraits, backgrounds, ferplus.npz and detectors")
    add("checkpoint", type=Path, metavar="CHECKPOINT", help="of tools.train_detector, or a weight file, .safetensors")
    add("out", type=Path, metavar="OUT", help="safetensors file to write, with both stages")
    add("--steps", type=between(1, 10**7), default=6000, help="batches")
    add("--batch", type=between(2, 4096), default=256, help="crops per step")
    add("--learning-rate", type=float, default=4e-3, help="peak learning rate of AdamW")
    add("--go-on", action="store_true", help="begin with the second stage of CHECKPOINT, a weight file")
    add("--resume", type=Path, metavar="FILE", help="keep the state of the training here, and go on from it")
    add("--seed", type=int, default=1, help="seed of everything random")
    add("--threads", type=between(1, 1024), default=1, help="threads; another number rounds differently")
    add("--workers", type=between(0, 1024), default=0, help="processes that draw crops beside this one")
    add("--labels", type=Path, required=True, help="JSON file with YuNet's boxes, as tools.train_detector keeps it")
    add("--score-threshold", type=float, default=0.5, help="least score, as tools.evaluate_detector chooses it")
    args = parser.parse_args(arguments)
    if args.go_on and args.checkpoint.suffix != ".safetensors":
        parser.error("--go-on needs a weight file, .safetensors")
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(1)
    for path in filter(None, (args.out, args.resume)):  # now, not after an hour
        path.parent.mkdir(parents=True, exist_ok=True)
    sources = gather(args.data, label(args.data, args.labels, 1))
    network, trained = read_first_stage(args.checkpoint)
    hard: list[HardPlace] = mine(network, sources.backgrounds)
    print(f"{len(hard)} places in backgrounds look like faces to the first stage", flush=True)
    sources = Sources(sources.portraits, sources.fer, sources.groups, sources.backgrounds, hard)
    names = ("steps", "batch", "seed", "learning_rate")
    options = {name: getattr(args, name) for name in names}
    start = read_detector_weights(args.checkpoint).tensors if args.go_on else None
    try:
        refiner = train(sources, **options, workers=args.workers, start=start, checkpoint=args.resume)
    except TrainingError as error:
        print(f"train_refiner: {error}", file=sys.stderr)
        return 1
    before = trained.get("refiner", []) if args.go_on else []
    training = trained | {"refiner": [*(before if isinstance(before, list) else [before]), options]}
    metadata = {"training": json.dumps(training), "score_threshold": args.score_threshold}
    crops, _, _ = Batches(sources, steps=1, batch=1000, seed=args.seed)[0]
    write_detector(args.out, network, refiner, reduced(sources), crops, metadata)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
