"""Fine-tune a student with int8 rounding in the loop: `python -m tools.quantise_aware --help`.

Imports mxn_edge and the training tools. The arithmetic that is simulated, and that an integer kernel has to do:

    conv1   a = sum x * q          x: u8 grey levels, q: s8 weights, a: s32, at most 64 * 255 * 127 in size
            y = clamp(rint(max_pool(a) * s[c] + b[c]), 0, 255)             u8
    conv2   the same on y                                   at most 256 * 255 * 127
    fc1     a = sum y * q                                   at most 3872 * 255 * 127: below 2^27
            h = max(a * s[c] + b[c], 0)                                    float32
    fc2     logits = h * w + b, in float32: 384 products of 2.8 million

- Weights are symmetric, one scale per output channel c: q = rint(w / s[c]), s[c] = max |w[..., c]| / 127.
- Activations have the scale 1 and the zero point 0. The network is first rescaled, channel by channel, so that its
  activations fill 0..255; the factors are positive, so that ReLU and max pooling let them through. Requantising needs
  nothing but the weights' scales and the bias, a zero of SAME padding is the integer 0, and max pooling comes first.
- a is converted to float32; product and sum are rounded to float32 one after the other; rint rounds halves to even.
- The u8 x s8 products need 32-bit (or saturation-free) sums: two of them do not fit into 16 bits.

The file that is written is an ordinary weight file. Its conv1, conv2 and fc1 weights are q * s exactly: s has at most
16 significant bits and the largest |q| of each channel is 127, so that a reader that computes max |w| / 127 finds s
again, bit for bit, and rounding w / s loses nothing. The activations' scales are in the report beside it.
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
from torch import Tensor, nn

from mxn_edge.weights import WeightFileError, Weights, read_weights, write_weights
from tools.augment import AugmentOptions, preparation, render, resize_faces
from tools.command_line import HelpFormatter, between
from tools.ferplus import LABELS, Faces, FerPlusError, read_ferplus
from tools.metrics import measure
from tools.student_network import StudentNetwork, from_weights, to_weights
from tools.training import TeacherLogits, TrainingError, TrainOptions, predict, run_views, seeded, train

U8_MAX, S8_MAX = 255, 127
QUANTISED = ("conv1", "conv2", "fc1")
# Trained numbers are kept near 1: biases are in units of 1 / 256 of the activations' range. A power of two is exact.
_UNIT = 256.0


class QuantisationError(ValueError):
    """The student cannot be quantised; the message says why."""


class QuantisedStudent(nn.Module):
    """A student as an integer kernel computes it; gradients go straight through the rounding.

    Args:
        weights: whose activations fill 0..255 (see `rescale`), or a file that this tool wrote.
    """

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.network = from_weights(weights)
        with torch.no_grad():
            for name in QUANTISED:
                getattr(self.network, name).bias /= _UNIT
            self.network.fc2.weight *= _UNIT

    def forward(self, faces: Tensor) -> Tensor:
        """Return logits (N, classes) of faces (N, 1, 84, 84), raw grey; grey levels are rounded."""
        hidden = self.activations(faces)[-1]
        return F.linear(hidden, self.network.fc2.weight / _UNIT, self.network.fc2.bias)

    def activations(self, faces: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what enters conv2 and fc1, whole numbers 0..255, and fc2; maps are (N, channels, height, width)."""
        network = self.network
        x = _round_activations(faces)
        q, scale = _quantise(network.conv1.weight)
        # Sums of less than 2^24 are exact in float32.
        x = F.conv2d(x, q, stride=network.conv1.stride, padding=network.conv1.padding)
        if network.pool1:
            x = F.max_pool2d(x, 2)
        first = _round_activations(_requantise(x, scale, network.conv1.bias))

        q, scale = _quantise(network.conv2.weight)
        x = F.conv2d(F.pad(first, (1, 2, 1, 2)), q, stride=network.conv2.stride)
        if network.pool2:
            x = F.max_pool2d(x, 2, ceil_mode=True)
        second = _round_activations(_requantise(x, scale, network.conv2.bias))

        q, scale = _quantise(network.fc1.weight)
        flat = second.permute(0, 2, 3, 1).flatten(1)
        # Here they are not; training does not mind.
        x = F.linear(flat, q) if self.training else F.linear(flat.double(), q.double()).float()
        return first, second, F.relu(_requantise(x, scale, network.fc1.bias))

    @torch.no_grad()
    def to_weights(self, labels: tuple[str, ...], preprocessing: str, training: str) -> Weights:
        """Return the weights that quantise without loss."""
        network = StudentNetwork(self.network.architecture, len(self.network.fc1.bias), len(labels))
        network.load_state_dict(self.network.state_dict())
        for name in QUANTISED:
            layer = getattr(network, name)
            q, scale = _quantise(layer.weight)
            layer.weight.copy_(q * scale.view(-1, *[1] * (q.ndim - 1)))
            layer.bias *= _UNIT
        network.fc2.weight /= _UNIT
        return to_weights(network, labels, preprocessing, training)

    @torch.no_grad()
    def weight_scales(self) -> dict[str, list[float]]:
        """Layer -> scale of each output channel."""
        return {name: _quantise(getattr(self.network, name).weight)[1].tolist() for name in QUANTISED}


def _quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers -127..127, shaped like `weight`, and one scale per output channel (the first axis)."""
    largest = weight.detach().abs().flatten(1).amax(1)
    mantissa, exponent = torch.frexp(largest / S8_MAX)
    scale = torch.ldexp(torch.round(mantissa * 2**16) / 2**16, exponent)
    scale = torch.where(largest > 0, scale, 1.0)  # a dead channel
    q = weight / scale.view(-1, *[1] * (weight.ndim - 1))
    return q + (q.round() - q).detach(), scale


def _requantise(sums: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    assert bias is not None
    shape = (1, -1) + (1,) * (sums.ndim - 2)
    return sums * scale.view(shape) + (bias * _UNIT).view(shape)


def _round_activations(x: Tensor) -> Tensor:
    x = x.clamp(0, U8_MAX)
    return x + (x.round() - x).detach()


@torch.no_grad()
def rescale(weights: Weights, faces: Tensor, quantile: float = 0.9999) -> Weights:
    """Return weights of the same function whose activations on `faces` (N, 1, 84, 84) fill 0..255 in every channel.

    Above the quantile they will be clamped. A channel that hardly ever answers counts as one of 2 % of the strongest.
    """
    network = from_weights(weights)
    seen: dict[str, list[Tensor]] = {name: [] for name in ("norm1", "norm2", "norm3")}
    for name, outputs in seen.items():
        getattr(network, name).register_forward_hook(
            lambda module, inputs, output, outputs=outputs: outputs.append(output.transpose(0, 1).flatten(1))
        )
    predict(network, faces)
    factors = []
    for outputs in seen.values():
        ranges = torch.from_numpy(np.quantile(torch.cat(outputs, 1).clamp_min(0).numpy(), quantile, axis=1))
        if not ranges.max() > 0:
            raise QuantisationError("a layer of the student is silent on all faces")
        factors.append(U8_MAX / ranges.clamp_min(0.02 * ranges.max()).double().numpy())
    first, second, third = factors
    tensors = {name: tensor.astype(np.float64) for name, tensor in weights.tensors.items()}
    tensors["conv1.weight"] *= first  # the last axis is the output
    tensors["conv1.bias"] *= first
    tensors["conv2.weight"] *= second / first[:, None]
    tensors["conv2.bias"] *= second
    places = len(tensors["fc1.weight"]) // len(second)
    tensors["fc1.weight"] *= third / np.tile(second, places)[:, None]
    tensors["fc1.bias"] *= third
    tensors["fc2.weight"] /= third[:, None]
    return replace(weights, tensors={name: tensor.astype(np.float32) for name, tensor in tensors.items()})


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
        "activations and int8 weights, and write weights that quantise without loss, with a JSON report. The epoch "
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
