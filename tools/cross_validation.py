"""Person-independent cross-validation of a student on a small labelled set. Imports mxn_edge and the training tools.

As the authors of MicroExpNet do it for CK+ and Oulu-CASIA: ten folds, no person in two of them, nine folds train and
the tenth tests, a fixed number of epochs. No fold chooses an epoch, so that the tested one has no say. The training
loop, with its augmentation, is that of tools.train_student.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mxn_edge.student import Student
from mxn_edge.weights import Weights
from tools.augment import AugmentOptions
from tools.ferplus import Faces
from tools.student_network import StudentNetwork, from_weights, to_weights
from tools.train_student import INPUT_SCALE
from tools.training import TrainOptions, soft_cross_entropy, train


class CrossValidationError(ValueError):
    """The faces cannot be divided; the message says why."""


@dataclass(frozen=True)
class Fold:
    """What came of one fold.

    Attributes:
        persons: who is tested.
        count: their faces.
        accuracy: fraction of them that is found.
    """

    persons: list[str]
    count: int
    accuracy: float


def divide(persons: Sequence[str], folds: int) -> NDArray[np.int64]:
    """Return the fold of each face: persons in ascending order are dealt to the folds in turn, with all their faces."""
    if "" in persons:
        raise CrossValidationError("it is not known whose faces these are; cross-validation must keep persons together")
    names, person = np.unique(np.asarray(persons), return_inverse=True)
    if len(names) < folds:
        raise CrossValidationError(f"{len(names)} persons ({', '.join(names[:5])}, ...) cannot fill {folds} folds")
    return person.astype(np.int64) % folds


def cross_validate(
    model: Weights,
    faces: NDArray[np.uint8],
    labels: NDArray[np.int64],
    persons: Sequence[str],
    *,
    folds: int,
    options: TrainOptions,
    dropout: float,
    fine_tune: bool,
    work: Path,
    progress: bool = True,
) -> tuple[NDArray[np.float32], list[Fold]]:
    """Return the logits of each face by the student that never saw its person, and what came of each fold.

    Args:
        model: gives architecture, hidden units, labels and preprocessing; and the start, when fine-tuning.
        faces: (N, 84, 84), cropped as the model wants them.
        labels: class of each face.
        persons: whose face it is.
        folds: number of folds.
        options: options of the training loop.
        dropout: probability of dropping a hidden unit.
        fine_tune: start from the model's weights instead of from scratch.
        work: folder for the checkpoints; a run that was stopped goes on from them.
        progress: show the progress of the training.
    """
    fold_of = divide(persons, folds)
    targets = np.eye(len(model.labels), dtype=np.float32)[labels]
    logits = np.empty((len(faces), len(model.labels)), np.float32)
    results = []
    for fold in range(folds):
        test = fold_of == fold
        part = Faces(faces[~test], targets[~test], labels[~test])
        torch.manual_seed(options.seed)
        network = _start(model, dropout, fine_tune)
        checkpoint = work / f"fold-{fold}.checkpoint"
        train(
            network,
            part,
            part,
            soft_cross_entropy(part.targets, 0.0),
            options,
            AugmentOptions(),
            setup={"fold": fold, "dropout": dropout, "fine_tune": fine_tune, "hidden": model.hidden},
            checkpoint=checkpoint,
            resume=True,
            progress=progress,
        )
        # The loop leaves the network at its best epoch; here nothing chooses, and the last one counts.
        network.load_state_dict(torch.load(checkpoint, weights_only=True)["average"])
        student = Student(to_weights(network, model.labels, model.preprocessing, f"fold {fold}"))
        out = student.logits(faces[test])
        logits[test] = out
        hits = out.argmax(axis=1) == labels[test]
        results.append(
            Fold(sorted({persons[index] for index in np.flatnonzero(test).tolist()}), len(hits), float(hits.mean()))
        )
    return logits, results


@torch.no_grad()
def _start(model: Weights, dropout: float, fine_tune: bool) -> StudentNetwork:
    if not fine_tune:
        return StudentNetwork(
            model.architecture,
            model.hidden,
            len(model.labels),
            batch_norm=True,
            dropout=dropout,
            input_scale=INPUT_SCALE,
        )
    network = from_weights(model)
    # The same function, with weights of conv1 that are not tiny beside a step of the optimiser.
    network.input_scale = INPUT_SCALE
    network.conv1.weight /= INPUT_SCALE
    network.dropout.p = dropout
    return network
