"""Fine-tune a student with int8 rounding in the loop: `python -m tools.quantise_aware --help`.

Imports mxn_edge, tools.quantisation and the training tools.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mxn_edge.weights import WeightFileError, Weights, read_weights, write_weights
from tools.augment import AugmentOptions, preparation, render, resize_faces
from tools.checkpoints import TrainingError
from tools.ferplus import LABELS, Faces, FerPlusError, read_ferplus
from tools.metrics import measure
from tools.quantisation import QuantisationError, QuantisedStudent, rescale
from tools.student_network import from_weights
from tools.terminal import HelpFormatter, between
from tools.training import TeacherLogits, TrainOptions, predict, run_views, seeded, train


def float_answers(weights: Weights, faces: Faces, augment: AugmentOptions, seed: int) -> TeacherLogits:
    """Return what gives the float student's logits of the training faces, in the views that training shows."""
    network, images = from_weights(weights), torch.from_numpy(faces.images)
    prepare = preparation(weights.preprocessing)

    def logits(view: int) -> Tensor:
        views = run_views(len(faces), augment, seed, view)
        parts = []
        for start in range(0, len(faces), 256):
            part = slice(start, start + 256)
            parts.append(predict(network, prepare(render(images[part], views[part], seeded(0)))))
        return torch.cat(parts)

    return logits


def imitation_loss(logits: Tensor, targets: Tensor, teacher_logits: Tensor | None) -> Tensor:
    """Cross-entropy against the float student's probabilities: the aim is to answer as it does."""
    del targets
    assert teacher_logits is not None
    return F.cross_entropy(logits, torch.softmax(teacher_logits, 1))


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        _run(args)
    except (QuantisationError, FerPlusError, WeightFileError, TrainingError, OSError) as error:
        print(f"quantise_aware: {error}", file=sys.stderr)
        return 1
    return 0


def _run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    weights = read_weights(args.model)
    if weights.labels != LABELS:
        raise QuantisationError(f"{args.model}: labels {', '.join(weights.labels)} are not FER+'s")
    faces, valid = read_ferplus(args.data, "train"), read_ferplus(args.data, "valid")
    args.out.parent.mkdir(parents=True, exist_ok=True)

    order = np.random.default_rng(args.seed).permutation(len(faces))[:1024]
    prepare = preparation(weights.preprocessing)
    student = QuantisedStudent(rescale(weights, prepare(resize_faces(torch.from_numpy(faces.images[order])))))
    inputs = prepare(resize_faces(torch.from_numpy(valid.images)))
    expected = predict(from_weights(weights), inputs)
    rounded = predict(student, inputs)
    # Noise is drawn while training: the float student could not see it.
    augment = replace(AugmentOptions(), noise=0.0)
    options = TrainOptions(
        epochs=args.epochs,
        learning_rate=args.learning_rate,
        weight_decay=0.0,
        warmup=min(1.0, args.epochs / 4),
        seed=args.seed,
        preprocessing=weights.preprocessing,
        bfloat16=False,
    )
    history = train(
        student,
        faces,
        valid,
        imitation_loss,
        options,
        augment,
        setup={"network": "int8", "hidden": weights.hidden, "training": weights.training},
        checkpoint=args.out.with_suffix(".checkpoint"),
        resume=args.resume,
        teacher=float_answers(weights, faces, augment, args.seed),
        progress=not args.quiet,
    )
    note = f"{weights.training}; fine-tuned for int8 to imitate that, {args.epochs} epochs, seed {args.seed}"
    written = student.to_weights(weights.labels, weights.preprocessing, note)
    write_weights(args.out, written)

    # What is reported is what the written tensors do.
    again = QuantisedStudent(read_weights(args.out))
    logits = {
        "float": expected,
        "int8 without fine-tuning": rounded,
        "int8": predict(again, inputs),
        "written weights in float": predict(from_weights(written), inputs),
    }
    results = {name: _compare(part, expected, valid) for name, part in logits.items()}
    report = {
        "tool": "quantise_aware",
        "model": args.model.name,
        "arguments": {"epochs": args.epochs, "learning_rate": args.learning_rate, "seed": args.seed},
        "valid": results,
        "activation_scales": {"conv1 input": 1.0, "conv2 input": 1.0, "fc1 input": 1.0},
        "activation_zero_points": {"conv1 input": 0, "conv2 input": 0, "fc1 input": 0},
        "weight_scales": again.weight_scales(),
        "curve": history,
    }
    (args.report or args.out.with_suffix(".json")).write_text(json.dumps(report, indent=1) + "\n")
    print(f"{args.out}: {len(valid)} faces of FER+ valid")
    for name, result in results.items():
        print(
            f"{name:<26} accuracy {result['accuracy']:.4f}  balanced {result['balanced_accuracy']:.4f}"
            f"  negative log-likelihood {result['negative_log_likelihood']:.4f}"
            f"  same answer as float {result['agreement']:.4f}"
        )


def _compare(logits: Tensor, expected: Tensor, faces: Faces) -> dict[str, Any]:
    metrics = measure(logits.numpy(), faces.labels, LABELS, resamples=1)
    return {
        "accuracy": metrics.accuracy.value,
        "balanced_accuracy": metrics.balanced_accuracy.value,
        "negative_log_likelihood": metrics.negative_log_likelihood.value,
        "agreement": (logits.argmax(1) == expected.argmax(1)).double().mean().item(),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.quantise_aware",
        description="Fine-tune a float student on the training faces of FER+ so that it answers the same with uint8 "
        "activations and int8 weights, and write a quantised weight file, with a JSON report. The epoch "
        "with the best mean of accuracy and balanced accuracy on valid is kept; the test split is never read.",
        formatter_class=HelpFormatter,
    )
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="weight file of the float student")
    add("data", type=Path, metavar="DATA", help="ferplus.npz")
    add("out", type=Path, metavar="OUT", help="weight file to write")
    add("--epochs", type=between(1, 100_000), default=10, help="passes over the training faces")
    add("--learning-rate", type=float, default=2e-4, help="peak learning rate of AdamW")
    add("--seed", type=int, default=1, help="seed of everything random")
    add("--threads", type=between(1, 1024), default=1, help="threads; another number rounds differently")
    add("--resume", action="store_true", help="go on from the checkpoint (OUT with suffix .checkpoint) if there is one")
    add("--report", type=Path, help="JSON report (default: OUT with suffix .json)")
    add("--quiet", action="store_true", help="no progress, only the last lines")
    return parser


if __name__ == "__main__":
    sys.exit(main())
