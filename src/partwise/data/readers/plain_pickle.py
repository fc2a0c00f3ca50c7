"""Arrays, text, bytes and plain containers out of a pickle, and nothing else: for CIFAR's python batches.

A pickle names functions to be called. Here only three names are known, and none of them is what it was: stand-ins that keep
numbers, from which the array is built after its shape and type have been looked at. Any other name ends the reading.
"""

from __future__ import annotations

import io
import math
import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partwise.config import UserError

DTYPES = frozenset({"u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", "b1"})


class _Dtype:
    """Stands in for `numpy.dtype`: a code of DTYPES and, from the state, its byte order."""

    def __init__(self, code: Any, *_: Any) -> None:
        text = code.decode("latin1") if isinstance(code, bytes) else code
        if not isinstance(text, str) or text.lstrip("|<>=") not in DTYPES:
            raise pickle.UnpicklingError(f"an array of type {text!r}")
        self.code = text.lstrip("|<>=")
        self.order = "="

    def __setstate__(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else "="
        self.order = order.decode("latin1") if isinstance(order, bytes) else str(order)

    def numpy(self) -> np.dtype[Any]:
        return np.dtype((self.order if self.order in ("<", ">") else "=") + self.code)


class _Array:
    """Stands in for `numpy.ndarray`: what its state says, until `numpy` builds it."""

    state: Any = None

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def numpy(self) -> NDArray[Any]:
        _, shape, dtype, fortran, raw = self.state
        data = raw.encode("latin1") if isinstance(raw, str) else raw
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            raise pickle.UnpicklingError("an array of objects")
        kind = dtype.numpy()
        if math.prod(shape) * kind.itemsize != len(data):
            raise pickle.UnpicklingError(f"an array of shape {shape} with {len(data)} bytes")
        return np.frombuffer(data, kind).reshape(shape, order="F" if fortran else "C")


def _text_bytes(text: Any, encoding: Any = "latin1") -> bytes:
    """Stands in for `_codecs.encode`, by which Python 3 writes bytes in the old protocols."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError(f"text in the encoding {encoding!r}")
    return text.encode("latin1")


ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("_codecs", "encode"): _text_bytes,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return ADMITTED[module, name]


def read_plain(data: bytes, file: str) -> Any:
    """The content of a pickle, byte strings of Python 2 as text. Raises UserError (with `file`) for anything but plain data."""
    try:
        return _plain(_Unpickler(io.BytesIO(data), encoding="latin1").load())
    except Exception as error:  # a damaged or hostile pickle raises many kinds of error
        reason = str(error) or type(error).__name__
        raise UserError(f"{file}: refused: {reason}; only arrays, bytes, text and plain containers are read") from error


def _plain(value: Any) -> Any:
    if isinstance(value, _Array):
        return value.numpy()
    if isinstance(value, dict):
        return {_text(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    raise pickle.UnpicklingError(f"a value of type {type(value).__name__}")


def _text(key: Any) -> Any:
    return key.decode("latin1") if isinstance(key, bytes) else key
