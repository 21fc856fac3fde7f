"""Import a TensorFlow 1 checkpoint of MicroExpNet into a weight file, without TensorFlow.

A checkpoint is a "tensor bundle" of two files: PREFIX.index, a LevelDB-style sorted table from tensor names to protobuf
records, and PREFIX.data-00000-of-00001, the raw values. Every checksum in both is verified, and nothing in them is
believed before it is checked. Imports numpy, mxn_edge.weights and tools.ferplus only.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

if not __package__:  # run as a file: the repository is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mxn_edge.weights import ARCHITECTURES, WeightFileError, Weights, write_weights
from tools.ferplus import LABELS

# The published checkpoints have our labels in our order. The Oulu-CASIA one has the same eight outputs, but its
# neutral and contempt (biases near -5, next to no gradient in the Adam slots) were never a training target.
_TENSOR_NAMES = {
    "wc1": "conv1.weight",
    "bc1": "conv1.bias",
    "wc2": "conv2.weight",
    "bc2": "conv2.bias",
    "wfc": "fc1.weight",
    "bfc": "fc1.bias",
    "wo": "fc2.weight",
    "bo": "fc2.bias",
}
_OPTIMIZER_SUFFIXES = ("/Adam", "/Adam_1", "beta1_power", "beta2_power")

# An index of the eight tensors and their Adam slots has under 1 KB, their values at most 48 MB (v, 1024 hidden units).
_MAX_INDEX_BYTES = 1 << 20
_MAX_DATA_BYTES = 64 << 20
_MAX_NAME_BYTES = 256
_MAX_RANK = 8

# The table format: leveldb/doc/table_format.md, with TensorFlow's CRC over each block and its type byte.
_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_FOOTER_BYTES = 48
_TRAILER_BYTES = 5
_FLOAT32 = 1  # DT_FLOAT in tensorflow/core/framework/types.proto


class CheckpointError(ValueError):
    """A checkpoint cannot be imported; the message says which file and why."""


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor's values are in the data file (BundleEntryProto)."""

    name: str
    shape: tuple[int, ...]
    offset: int
    size: int
    checksum: int


def _crc32c_table() -> list[int]:
    table = []
    for crc in range(256):
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


_CRC32C_TABLE = _crc32c_table()


def masked_crc32c(data: bytes) -> int:
    """The CRC-32C of `data`, rotated and offset as LevelDB stores it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC32C_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


class _Cursor:
    """Reads bytes from front to back and never past their end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    @property
    def left(self) -> int:
        return len(self.data) - self.position

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise CheckpointError(f"{count} bytes expected where {self.left} are left")
        self.position += count
        return self.data[self.position - count : self.position]

    def varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> 64:
                    raise CheckpointError("a varint exceeds 64 bits")
                if byte == 0 and shift:
                    raise CheckpointError("a varint is longer than it need be")
                return value
        raise CheckpointError("a varint is longer than 10 bytes")


def _message(data: bytes) -> tuple[dict[int, int], dict[int, list[bytes]]]:
    """Field number -> number, and field number -> byte strings, of one protobuf message."""
    numbers: dict[int, int] = {}
    strings: dict[int, list[bytes]] = {}
    cursor = _Cursor(data)
    while cursor.left:
        key = cursor.varint()
        field, wire_type = key >> 3, key & 7
        if wire_type == 0:
            numbers[field] = cursor.varint()
        elif wire_type == 1:
            numbers[field] = int.from_bytes(cursor.take(8), "little")
        elif wire_type == 2:
            strings.setdefault(field, []).append(cursor.take(cursor.varint()))
        elif wire_type == 5:
            numbers[field] = int.from_bytes(cursor.take(4), "little")
        else:
            raise CheckpointError(f"protobuf wire type {wire_type} is not supported")
    return numbers, strings


def _check_header(record: bytes) -> None:
    """Check a BundleHeaderProto."""
    numbers, _ = _message(record)
    if (shards := numbers.get(1, 0)) != 1:
        raise CheckpointError(f"the checkpoint has {shards} data files; only 1 is supported")
    if numbers.get(2, 0) != 0:
        raise CheckpointError("the checkpoint is big-endian; only little-endian is supported")


def _parse_entry(name: str, record: bytes) -> TensorEntry:
    """Parse and check a BundleEntryProto."""
    numbers, strings = _message(record)
    if (dtype := numbers.get(1, 0)) != _FLOAT32:
        raise CheckpointError(f"tensor {name!r} has TensorFlow type {dtype}; expected {_FLOAT32} (float32)")
    if 7 in strings:
        raise CheckpointError(f"tensor {name!r} is stored in slices, which is not supported")
    if (shard := numbers.get(3, 0)) != 0:
        raise CheckpointError(f"tensor {name!r} is in data file {shard}; there is only 0")
    dimensions = [dimension for shape in strings.get(2, []) for dimension in _message(shape)[1].get(2, [])]
    if len(dimensions) > _MAX_RANK:
        raise CheckpointError(f"tensor {name!r} has {len(dimensions)} dimensions; at most {_MAX_RANK} are supported")
    shape = tuple(_message(dimension)[0].get(1, 0) for dimension in dimensions)
    size = numbers.get(5, 0)
    # No dimension may be 0: numpy refuses some of such shapes, however few the bytes.
    if 0 in shape or math.prod(shape) * 4 != size:
        raise CheckpointError(f"tensor {name!r} of shape {shape} has {size} bytes")
    return TensorEntry(name, shape, offset=numbers.get(4, 0), size=size, checksum=numbers.get(6, 0))


def _read_block(table: bytes, handle: _Cursor, start: int = 0) -> tuple[bytes, int]:
    """The block that `handle` points to, not before `start`, its checksum verified; and where it ends."""
    offset, size = handle.varint(), handle.varint()
    end = offset + size + _TRAILER_BYTES
    if offset < start or end > len(table) - _FOOTER_BYTES:
        raise CheckpointError(f"block of {size} bytes at {offset} is out of place in a file of {len(table)} bytes")
    checked, checksum = table[offset : end - 4], table[end - 4 : end]
    if masked_crc32c(checked) != int.from_bytes(checksum, "little"):
        raise CheckpointError(f"checksum of the block at {offset} does not match")
    if checked[-1] != 0:
        raise CheckpointError(f"block at {offset} has compression type {checked[-1]}; only 0 (none) is supported")
    return checked[:-1], end


def _block_entries(block: bytes) -> list[tuple[bytes, bytes]]:
    """Keys and values of a block. Its end is an array of 32-bit restart points and their number."""
    restarts = int.from_bytes(block[-4:], "little")
    entries_end = len(block) - 4 * (restarts + 1)
    if restarts < 1 or entries_end < 0:
        raise CheckpointError(f"block of {len(block)} bytes has {restarts} restart points")
    cursor = _Cursor(block[:entries_end])
    entries: list[tuple[bytes, bytes]] = []
    key = b""
    while cursor.left:
        # A key is stored as the length that it shares with the one before, and the rest.
        shared, unshared, value_size = cursor.varint(), cursor.varint(), cursor.varint()
        if shared > len(key):
            raise CheckpointError(f"a key shares {shared} bytes with one of {len(key)} bytes")
        # Bounded, or a small file could unfold into gigabytes.
        if shared + unshared > _MAX_NAME_BYTES:
            raise CheckpointError(f"a key has {shared + unshared} bytes; at most {_MAX_NAME_BYTES} are supported")
        key = key[:shared] + cursor.take(unshared)
        entries.append((key, cursor.take(value_size)))
    return entries


def read_index(table: bytes) -> list[TensorEntry]:
    """The tensors that an index file lists. Raises `CheckpointError` when anything in it is wrong."""
    if len(table) < _FOOTER_BYTES or table[-8:] != _MAGIC:
        raise CheckpointError("not the index of a TensorFlow checkpoint, or truncated (no magic number at its end)")
    footer = _Cursor(table[-_FOOTER_BYTES:-8])
    _read_block(table, footer)  # the metaindex, which TensorFlow leaves empty
    index, _ = _read_block(table, footer)
    if any(footer.take(footer.left)):
        raise CheckpointError("the footer's padding is not zero")
    records: list[tuple[bytes, bytes]] = []
    end = 0
    for _, handle in _block_entries(index):
        # Blocks may not overlap, or a small file could be read over and over.
        block, end = _read_block(table, _Cursor(handle), start=end)
        records += _block_entries(block)
    if any(second <= first for (first, _), (second, _) in itertools.pairwise(records)):
        raise CheckpointError("the keys are not in ascending order")
    if not records or records[0][0] != b"":
        raise CheckpointError("the bundle's header record is missing")
    _check_header(records[0][1])
    return [_parse_entry(key.decode("utf-8", "backslashreplace"), record) for key, record in records[1:]]


def read_tensors(entries: Sequence[TensorEntry], data: bytes) -> dict[str, NDArray[np.float32]]:
    """The tensors in a data file, which they must fill without gaps. Raises `CheckpointError` otherwise."""
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.offset):
        if entry.offset != end:
            raise CheckpointError(f"tensor {entry.name!r} begins at byte {entry.offset}; expected {end}")
        end += entry.size
    if end != len(data):
        raise CheckpointError(f"{len(data)} bytes, truncated or foreign; the index lists {end} bytes of tensors")
    tensors = {}
    for entry in entries:
        values = data[entry.offset : entry.offset + entry.size]
        if masked_crc32c(values) != entry.checksum:
            raise CheckpointError(f"checksum of tensor {entry.name!r} does not match")
        tensors[entry.name] = np.frombuffer(values, "<f4").astype(np.float32).reshape(entry.shape)
    return tensors


def _read_file(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise CheckpointError(f"more than {limit} bytes, too large for a MicroExpNet checkpoint")
    return content


def _to_weights(tensors: dict[str, NDArray[np.float32]], architecture: str, name: str) -> Weights:
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith(_OPTIMIZER_SUFFIXES)}
    if missing := _TENSOR_NAMES.keys() - kept.keys():
        raise CheckpointError(f"not a MicroExpNet checkpoint: it lacks {', '.join(sorted(missing))}")
    if foreign := kept.keys() - _TENSOR_NAMES.keys():
        raise CheckpointError(f"not a MicroExpNet checkpoint: unknown tensors {', '.join(sorted(foreign))}")
    inputs = kept["wfc"].shape[0] if kept["wfc"].ndim else 0
    if inputs != ARCHITECTURES[architecture]:
        fitting = [name for name, width in ARCHITECTURES.items() if width == inputs]
        raise CheckpointError(
            f"'wfc' has {inputs} inputs, {architecture} needs {ARCHITECTURES[architecture]}; "
            f"architectures that fit: {', '.join(fitting) or 'none'}"
        )
    return Weights(
        architecture=architecture,
        labels=LABELS,
        preprocessing="microexpnet-paper",
        training=(
            f"TensorFlow checkpoint {name} of 'MicroExpNet: An Extremely Small and Fast Model For Expression "
            "Recognition From Frontal Face Images' (arXiv 1711.07011)"
        ),
        tensors={_TENSOR_NAMES[name]: tensor for name, tensor in kept.items()},
    )


def import_checkpoint(prefix: Path, architecture: str = "microexpnet-p12") -> Weights:
    """Read a checkpoint, given without .index and .data-00000-of-00001.

    Raises `OSError` when a file cannot be opened, `CheckpointError` when its content is damaged or foreign.
    """
    path = index_path = prefix.with_name(prefix.name + ".index")
    data_path = prefix.with_name(prefix.name + ".data-00000-of-00001")
    try:
        entries = read_index(_read_file(index_path, _MAX_INDEX_BYTES))
        path = data_path
        tensors = read_tensors(entries, _read_file(data_path, _MAX_DATA_BYTES))
        path = prefix
        return _to_weights(tensors, architecture, prefix.name)
    except (CheckpointError, WeightFileError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="import_checkpoint",
        description="Turn a TensorFlow 1 checkpoint of MicroExpNet into a weight file. TensorFlow is not needed.",
    )
    parser.add_argument(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT_PREFIX",
        help="path of the checkpoint without .index and .data-00000-of-00001",
    )
    parser.add_argument("output", type=Path, metavar="OUT.safetensors", help="weight file to write")
    parser.add_argument(
        "--architecture",
        choices=tuple(ARCHITECTURES),
        default="microexpnet-p12",
        help="the network that was trained; tensor shapes alone do not tell v from p1 or p2 from p12 "
        "(default: %(default)s, the published one)",
    )
    options = parser.parse_args(arguments)
    try:
        weights = import_checkpoint(options.checkpoint, options.architecture)
        write_weights(options.output, weights)
    except (OSError, CheckpointError) as error:
        print(f"import_checkpoint: error: {error}", file=sys.stderr)
        return 1
    print(f"{options.output}: {weights.architecture}, {weights.parameters:,} parameters, {', '.join(weights.labels)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
