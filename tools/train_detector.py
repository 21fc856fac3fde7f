"""Train the first stage of the face detector: python -m tools.train_detector DATA CHECKPOINT.

Imports `tools.detector_photos`, `tools.detector_views`, `tools.detector_network` and what the command lines share.
DATA is a folder with portraits, backgrounds, ferplus.npz and YuNet; `tools.train_refiner` makes a weight file of
CHECKPOINT.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tools.checkpoints import TrainingError, read_checkpoint, write_checkpoint
from tools.detector_network import DetectorNetwork, as_input, detect, detection_loss
from tools.detector_photos import Photo, label, load, load_fer, portrait_names, split_names
from tools.detector_views import SIDE, HardPlace, Sources, Studio
from tools.terminal import HelpFormatter, between

#: Faces that the network sees in a background count as errors to learn from when it is surer than this.
MINED_SCORE = 0.15
MINED_SCALES = (0.4, 0.7, 1.2)


@dataclass(frozen=True)
class Options:
    """How long and how fast to learn.

    Attributes:
        rounds: each draws new pictures, after a search of the backgrounds for what the network takes for faces.
        pictures: of a round.
        passes: over the pictures of a round.
    """

    rounds: int = 6
    pictures: int = 40_000
    passes: int = 5
    batch: int = 64
    learning_rate: float = 4e-3
    weight_decay: float = 1e-3
    ema: float = 0.9995
    seed: int = 1

    @property
    def steps_per_pass(self) -> int:
        """Full batches only."""
        return self.pictures // self.batch

    @property
    def steps(self) -> int:
        """Of the whole training."""
        return self.rounds * self.passes * self.steps_per_pass


def gather(data: Path, labels: dict[str, list[list[float]]]) -> Sources:
    """What training pictures are made of; nothing of the valid and test splits."""

    def sure(photo: Photo, score: float) -> bool:
        return len(photo.boxes) > 0 and float(photo.boxes[:, 4].max()) >= score

    portraits = load(data, (f"portraits/{name}" for name in portrait_names(data, "train")), labels)
    backgrounds = load(data, (f"backgrounds/{name}" for name in split_names("backgrounds", "train")), labels)
    return Sources(
        portraits=[photo for photo in portraits if len(photo.boxes) == 1 and sure(photo, 0.75)],
        fer=load_fer(data, labels),
        groups=[photo for photo in backgrounds if sure(photo, 0.75)],
        backgrounds=[photo for photo in backgrounds if photo.is_free_of_faces],
        hard=[],
    )


def mine(network: DetectorNetwork, backgrounds: Sequence[Photo]) -> list[HardPlace]:
    """What the network takes for faces in photos without any, the surest first."""
    found = []
    for number, photo in enumerate(backgrounds):
        for scale in MINED_SCALES:
            way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            picture = cv2.resize(photo.image, None, fx=scale, fy=scale, interpolation=way)
            for x0, y0, x1, y1, score in detect(network, np.asarray(picture, np.uint8), MINED_SCORE)[:6].tolist():
                side = math.sqrt((x1 - x0) * (y1 - y0)) / scale
                found.append(HardPlace(number, (x0 + x1) / 2 / scale, (y0 + y1) / 2 / scale, side, score))
    return sorted(found, key=lambda place: -place.score)


@torch.no_grad()
def examine(network: DetectorNetwork, pictures: NDArray[np.uint8], boxes: NDArray[np.float32]) -> dict[str, float]:
    """Recall at one false alarm in twenty held-out pictures, and the mean IoU there."""
    network.eval()
    hits: list[tuple[float, bool, float]] = []
    asked = 0
    for picture, there in zip(pictures, boxes, strict=True):
        found = detect(network, picture, 0.05)
        faces, ignored = there[there[:, 4] == 1, :4], there[(there[:, 4] != 0) & (there[:, 4] != 1), :4]
        asked += len(faces)
        used = np.zeros(len(faces), bool)
        for box in found:
            overlaps = _iou(box[:4], faces) * ~used
            if len(faces) and overlaps.max() >= 0.4:
                used[best := int(overlaps.argmax())] = True
                hits.append((float(box[4]), True, float(overlaps[best])))
            elif not (len(ignored) and _iou(box[:4], ignored).max() >= 0.2):
                hits.append((float(box[4]), False, 0.0))
    hits.sort(key=lambda hit: -hit[0])
    wrong = np.cumsum([not hit for _, hit, _ in hits])
    allowed = int(np.searchsorted(wrong, 0.05 * len(pictures), side="right"))
    right = [iou for _, hit, iou in hits[:allowed] if hit]
    return {"recall": len(right) / max(1, asked), "iou": float(np.mean(right)) if right else 0.0}


def _iou(box: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = np.prod(np.clip(high - low, 0, None), 1)
    iou: NDArray[np.float32] = shared / (
        np.prod(box[2:] - box[:2]) + np.prod(others[:, 2:] - others[:, :2], axis=1) - shared
    )
    return iou


def train(
    sources: Sources, held_out: Sources, options: Options, checkpoint: Path, *, resume: bool, workers: int
) -> list[dict[str, Any]]:
    """Train, and leave the averaged network in the checkpoint; returns one report a pass.

    Resumes at the pass that was interrupted.
    """
    with Studio(sources, workers) as studio:
        with Studio(held_out, workers) as examiner:
            test = examiner.render(min(1000, options.pictures), (0, 0), [])
        return _train(sources, studio, test, options, checkpoint, resume)


def _train(
    sources: Sources,
    studio: Studio,
    test: tuple[NDArray[np.uint8], NDArray[np.float32]],
    options: Options,
    checkpoint: Path,
    resume: bool,
) -> list[dict[str, Any]]:
    torch.manual_seed(options.seed)
    network, average = DetectorNetwork(), DetectorNetwork()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,unused-ignore]
    average.load_state_dict(network.state_dict())
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=options.learning_rate,
    )
    step, hard, reports = 0, [], []
    if resume and checkpoint.is_file():
        saved = read_checkpoint(checkpoint, asdict(options))
        network.load_state_dict(saved["network"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        step, reports = saved["step"], saved["reports"]
        hard = [HardPlace(*place) for place in saved["hard"]]
    per_round = options.passes * options.steps_per_pass
    for number in range(step // per_round, options.rounds):
        if number and step == number * per_round:
            hard = mine(average.eval(), sources.backgrounds)
        pictures, boxes = studio.render(options.pictures, (options.seed, number), hard)
        start = time.perf_counter()
        for epoch in range((step - number * per_round) // options.steps_per_pass, options.passes):
            random = np.random.default_rng((options.seed, number, epoch))
            order = random.permutation(options.pictures)
            losses = np.zeros(3)
            network.train()
            for i in range(options.steps_per_pass):
                chosen = order[i * options.batch : (i + 1) * options.batch]
                rate = options.learning_rate * _schedule(step, options.steps)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                losses += _step(network, optimizer, pictures[chosen], boxes[chosen], random)
                step += 1
                blend(average, network, min(options.ema, step / (step + 20)))
            score, box, iou = losses / options.steps_per_pass
            line = {"round": number + 1, "pass": epoch + 1, "score_loss": score, "box_loss": box, "iou": iou}
            line |= {"seconds": time.perf_counter() - start, "hard_places": len(hard)}
            if epoch == options.passes - 1 or epoch % 2 == 1:
                line |= examine(average, *test)
            reports.append({key: float(value) for key, value in line.items()})
            print("  ".join(f"{key} {value:.4g}" for key, value in reports[-1].items()), flush=True)
            state = {"network": network.state_dict(), "average": average.state_dict(), "step": step}
            state |= {"optimizer": optimizer.state_dict(), "reports": reports}
            state["hard"] = [(p.background, p.x, p.y, p.side, p.score) for p in hard]
            write_checkpoint(checkpoint, asdict(options), state)
    return reports


def _schedule(step: int, steps: int) -> float:
    """Fraction of the peak rate: a short rise, then half a cosine."""
    return min(1.0, (step + 1) / 300) * (0.5 * (1 + math.cos(math.pi * step / steps)) + 0.002)


def _step(
    network: DetectorNetwork,
    optimizer: torch.optim.Optimizer,
    pictures: NDArray[np.uint8],
    boxes: NDArray[np.float32],
    random: np.random.Generator,
) -> NDArray[np.float64]:
    x, there = as_input(pictures), torch.from_numpy(boxes.copy())
    if random.random() < 0.5:
        x = x.flip(3)
        real = there[..., 4:] != 0
        there = torch.cat([SIDE - there[..., 2:3], there[..., 1:2], SIDE - there[..., :1], there[..., 3:]], -1) * real
    gain = torch.from_numpy(random.uniform(0.75, 1.25, (len(x), 1, 1, 1)).astype(np.float32))
    shift = torch.from_numpy(random.normal(0, 0.12, (len(x), 1, 1, 1)).astype(np.float32))
    x = (x * gain + shift).clamp(-2, 2).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        answers = network(x)
    score, box, iou = detection_loss(answers.float(), there, SIDE, SIDE)
    optimizer.zero_grad()
    (4 * score + 1.5 * box).backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
    optimizer.step()
    return np.array([score.item(), box.item(), iou.item()])


@torch.no_grad()
def blend(average: nn.Module, network: nn.Module, keep: float) -> None:
    """Move what `average` has learned towards `network`, in place: a running mean of its weights."""
    for mean, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.dtype.is_floating_point:
            mean.lerp_(new, 1 - keep)
        else:
            mean.copy_(new)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and write; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.train_detector", description=__doc__, formatter_class=HelpFormatter
    )
    add = parser.add_argument
    add("data", type=Path, metavar="DATA", help="folder with portraits, backgrounds, ferplus.npz and detectors")
    add("checkpoint", type=Path, metavar="CHECKPOINT", help="written after every pass; with suffix .json, a report")
    add("--rounds", type=between(1, 1000), default=Options.rounds, help="times that errors are searched for")
    add("--pictures", type=between(100, 10**6), default=Options.pictures, help="drawn for each round")
    add("--passes", type=between(1, 1000), default=Options.passes, help="over the pictures of a round")
    add("--batch", type=between(2, 4096), default=Options.batch, help="pictures per step")
    add("--learning-rate", type=float, default=Options.learning_rate, help="peak learning rate of AdamW")
    add("--ema", type=float, default=Options.ema, help="decay per step of the averaged weights")
    add("--seed", type=int, default=Options.seed, help="seed of everything random")
    add("--threads", type=between(1, 1024), default=1, help="threads; another number rounds differently")
    add("--workers", type=between(1, 1024), default=1, help="processes that draw pictures")
    add("--labels", type=Path, required=True, help="JSON file that keeps YuNet's boxes; made where it is missing")
    add("--resume", action="store_true", help="go on from the checkpoint if there is one")
    args = parser.parse_args(arguments)
    names = ("rounds", "pictures", "passes", "batch", "learning_rate", "ema", "seed")
    options = Options(**{name: getattr(args, name) for name in names})
    torch.set_num_threads(args.threads)
    args.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    labels = label(args.data, args.labels, args.workers)
    sources = gather(args.data, labels)
    portraits = load(args.data, (f"portraits/{name}" for name in portrait_names(args.data, "valid")), labels)
    others = load(args.data, (f"backgrounds/{name}" for name in split_names("backgrounds", "valid")), labels)
    held_out = Sources(
        portraits=[photo for photo in portraits if len(photo.boxes) == 1 and photo.boxes[0, 4] >= 0.75],
        fer=sources.fer,
        groups=[photo for photo in others if len(photo.boxes) and photo.boxes[:, 4].max() >= 0.75],
        backgrounds=[photo for photo in others if photo.is_free_of_faces],
        hard=[],
    )
    try:
        reports = train(sources, held_out, options, args.checkpoint, resume=args.resume, workers=args.workers)
    except TrainingError as error:
        print(f"train_detector: {error}", file=sys.stderr)
        return 1
    report = {"options": asdict(options), "passes": reports}
    args.checkpoint.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
