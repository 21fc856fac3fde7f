"""The training loop that students, teachers and distillation share. Imports torch, tqdm and the data tools.

Everything random is seeded by (seed, epoch), so that a run is reproduced exactly by the same machine with the same
number of threads, and a run that was stopped and resumed equals one that was not.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Generator, Tensor, nn
from tqdm import tqdm  # type: ignore[import-untyped]

from tools.augment import AugmentOptions, Views, draw_views, face_views, preparation, render, resize_faces
from tools.checkpoints import TrainingError, read_checkpoint, write_checkpoint
from tools.ferplus import LABELS, Faces

#: Of student logits, soft targets and, in distillation, the teacher's logits of the same faces.
Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]

#: Of an epoch's view number: teacher logits (N, classes) of every training face in that view.
TeacherLogits = Callable[[int], Tensor]

#: Of an epoch's view number: every training face in that view, (N, size, size) uint8, as the network sees it.
Pictures = Callable[[int], Tensor]


@dataclass(frozen=True)
class TrainOptions:
    """Options of the loop.

    Attributes:
        epochs: passes over the training faces.
        batch: faces per step.
        learning_rate: peak rate of AdamW; a linear warm-up precedes and a cosine decay to 0 follows it.
        muon_rate: peak rate of Muon, with the same course, for all matrices and kernels but the last; 0 leaves them to
            AdamW. Muon takes steps whose singular values are all alike (torch.optim.Muon), which brings a small
            network much further in the same number of epochs; its cost grows with the cube of a layer's width.
        weight_decay: on matrices and kernels only.
        warmup: epochs of warm-up.
        ema: decay per step of the averaged weights, which are the ones that are evaluated and kept.
        seed: seed of everything random.
        views: number of different views of the data; epoch e shows view e modulo this. 0 is one view per epoch.
        size: side of the network's input.
        preprocessing: how the network sees faces at run time, see `mxn_edge.preprocess.Preprocessor`.
        bfloat16: multiply in bfloat16 while training; evaluation is always float32.
        pairs: show two of the four views of each picture (`augment.face_views`), in turn two others. Half of the loss
            is that of the mean of their logits, a quarter that of each; the epoch is selected by the mean over all
            four, which is how the Recognizer answers.
    """

    epochs: int = 100
    batch: int = 128
    learning_rate: float = 4e-3
    muon_rate: float = 0.0
    weight_decay: float = 0.01
    warmup: float = 2.0
    ema: float = 0.999
    seed: int = 1
    views: int = 0
    size: int = 84
    preprocessing: str = "face-square"
    bfloat16: bool = False
    pairs: bool = False


@dataclass(frozen=True)
class Scores:
    """How well logits agree with the raters.

    Attributes:
        accuracy: fraction of faces whose majority label is found.
        balanced_accuracy: mean of the recalls.
        cross_entropy: mean cross-entropy against the soft targets, in nats.
        recall: label -> fraction of its faces that are found; labels without a face are left out.
    """

    accuracy: float
    balanced_accuracy: float
    cross_entropy: float
    recall: dict[str, float]


def score(logits: Tensor, faces: Faces) -> Scores:
    """Compare logits (N, classes) with the targets of the same faces."""
    labels = torch.from_numpy(faces.labels)
    hits = logits.argmax(1) == labels
    recall = {
        name: hits[labels == index].double().mean().item()
        for index, name in enumerate(LABELS)
        if (labels == index).any()
    }
    return Scores(
        accuracy=hits.double().mean().item(),
        balanced_accuracy=sum(recall.values()) / len(recall),
        cross_entropy=F.cross_entropy(logits, torch.from_numpy(faces.targets)).item(),
        recall=recall,
    )


@torch.no_grad()
def predict(network: nn.Module, inputs: Tensor, batch: int = 256) -> Tensor:
    """Return the float32 logits of `inputs` in evaluation mode."""
    network.eval()
    return torch.cat([network(part) for part in torch.split(inputs, batch)])


def mean_prediction(network: nn.Module, views: Sequence[Tensor]) -> Tensor:
    """Return the mean of the float32 logits over views of the same faces."""
    return torch.stack([predict(network, view) for view in views]).mean(0)


def seeded(*numbers: int) -> Generator:
    """Return a generator seeded by all the numbers together."""
    digest = hashlib.sha256(repr(numbers).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


def run_views(count: int, augment: AugmentOptions, seed: int, view: int) -> Views:
    """Return a view of every training face; `view` numbers the views of the run with this seed."""
    return draw_views(count, augment, seeded(seed, view, 0))


def train(
    network: nn.Module,
    faces: Faces,
    valid: Faces,
    loss: Loss,
    options: TrainOptions,
    augment: AugmentOptions,
    *,
    setup: Mapping[str, object] | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    teacher: TeacherLogits | None = None,
    pictures: Pictures | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Train `network` in place and leave it with the averaged weights of its best epoch.

    Best is the highest mean of accuracy and balanced accuracy on `valid`: accuracy alone forgets the rare expressions.

    Args:
        network: what is trained.
        faces: training faces.
        valid: faces that select the epoch.
        loss: what is minimised.
        options: options of the loop.
        augment: how far the views stray.
        setup: whatever else makes this run what it is (network, loss).
        checkpoint: file that is written after every epoch.
        resume: go on from `checkpoint` if it exists; its options, data and setup must be the same.
        teacher: where the loss finds teacher logits.
        pictures: the views, rendered; by default each is rendered when it is shown. Every second round of
            `options.views` views is shown mirrored, which costs nothing.
        progress: show a progress bar (on a terminal) and one line per epoch.

    Returns:
        One record per epoch: learning rate, training loss, seconds and the scores on `valid`.
    """
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs a third of a step
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,unused-ignore]
    images, targets = torch.from_numpy(faces.images), torch.from_numpy(faces.targets)
    prepare = preparation(options.preprocessing)
    valid_inputs = prepare(resize_faces(torch.from_numpy(valid.images), options.size))
    valid_views = [view.contiguous() for view in face_views(valid_inputs)] if options.pairs else [valid_inputs]
    optimizer = _Optimizer(network, options)
    average = {name: value.clone() for name, value in network.state_dict().items()}
    best: dict[str, Any] = {"value": -1.0, "state": average}
    history: list[dict[str, Any]] = []
    fingerprint = _fingerprint(faces, valid, options, augment, setup or {})

    if resume and checkpoint is not None and checkpoint.exists():
        saved = read_checkpoint(checkpoint, fingerprint)
        network.load_state_dict(saved["network"])
        optimizer.load_state_dict(saved["optimizer"])
        average, best, history = saved["average"], saved["best"], saved["history"]

    steps = len(faces) // options.batch  # an odd last batch would disturb the normalisation
    if steps == 0:
        raise TrainingError(f"{len(faces)} training faces do not fill one batch of {options.batch}")
    for epoch in range(len(history), options.epochs):
        start = time.perf_counter()
        view = epoch % options.views if options.views else epoch
        order = torch.randperm(len(faces), generator=seeded(options.seed, epoch, 2))
        torch.manual_seed(seeded(options.seed, epoch, 3).initial_seed())  # dropout
        teacher_logits = None if teacher is None else teacher(view)
        if pictures is None:
            views, noise = run_views(len(faces), augment, options.seed, view), seeded(options.seed, epoch, 1)
        else:
            rendered = pictures(view)
        mirrored = options.views > 0 and epoch // options.views % 2 == 1
        network.train()
        total = 0.0
        bar = tqdm(range(steps), f"epoch {epoch + 1}/{options.epochs}", leave=False, disable=None if progress else True)
        for step in bar:
            index = order[step * options.batch : (step + 1) * options.batch]
            if pictures is None:
                inputs = prepare(render(images[index], views[index], noise, options.size))
            else:
                inputs = rendered[index][:, None].float()
                inputs = inputs.flip(3) if mirrored else inputs
            if options.pairs:
                inputs = torch.cat(face_views(inputs)[:2] if step % 2 else face_views(inputs)[2:])
            with torch.autocast("cpu", torch.bfloat16, enabled=options.bfloat16):
                logits = network(inputs.contiguous(memory_format=torch.channels_last)).float()
            learned = targets[index], None if teacher_logits is None else teacher_logits[index]
            if options.pairs:
                first, second = logits.chunk(2)
                alone = (loss(first, *learned) + loss(second, *learned)) / 2
                cost = (loss((first + second) / 2, *learned) + alone) / 2
            else:
                cost = loss(logits, *learned)
            network.zero_grad(set_to_none=True)
            cost.backward()  # type: ignore[no-untyped-call]
            share = _share_of_peak(epoch * steps + step, steps, options)
            optimizer.step(share)
            _update_average(average, network, epoch * steps + step, options.ema)
            total += cost.item()
        if not math.isfinite(total):
            raise TrainingError(f"the loss is not finite in epoch {epoch + 1}; try a lower learning rate")

        trained = {name: value.clone() for name, value in network.state_dict().items()}
        network.load_state_dict(average)
        scores = score(mean_prediction(network, valid_views), valid)
        network.load_state_dict(trained)
        seconds = time.perf_counter() - start
        history.append(
            {
                "epoch": epoch + 1,
                "learning_rate": share * options.learning_rate,
                "loss": total / steps,
                "seconds": seconds,
                **asdict(scores),
            }
        )
        if (value := (scores.accuracy + scores.balanced_accuracy) / 2) > best["value"]:
            best = {"value": value, "state": {name: value.clone() for name, value in average.items()}}
        if checkpoint is not None:
            state = {
                "network": trained,
                "optimizer": optimizer.state_dict(),
                "average": average,
                "best": best,
                "history": history,
            }
            write_checkpoint(checkpoint, fingerprint, state)
        if progress:
            tqdm.write(
                f"epoch {epoch + 1:3d}  loss {total / steps:.4f}  valid accuracy {scores.accuracy:.4f}"
                f"  balanced {scores.balanced_accuracy:.4f}  cross-entropy {scores.cross_entropy:.4f}  {seconds:.1f} s",
                file=sys.stderr,
            )
    network.load_state_dict(best["state"])
    network.eval()
    return history


def _fingerprint(
    faces: Faces, valid: Faces, options: TrainOptions, augment: AugmentOptions, setup: Mapping[str, object]
) -> str:
    digest = hashlib.sha256()
    for part in (faces, valid):
        for array in (part.images, part.targets, part.labels):
            digest.update(np.ascontiguousarray(array).tobytes())
    content = {"data": digest.hexdigest()[:16], **asdict(options), **asdict(augment), **setup}
    return json.dumps(content, sort_keys=True)


class _Optimizer:
    """AdamW, or Muon for all matrices and kernels but the last and AdamW for the rest."""

    def __init__(self, network: nn.Module, options: TrainOptions) -> None:
        matrices = [parameter for parameter in network.parameters() if parameter.ndim > 1]
        vectors = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
        self._muon_matrices = matrices[:-1] if options.muon_rate else []
        groups = [
            {"params": matrices[len(self._muon_matrices) :], "weight_decay": options.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self._parts: list[tuple[torch.optim.Optimizer, float]] = [
            (torch.optim.AdamW(groups, lr=options.learning_rate, fused=True), options.learning_rate)
        ]
        if self._muon_matrices:
            # Muon wants two axes: other names for the same numbers.
            self._flat = [nn.Parameter(_flattened(matrix.detach())) for matrix in self._muon_matrices]
            assert all(flat.data_ptr() == matrix.data_ptr() for flat, matrix in self._pairs())
            muon = torch.optim.Muon(self._flat, lr=options.muon_rate, weight_decay=options.weight_decay)
            self._parts.append((muon, options.muon_rate))

    def _pairs(self) -> zip[tuple[nn.Parameter, nn.Parameter]]:
        return zip(self._flat, self._muon_matrices, strict=True)

    def step(self, share: float) -> None:
        """Take a step at this share of the peak rates."""
        if self._muon_matrices:
            for flat, matrix in self._pairs():
                flat.grad = None if matrix.grad is None else _flattened(matrix.grad)
        for optimizer, rate in self._parts:
            for group in optimizer.param_groups:
                group["lr"] = rate * share
            optimizer.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """What `load_state_dict` takes."""
        return [optimizer.state_dict() for optimizer, _ in self._parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Go on from there."""
        for (optimizer, _), state in zip(self._parts, states, strict=True):
            optimizer.load_state_dict(state)


def _flattened(matrix: Tensor) -> Tensor:
    """One row per output; of a kernel in channels-last order that is no copy."""
    return matrix.permute(0, 2, 3, 1).flatten(1) if matrix.ndim == 4 else matrix


def _share_of_peak(step: int, steps: int, options: TrainOptions) -> float:
    warmup = options.warmup * steps
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(options.epochs * steps - warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * progress))


@torch.no_grad()
def _update_average(average: dict[str, Tensor], network: nn.Module, step: int, decay: float) -> None:
    decay = min(decay, (1 + step) / (10 + step))  # forget the start quickly
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value, 1 - decay)
        else:
            average[name].copy_(value)


def soft_cross_entropy(targets: NDArray[np.float32], least_share: float) -> Loss:
    """Return the cross-entropy against soft targets, corrected for rare classes.

    The network learns to answer as if every class made up at least `least_share` of the data: while training, the log
    of how much rarer a class is than that is added to its logit (logit adjustment, Menon et al., 2021).

    Args:
        targets: (N, classes) of all training faces; their mean is the share of each class.
        least_share: 0 corrects nothing, 1 treats all classes alike.
    """
    share = torch.from_numpy(targets.mean(axis=0)).clamp_min(1e-6)
    adjustment = torch.log(share / share.clamp_min(least_share))

    def loss(logits: Tensor, targets: Tensor, teacher_logits: Tensor | None) -> Tensor:
        del teacher_logits
        return F.cross_entropy(logits + adjustment, targets)

    return loss
