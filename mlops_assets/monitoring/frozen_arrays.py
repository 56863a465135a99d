"""Named arrays and numbers as bytes and back: equal content gives equal bytes, and reading them runs no code."""

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.files import canonical_json

_DIGEST_BYTES, _LENGTH_BYTES = 32, 8
# Little-endian numbers only: an object array would need pickle.
_TYPES = ("<f8", "<f4", "<i8", "|b1")

Arrays = Mapping[str, NDArray[Any]]


def to_bytes(kind: str, numbers: Mapping[str, Any], arrays: Arrays) -> bytes:
    """Freeze JSON values and arrays under a `kind`, such as `health-1`; the sha256 of all that follows comes first."""
    laid = {name: np.ascontiguousarray(array, dtype=_little(array)) for name, array in sorted(arrays.items())}
    header = canonical_json(
        {
            "kind": kind,
            "numbers": dict(numbers),
            "arrays": [[name, array.dtype.str, list(array.shape)] for name, array in laid.items()],
        }
    )
    text = header.encode()
    body = b"".join([len(text).to_bytes(_LENGTH_BYTES, "little"), text, *(array.tobytes() for array in laid.values())])
    return sha256(body).digest() + body


def from_bytes(kind: str, content: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read what `to_bytes` froze; the arrays cannot be written to.

    Raises:
        InputError: the bytes are cut short, changed, or of another kind.
    """
    body = content[_DIGEST_BYTES:]
    if sha256(body).digest() != content[:_DIGEST_BYTES]:
        raise InputError(
            f"{len(content)} bytes are no frozen {kind}: their checksum differs; freeze the reference again"
        )
    begin = _LENGTH_BYTES + int.from_bytes(body[:_LENGTH_BYTES], "little")
    header = json.loads(body[_LENGTH_BYTES:begin])
    if header["kind"] != kind:
        raise InputError(f"these bytes are a frozen {header['kind']!r}, expected {kind!r}; give the other file")
    arrays = {}
    for name, code, shape in header["arrays"]:
        count = int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(body, dtype=np.dtype(code), count=count, offset=begin).reshape(shape)
        begin += arrays[name].nbytes
    return header["numbers"], arrays


def _little(array: NDArray[Any]) -> np.dtype[Any]:
    kind = array.dtype.newbyteorder("<")
    if kind.str not in _TYPES:
        raise InputError(f"an array of type {array.dtype} cannot be frozen; expected one of {', '.join(_TYPES)}")
    return kind
