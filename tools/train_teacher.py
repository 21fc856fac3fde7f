"""Train a teacher on FER+ votes and write its file: `python -m tools.train_teacher --help`.

Imports the training tools. The teacher is only used by distillation; the package never sees it.
"""

from __future__ import annotations

import argparse
import sys

import torch

from tools.augment import resize_faces
from tools.checkpoints import TrainingError
from tools.command_line import add_training_options, parse, prepare_outputs, training_options, write_report
from tools.ferplus import FerPlusError, read_ferplus
from tools.teacher_network import TEACHER_CHANNELS, TEACHER_SIZE, TeacherNetwork, write_teacher
from tools.terminal import HelpFormatter
from tools.training import TrainOptions, predict, score, soft_cross_entropy, train


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = parse(_parser(), argv)
    try:
        _run(args)
    except (FerPlusError, TrainingError, OSError) as error:
        print(f"train_teacher: {error}", file=sys.stderr)
        return 1
    return 0


def _run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    faces, valid = read_ferplus(args.data, "train"), read_ferplus(args.data, "valid")
    prepare_outputs(args)
    options, augment = training_options(args, TEACHER_SIZE)
    torch.manual_seed(args.seed)
    network = TeacherNetwork(args.size, dropout=args.dropout)
    loss = soft_cross_entropy(faces.targets, args.least_share)
    history = train(
        network,
        faces,
        valid,
        loss,
        options,
        augment,
        setup={"network": f"teacher, {args.size}", "dropout": args.dropout, "least_share": args.least_share},
        checkpoint=args.checkpoint,
        resume=args.resume,
        progress=not args.quiet,
    )
    write_teacher(args.out, network, f"FER+ votes of {len(faces)} faces, {args.epochs} epochs, seed {args.seed}")
    scores = score(predict(network, resize_faces(torch.from_numpy(valid.images), TEACHER_SIZE)), valid)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    write_report(args, "train_teacher", faces, valid, scores, history, parameters=parameters)
    print(f"{args.out}: valid accuracy {scores.accuracy:.4f}, balanced accuracy {scores.balanced_accuracy:.4f}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.train_teacher",
        description="Train a residual network of 2.4 or 2.8 million parameters on the votes of FER+, for python -m "
        "tools.distil. The epoch with the best mean of accuracy and balanced accuracy on the valid split is kept; the "
        "test split is never read. After a kill, the same command with --resume gives the same result as a run that "
        "was not interrupted.",
        formatter_class=HelpFormatter,
    )
    defaults = TrainOptions(epochs=30, batch=64, learning_rate=1.5e-3, weight_decay=0.05)
    add_training_options(parser, defaults, dropout=0.3)
    parser.add_argument("--size", choices=sorted(TEACHER_CHANNELS), default="large", help="small: four times as fast")
    return parser


if __name__ == "__main__":
    sys.exit(main())
