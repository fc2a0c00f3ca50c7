"""What comes out of a plain pickle, and that nothing in a hostile one is ever called."""

from __future__ import annotations

import pickle
import pickletools
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partwise.config import UserError
from partwise.data.readers.plain_pickle import read_plain

CONTENT = {
    "data": np.arange(24, dtype=np.uint8).reshape(2, 12),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
    "swapped": np.arange(5, dtype=">i4"),
    "labels": [1, 2, 3],
    "pair": (True, None, 2.5),
    "filenames": [b"a.png", b"\xff\x00"],
    "text": "words",
}


def same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, np.ndarray):
        return found.dtype == wanted.dtype and (found == wanted).all()
    if isinstance(wanted, (list, tuple)):
        return len(found) == len(wanted) and all(same(a, b) for a, b in zip(found, wanted, strict=True))
    return type(found) is type(wanted) and found == wanted


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("keys", [str, str.encode])
def test_plain_content_comes_back(protocol: int, keys: Any) -> None:
    data = pickle.dumps({keys(key): value for key, value in CONTENT.items()}, protocol=protocol)
    found = read_plain(data, "batch")
    assert list(found) == list(CONTENT)
    for key, wanted in CONTENT.items():
        assert same(found[key], wanted), key


def python2_batch(rows: np.ndarray, labels: list[int]) -> bytes:
    """The opcodes that Python 2's cPickle writes for a batch of CIFAR: byte strings, and numpy.core's old names."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value

    shape = b"K" + bytes([rows.shape[0]]) + b"M" + struct.pack("<H", rows.shape[1]) + b"\x86"
    dtype = (
        b"cnumpy\ndtype\n"
        + text(b"u1")
        + b"K\x00K\x01\x87R(K\x03"
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    array = b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    array += b"(K\x01" + shape + dtype + b"\x89" + text(rows.tobytes()) + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + numbers + b"u."


def test_python_2_is_read() -> None:
    rows = np.random.default_rng(0).integers(0, 256, (3, 3072), dtype=np.uint8)
    found = read_plain(python2_batch(rows, [4, 5, 6]), "batch")
    assert same(found["data"], rows) and found["labels"] == [4, 5, 6]


class Calls:
    """Asks the reader of its pickle to call something."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    "function", ["os.system", "builtins.eval", "builtins.exec", "posix.system", "subprocess.Popen"]
)
def test_a_call_is_refused_and_not_made(protocol: int, function: str, tmp_path: Path) -> None:
    witness = tmp_path / "called"
    module, _, name = function.partition(".")
    found = getattr(__import__(module), name)
    order = f"open({str(witness)!r}, 'w')" if module == "builtins" else f"touch {witness}"
    data = pickle.dumps({"data": Calls(found, order)}, protocol=protocol)
    with pytest.raises(UserError, match=r"data_batch_1: refused: \w+\.\w+; only arrays"):
        read_plain(data, "data_batch_1")
    assert not witness.exists()


@pytest.mark.parametrize(
    "hostile",
    [
        b"cos\nsystem\n(S'touch /nowhere'\ntR.",
        b"(S'touch /nowhere'\nios\nsystem\n.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
        b"\x80\x02cnumpy.testing._private.utils\nrunstring\n.",
        b"\x80\x02cnumpy\nload\n.",
        b"\x80\x02cnumpy\nf2py.crackfortran.eval\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x0ddtype.__init__\x93.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02U\x01aQ.",
        b"ccopy_reg\n_reconstructor\n.",
    ],
)
def test_hostile_opcodes_are_refused(hostile: bytes) -> None:
    with pytest.raises(UserError, match="refused"):
        read_plain(hostile, "batch")


def test_what_is_not_plain_is_refused() -> None:
    for value in (np.array([object()], dtype=object), {1, 2}, np.array(["text"]), complex(1), np.float64(3), Path("x")):
        with pytest.raises(UserError, match="refused"):
            read_plain(pickle.dumps({"data": value}, protocol=2), "batch")


def test_a_stand_in_alone_is_refused() -> None:
    for hostile in (b"cnumpy\nndarray\n.", b"cnumpy\ndtype\nU\x02u1\x85R.", b"cnumpy\nndarray\n)R."):
        with pytest.raises(UserError, match="refused"):
            read_plain(b"\x80\x02" + hostile, "batch")


def test_an_array_that_lies_about_its_shape_is_refused() -> None:
    rows = np.zeros((3, 3072), np.uint8)
    data = python2_batch(rows, [1]).replace(b"K\x03M\x00\x0c", b"K\x04M\x00\x0c")
    with pytest.raises(UserError, match="shape"):
        read_plain(data, "batch")


def test_any_torn_or_damaged_pickle_is_refused_or_plain() -> None:
    data = python2_batch(np.zeros((1, 300), np.uint8), [1])
    assert sum(1 for _ in pickletools.genops(data)) > 20
    for end in range(len(data) - 1):
        with pytest.raises(UserError):
            read_plain(data[:end], "batch")
    rng = np.random.default_rng(0)
    for _ in range(500):
        damaged = bytearray(data)
        damaged[rng.integers(0, 120)] = rng.integers(0, 128)
        if any(name in (b"r", b"p") for name in (bytes([b]) for b in damaged[:120])):
            continue  # a huge memo index asks for memory, which is no call
        try:
            read_plain(bytes(damaged), "batch")
        except UserError as error:
            assert "batch: refused" in str(error)
