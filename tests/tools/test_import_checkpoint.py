"""tools/import_checkpoint.py on checkpoints written here, on damaged and hostile ones, and on the published ones."""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mxn_edge.weights import Weights, read_weights
from tools import import_checkpoint as tool
from tools.import_checkpoint import CheckpointError, masked_crc32c, read_index, read_tensors

Tensors = Mapping[str, NDArray[np.float32]]
Entries = Sequence[tuple[bytes, bytes]]

MAGIC = bytes.fromhex("57fb808b247547db")


# A writer of tensor bundles, from the formats' specifications.


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def string(field: int, value: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(value)) + value


def fixed32(field: int, value: int) -> bytes:
    return varint(field << 3 | 5) + value.to_bytes(4, "little")


def header(shards: int = 1, endianness: int = 0) -> bytes:
    return number(1, shards) + number(2, endianness) + string(3, number(1, 1))


def entry(shape: Sequence[int], offset: int, size: int, checksum: int = 0, dtype: int = 1, shard: int = 0) -> bytes:
    dimensions = b"".join(string(2, number(1, dimension)) for dimension in shape)
    location = number(3, shard) + number(4, offset) + number(5, size)
    return number(1, dtype) + string(2, dimensions) + location + fixed32(6, checksum)


def encode_block(entries: Entries, restart_interval: int = 16) -> bytes:
    block, restarts, last = b"", [0], b""
    for i, (key, value) in enumerate(entries):
        shared = 0
        if i % restart_interval:
            while shared < min(len(last), len(key)) and last[shared] == key[shared]:
                shared += 1
        elif i:
            restarts.append(len(block))
        block += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    return block + b"".join(position.to_bytes(4, "little") for position in [*restarts, len(restarts)])


def seal(block: bytes, compression: int = 0) -> bytes:
    typed = block + bytes([compression])
    return typed + masked_crc32c(typed).to_bytes(4, "little")


def encode_table(blocks: Sequence[bytes], index: bytes | None = None, compression: int = 0) -> bytes:
    """A table of encoded blocks; `index` replaces the encoded index block."""
    table, handles = b"", []
    for block in blocks:
        handles.append(varint(len(table)) + varint(len(block)))
        table += seal(block, compression)
    if index is None:
        index = encode_block([(b"%04d" % i, handle) for i, handle in enumerate(handles)])
    footer = b""
    for block in (encode_block([]), index):
        footer += varint(len(table)) + varint(len(block))
        table += seal(block)
    return table + footer.ljust(40, b"\0") + MAGIC


def encode_records(tensors: Tensors) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Records of the index, and data file."""
    records, data = [(b"", header())], b""
    for name in sorted(tensors):
        values = tensors[name].astype("<f4").tobytes()
        records.append((name.encode(), entry(tensors[name].shape, len(data), len(values), masked_crc32c(values))))
        data += values
    return records, data


def encode_bundle(tensors: Tensors, entries_per_block: int = 1000) -> tuple[bytes, bytes]:
    """Index and data file."""
    records, data = encode_records(tensors)
    groups = [records[i : i + entries_per_block] for i in range(0, len(records), entries_per_block)]
    return encode_table([encode_block(group) for group in groups]), data


def index_of(*records: tuple[bytes, bytes], first: bytes | None = None) -> bytes:
    return encode_table([encode_block([(b"", header() if first is None else first), *records])])


SMALL: Tensors = {
    name: np.arange(math.prod(shape), dtype=np.float32).reshape(shape) + len(name)
    for name, shape in {"a": (2, 3), "a/Adam": (2, 3), "a/Adam_1": (2, 3), "b": (1, 1, 2, 2), "step": ()}.items()
}


def read(index: bytes, data: bytes) -> dict[str, NDArray[np.float32]]:
    return read_tensors(read_index(index), data)


@pytest.mark.parametrize(
    ("data", "crc"),
    [(b"", 0), (b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43)],
)
def test_crc32c_known_values(data: bytes, crc: int) -> None:
    assert masked_crc32c(data) == ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) % 2**32


@pytest.mark.parametrize("entries_per_block", [1, 2, 1000])
def test_bundle_round_trip(entries_per_block: int) -> None:
    tensors = read(*encode_bundle(SMALL, entries_per_block))
    assert tensors.keys() == SMALL.keys()
    for name, expected in SMALL.items():
        assert tensors[name].dtype == np.float32
        assert tensors[name].shape == expected.shape
        np.testing.assert_array_equal(tensors[name], expected)


# Damage: every truncation and every flipped bit of both files is noticed.


def test_index_truncated_at_every_length() -> None:
    index, _ = encode_bundle(SMALL, 3)
    for length in range(len(index)):
        with pytest.raises(CheckpointError):
            read_index(index[:length])


def test_index_with_any_bit_flipped() -> None:
    index, _ = encode_bundle(SMALL, 3)
    for position in range(len(index)):
        for bit in range(8):
            damaged = bytearray(index)
            damaged[position] ^= 1 << bit
            with pytest.raises(CheckpointError):
                read_index(bytes(damaged))


def test_data_truncated_at_every_length_or_longer() -> None:
    index, data = encode_bundle(SMALL)
    entries = read_index(index)
    for length in range(len(data)):
        with pytest.raises(CheckpointError, match="truncated"):
            read_tensors(entries, data[:length])
    with pytest.raises(CheckpointError, match="truncated"):
        read_tensors(entries, data + b"\0")


def test_data_with_any_bit_flipped() -> None:
    index, data = encode_bundle(SMALL)
    entries = read_index(index)
    for position in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            with pytest.raises(CheckpointError, match="checksum"):
                read_tensors(entries, bytes(damaged))


# Hostility: the checksums are right, the content is not.

VALUE = bytes(8)
GOOD = entry([2], 0, 8, masked_crc32c(VALUE))
OVERLONG = b"\x80" * 10 + b"\0"
TOO_LARGE = b"\xff" * 9 + b"\x7f"


def with_footer(footer: bytes) -> bytes:
    return encode_bundle(SMALL)[0][:-48] + footer.ljust(40, b"\0")[:40] + MAGIC


@pytest.mark.parametrize(
    ("index", "cause"),
    [
        pytest.param(b"", "magic", id="empty"),
        pytest.param(encode_bundle(SMALL)[0][:-1] + b"\0", "magic", id="wrong magic"),
        pytest.param(bytes(40) + MAGIC, "out of place", id="nothing but a footer"),
        pytest.param(with_footer(OVERLONG), "10 bytes", id="footer: overlong varint"),
        pytest.param(with_footer(TOO_LARGE), "64 bits", id="footer: varint over 64 bits"),
        pytest.param(with_footer(b"\x80" * 40), "10 bytes", id="footer: varint without end"),
        pytest.param(with_footer(b"\x80\0" * 4), "need be", id="footer: padded varint"),
        pytest.param(with_footer(varint(2**63) * 2), "out of place", id="footer: block far outside"),
        pytest.param(encode_table([encode_block([(b"", header())])], compression=1), "compression", id="snappy"),
        pytest.param(encode_table([encode_block([])]), "header record", id="no records"),
        pytest.param(encode_table([]), "header record", id="no blocks"),
        pytest.param(encode_table([encode_block([(b"a", GOOD)])]), "header record", id="no header"),
        pytest.param(encode_table([b""]), "restart", id="block without restart points"),
        pytest.param(encode_table([bytes(4)]), "restart", id="block with 0 restart points"),
        pytest.param(encode_table([b"\xff" * 4]), "restart", id="block with too many restart points"),
        pytest.param(encode_table([OVERLONG + bytes(4) + b"\1\0\0\0"]), "10 bytes", id="block: overlong varint"),
        pytest.param(encode_table([b"\1\0\0" + bytes(4) + b"\1\0\0\0"]), "shares", id="first key shares"),
        pytest.param(encode_table([b"\0\7\0a" + bytes(4) + b"\1\0\0\0"]), "left", id="key beyond the block"),
        pytest.param(encode_table([b"\0\1\7a" + bytes(4) + b"\1\0\0\0"]), "left", id="value beyond the block"),
        pytest.param(index_of((b"a" * 257, GOOD)), "key has 257", id="long key"),
        pytest.param(index_of((b"b", GOOD), (b"a", GOOD)), "ascending", id="keys descend"),
        pytest.param(index_of((b"a", GOOD), (b"a", GOOD)), "ascending", id="key twice"),
        pytest.param(index_of(first=header(shards=2)), "2 data files", id="two shards"),
        pytest.param(index_of(first=b""), "0 data files", id="empty header"),
        pytest.param(index_of(first=header(endianness=1)), "big-endian", id="big-endian"),
        pytest.param(index_of(first=b"\x0b"), "wire type", id="header: protobuf group"),
        pytest.param(index_of(first=b"\x08" + OVERLONG), "10 bytes", id="header: overlong varint"),
        pytest.param(index_of(first=b"\x1a\x7f"), "left", id="header: string beyond its end"),
        pytest.param(index_of((b"a", b"")), "type 0", id="empty record"),
        pytest.param(index_of((b"a", entry([2], 0, 16, dtype=2))), "type 2", id="double"),
        pytest.param(index_of((b"a", entry([2], 0, 8, shard=1))), "data file 1", id="other shard"),
        pytest.param(index_of((b"a", GOOD + string(7, b""))), "slices", id="slices"),
        pytest.param(index_of((b"a", entry([3], 0, 8))), "8 bytes", id="shape and size differ"),
        pytest.param(index_of((b"a", entry([2**64 - 1], 0, 8))), "8 bytes", id="negative dimension"),
        pytest.param(index_of((b"a", entry([0, 2**62], 0, 0))), "0 bytes", id="dimension 0"),
        pytest.param(index_of((b"a", entry([1] * 9, 0, 4))), "9 dimensions", id="many dimensions"),
        pytest.param(index_of((b"a", entry([2**60] * 8, 0, 8))), "8 bytes", id="huge shape"),
    ],
)
def test_hostile_index(index: bytes, cause: str) -> None:
    with pytest.raises(CheckpointError, match=cause):
        read_index(index)


def test_repeated_block_is_refused() -> None:
    block = encode_block([(b"", header())])
    handle = varint(0) + varint(len(block))
    index = encode_block([(b"%04d" % i, handle) for i in range(3)])
    with pytest.raises(CheckpointError, match="out of place"):
        read_index(encode_table([block], index))


@pytest.mark.parametrize(
    "records",
    [
        pytest.param([(b"a", entry([2], 4, 8))], id="starts late"),
        pytest.param([(b"a", GOOD), (b"b", GOOD)], id="overlap"),
        pytest.param([(b"a", GOOD), (b"b", entry([2], 12, 8))], id="gap"),
        pytest.param([(b"a", entry([2], 2**63, 8))], id="far outside"),
    ],
)
def test_tensors_out_of_place(records: Entries) -> None:
    with pytest.raises(CheckpointError, match="begins at byte"):
        read_tensors(read_index(index_of(*records)), VALUE)


def read_or_refuse(index: bytes, data: bytes) -> None:
    with contextlib.suppress(CheckpointError):
        read(index, data)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_any_change_under_a_right_checksum_is_read_or_refused(data: st.DataObject) -> None:
    records, values = encode_records(SMALL)
    block = bytearray(encode_block(records))
    for _ in range(data.draw(st.integers(1, 4))):
        block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    read_or_refuse(encode_table([bytes(block)]), values)
    read_or_refuse(encode_table([encode_block(records)], index=bytes(block)), values)


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    read_or_refuse(content, b"")
    read_or_refuse(content + MAGIC, b"")
    read_or_refuse(encode_table([content]), b"")
    read_or_refuse(index_of(first=content), b"")
    read_or_refuse(index_of((b"a", content)), b"")
    read_or_refuse(index_of((content or b"a", GOOD)), VALUE)


# From a checkpoint to a weight file.

TENSOR_NAMES = {
    "conv1.weight": "wc1",
    "conv1.bias": "bc1",
    "conv2.weight": "wc2",
    "conv2.bias": "bc2",
    "fc1.weight": "wfc",
    "fc1.bias": "bfc",
    "fc2.weight": "wo",
    "fc2.bias": "bo",
}


def checkpoint_tensors(weights: Weights) -> dict[str, NDArray[np.float32]]:
    """The tensors as the authors' training script saves them, Adam's state included."""
    tensors = {TENSOR_NAMES[name]: tensor for name, tensor in weights.tensors.items()}
    slots = {f"{name}/{slot}": np.zeros_like(tensor) for name, tensor in tensors.items() for slot in ("Adam", "Adam_1")}
    powers = {name: np.array(0.5, np.float32) for name in ("beta1_power", "beta2_power")}
    return {**tensors, **slots, **powers}


def write_checkpoint(prefix: Path, tensors: Tensors) -> None:
    index, data = encode_bundle(tensors)
    prefix.with_name(prefix.name + ".index").write_bytes(index)
    prefix.with_name(prefix.name + ".data-00000-of-00001").write_bytes(data)


@pytest.mark.parametrize("architecture", ["microexpnet-v", "microexpnet-p1", "microexpnet-p2", "microexpnet-p12"])
def test_import(tmp_path: Path, random_weights: Callable[..., Weights], architecture: str) -> None:
    weights = random_weights(architecture, hidden=3)
    write_checkpoint(tmp_path / "net.1", checkpoint_tensors(weights))
    output = tmp_path / "net.safetensors"
    assert tool.main([str(tmp_path / "net.1"), str(output), "--architecture", architecture]) == 0
    imported = read_weights(output)
    assert imported.architecture == architecture
    assert imported.labels == tool.LABELS
    assert imported.preprocessing == "microexpnet-paper"
    assert "net.1" in imported.training
    assert "1711.07011" in imported.training
    for name, tensor in weights.tensors.items():
        assert imported.tensors[name].tobytes() == tensor.tobytes()


def without(tensors: Tensors, name: str) -> Tensors:
    return {key: tensor for key, tensor in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        pytest.param(lambda tensors: without(tensors, "wfc"), "lacks wfc", id="missing"),
        pytest.param(lambda tensors: {**tensors, "wc3": tensors["wc2"]}, "unknown tensors wc3", id="foreign"),
        pytest.param(lambda tensors: {**tensors, "wfc": np.ones((), np.float32)}, "0 inputs", id="scalar"),
        pytest.param(lambda tensors: {**tensors, "wfc": np.ones((9, 3), np.float32)}, "fit: none", id="width"),
        pytest.param(
            lambda tensors: {**tensors, "wfc": np.ones((3872, 3), np.float32)},
            "fit: microexpnet-v, microexpnet-p1",
            id="other architecture",
        ),
        pytest.param(lambda tensors: {**tensors, "wc1": tensors["wc2"]}, "conv1.weight.* shape", id="shape"),
        pytest.param(lambda tensors: {**tensors, "bo": np.ones(6, np.float32)}, "fc2.bias.* shape", id="6 classes"),
        pytest.param(lambda tensors: {**tensors, "bo": np.full(8, np.nan, np.float32)}, "NaN", id="NaN"),
    ],
)
def test_foreign_tensors(
    tmp_path: Path, random_weights: Callable[..., Weights], change: Callable[[Tensors], Tensors], cause: str
) -> None:
    write_checkpoint(tmp_path / "net", change(checkpoint_tensors(random_weights(hidden=3))))
    with pytest.raises(CheckpointError, match=cause) as caught:
        tool.import_checkpoint(tmp_path / "net")
    assert str(tmp_path / "net") in str(caught.value)


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
@pytest.mark.parametrize("size", [0, 100, 1 << 30])
def test_errors_name_the_file(tmp_path: Path, random_weights: Callable[..., Weights], suffix: str, size: int) -> None:
    write_checkpoint(tmp_path / "net", checkpoint_tensors(random_weights(hidden=1)))
    with (tmp_path / f"net{suffix}").open("r+b") as file:
        file.truncate(size)  # 1 GB is a sparse file: a limit, not memory, must stop the reading
    with pytest.raises(CheckpointError, match=rf"net{suffix}: .*(truncated|too large)"):
        tool.import_checkpoint(tmp_path / "net")


def test_command_line(tmp_path: Path, random_weights: Callable[..., Weights], run_tool: Callable[..., object]) -> None:
    write_checkpoint(tmp_path / "net", checkpoint_tensors(random_weights()))
    done = run_tool("import_checkpoint", tmp_path / "net", tmp_path / "net.safetensors")
    assert (done.returncode, done.stderr) == (0, "")
    assert "65,000 parameters" in done.stdout

    absent = run_tool("import_checkpoint", tmp_path / "none", tmp_path / "none.safetensors")
    assert absent.returncode == 1
    assert absent.stderr.startswith("import_checkpoint: error: ")
    assert "none.index" in absent.stderr
    assert "Traceback" not in absent.stderr
    assert not (tmp_path / "none.safetensors").exists()

    assert run_tool("import_checkpoint").returncode == 2
    help_text = run_tool("import_checkpoint", "--help").stdout
    assert "TensorFlow is not needed" in " ".join(help_text.split())


@pytest.mark.parametrize(
    ("name", "output_bias"),
    [
        ("CK", [0.4886402, 0.15473188, -0.49725878, -0.7678407, 0.05581589, 0.7236756, -0.47625422, -1.1461551]),
        (
            "OuluCASIA",
            [-5.3852262, 0.3691572, -4.741553, -0.15069364, 0.1009817, -0.5475489, 0.3529647, -1.5734217],
        ),
    ],
)
def test_published_checkpoint(data_dir: Path, tmp_path: Path, name: str, output_bias: list[float]) -> None:
    prefix = data_dir / "published" / name / f"MicroExpNet_{name}"
    weights = tool.import_checkpoint(prefix)
    assert weights.parameters == 65_000
    assert weights.architecture == "microexpnet-p12"
    assert weights.hidden == 48
    assert weights.labels == tool.LABELS
    np.testing.assert_allclose(weights.tensors["fc2.bias"], output_bias, rtol=1e-6)

    # A damaged copy is refused.
    for suffix in (".index", ".data-00000-of-00001"):
        shutil.copyfile(f"{prefix}{suffix}", tmp_path / f"copy{suffix}")
    damaged = tmp_path / "copy.data-00000-of-00001"
    content = bytearray(damaged.read_bytes())
    content[500_000] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(CheckpointError, match="checksum of tensor"):
        tool.import_checkpoint(tmp_path / "copy")
