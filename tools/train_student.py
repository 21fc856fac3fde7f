"""Train a MicroExpNet student on FER+ votes and write its weight file: `python -m tools.train_student --help`.

Imports the training tools and `mxn_edge.weights`. Distillation uses the same parts with another loss.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from mxn_edge.weights import (
    ARCHITECTURES,
    INPUT_SIZE,
    MAX_HIDDEN,
    WeightFileError,
    Weights,
    read_weights,
    write_weights,
)
from tools.augment import face_views, preparation, resize_faces
from tools.checkpoints import TrainingError
from tools.command_line import add_training_options, parse, prepare_outputs, training_options, write_report
from tools.ferplus import LABELS, Faces, FerPlusError, read_ferplus
from tools.student_network import StudentNetwork, from_weights, to_weights, trainable_from_weights
from tools.terminal import HelpFormatter, above_zero, between
from tools.training import (
    Loss,
    Pictures,
    TeacherLogits,
    TrainOptions,
    mean_prediction,
    score,
    soft_cross_entropy,
    train,
)

#: Training faces whose statistics normalise weights that a run starts from.
START_FACES = 2048

# Grey levels to about 0..1; folded into conv1 afterwards.
INPUT_SCALE = 1 / 256


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = parse(_parser(), argv)
    torch.set_num_threads(args.threads)
    try:
        faces, valid = read_ferplus(args.data, "train").sharpened(args.sharpen), read_ferplus(args.data, "valid")
        prepare_outputs(args)
        loss = soft_cross_entropy(faces.targets, args.least_share)
        train_and_write("train_student", args, faces, valid, loss, "no distillation")
    except (FerPlusError, TrainingError, WeightFileError, OSError) as error:
        print(f"train_student: {error}", file=sys.stderr)
        return 1
    return 0


def train_and_write(
    tool: str,
    args: argparse.Namespace,
    faces: Faces,
    valid: Faces,
    loss: Loss,
    note: str,
    *,
    teacher: TeacherLogits | None = None,
    pictures: Pictures | None = None,
    setup: Mapping[str, object] | None = None,
) -> None:
    """Train a student as `args` says, write its weight file and report.

    Args:
        tool: name of the command-line tool, for the report.
        args: the options of `add_student_options`.
        faces: training faces.
        valid: faces that select the epoch.
        loss: what is minimised.
        note: what the weight file's training note says besides data, epochs and seed.
        teacher: where the loss finds teacher logits.
        pictures: the views, rendered, if they are.
        setup: what makes up the loss and the teacher, for the checkpoint.
    """
    options, augment = training_options(args, INPUT_SIZE)
    network_options = {"architecture": args.architecture, "hidden": args.hidden, "dropout": args.dropout}
    torch.manual_seed(args.seed)
    start = None if args.start is None else read_start(args)
    prepare = preparation(args.preprocessing)
    if start is None:
        network = StudentNetwork(**network_options, batch_norm=True, input_scale=INPUT_SCALE)
    else:
        usual = prepare(resize_faces(torch.from_numpy(faces.images[:START_FACES])))
        network = trainable_from_weights(start, usual, dropout=args.dropout, input_scale=INPUT_SCALE)
        setup = {**(setup or {}), "start": start.training}
    history = train(
        network,
        faces,
        valid,
        loss,
        options,
        augment,
        setup={**network_options, "least_share": args.least_share, **(setup or {})},
        checkpoint=args.checkpoint,
        resume=args.resume,
        teacher=teacher,
        pictures=pictures,
        progress=not args.quiet,
    )
    unlabelled = int((faces.labels < 0).sum())
    votes = f"FER+ votes of {len(faces) - unlabelled} training faces"
    if args.sharpen != 1:
        note += f", sharpened by {args.sharpen:g}"
    if unlabelled:
        votes += f" and {unlabelled} faces without labels"
    training = f"{votes}, {args.epochs} epochs, seed {args.seed}, {note}"
    if args.pairs:
        training += ", by pairs of views"
    if start is not None:
        training = f"{start.training}; then {training}"
    weights = to_weights(network, LABELS, args.preprocessing, training)
    # What is reported is what the written tensors do, not the form that was trained.
    inputs = prepare(resize_faces(torch.from_numpy(valid.images)))
    scores = score(mean_prediction(from_weights(weights), face_views(inputs) if args.pairs else (inputs,)), valid)
    write_weights(args.out, weights)
    write_report(args, tool, faces, valid, scores, history, parameters=weights.parameters)
    print(f"{args.out}: valid accuracy {scores.accuracy:.4f}, balanced accuracy {scores.balanced_accuracy:.4f}")


def read_start(args: argparse.Namespace) -> Weights:
    """Read the weights that a run starts from; they must be of the student that it trains."""
    start = read_weights(args.start)
    wanted = (args.architecture, args.hidden, LABELS, args.preprocessing)
    found = (start.architecture, start.hidden, start.labels, start.preprocessing)
    if found != wanted:
        raise TrainingError(f"{args.start}: weights of {found}, to start a run of {wanted}")
    return start


def add_student_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `train_and_write` reads."""
    add_training_options(parser, TrainOptions(), dropout=0.0)
    parser.add_argument("--architecture", choices=sorted(ARCHITECTURES), default="microexpnet-p12", help="topology")
    parser.add_argument(
        "--preprocessing",
        choices=("face-square", "face-square-standardised"),
        default="face-square-standardised",
        help="how faces are cropped, here and at run time",
    )
    parser.add_argument(
        "--sharpen",
        type=above_zero,
        default=1.0,
        metavar="POWER",
        help="exponent on the probabilities to learn: above 1 what most raters say counts for more",
    )
    parser.add_argument(
        "--pairs",
        action="store_true",
        help="learn by the mean of the answers to two views of a face, too, as the Recognizer answers by that of four; "
        "twice as long",
    )
    parser.add_argument(
        "--start", type=Path, metavar="FILE", help="weight file to go on from, at lower rates, instead of chance"
    )
    parser.add_argument("--hidden", type=between(1, MAX_HIDDEN), default=48, help="hidden units")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.train_student",
        description="Train a MicroExpNet student on the votes of FER+ and write its weight file. The epoch with the "
        "best mean of accuracy and balanced accuracy on the valid split is kept; the test split is never read. After "
        "a kill, the same command with --resume gives the same result as a run that was not interrupted.",
        formatter_class=HelpFormatter,
    )
    add_student_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
