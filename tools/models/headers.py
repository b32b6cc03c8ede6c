"""Headers of safetensors files, read without loading weights and without trusting the file.

Format: 8 bytes little-endian header length, a JSON object of tensors, then the data. Only the header is read.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LFS_POINTER = b"version https://git-lfs.github.com/"
"""How the text begins that Git leaves in place of a large file until it is fetched."""
NOT_FETCHED = "a Git LFS pointer, not the file; run git lfs pull"
MAX_HEADER_BYTES = 100_000_000
"""The format's own bound on a header; a longer length is a damaged or hostile file."""

_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """One tensor as its file's header declares it."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    """First byte of its data, counted from the end of the header."""
    end: int
    """One past its last byte."""

    @property
    def n_values(self) -> int:
        """Number of stored values; packed weights count once per 32-bit word."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """What a safetensors file says it holds."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    declared_bytes: int
    """Size that the file must have for its last tensor to be whole."""


class HeaderError(ValueError):
    """A file is not a readable safetensors file; the message says why, without the path."""


def read_header(path: Path) -> Header:
    """Read and check the header of a safetensors file.

    Raises:
        HeaderError: Too short, a length beyond the file or the format's bound, no JSON object, a tensor whose type,
            shape and byte range disagree, two that share bytes.
        OSError: The file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        prefix = stream.read(8)
        if len(prefix) < 8:  # noqa: PLR2004 - the format's length field
            raise HeaderError(f"it has {size} bytes, fewer than the 8 of a header length")
        length = int.from_bytes(prefix, "little")
        if prefix == LFS_POINTER[:8] and stream.read(len(LFS_POINTER) - 8) == LFS_POINTER[8:]:
            raise HeaderError(NOT_FETCHED)
        if length > MAX_HEADER_BYTES or length > size - 8:
            raise HeaderError(f"its header claims {length} bytes, but the file has {size}")
        raw = stream.read(length)
    rows = _parse(raw)
    # MLX writes null where it was given no metadata.
    metadata = rows.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict):
        raise HeaderError("its __metadata__ is not an object")
    tensors = {name: _tensor(name, row) for name, row in rows.items()}
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda each: (each[1].begin, each[1].end)):
        if tensor.begin < end:
            raise HeaderError(f"its header lays {name!r} over the bytes of another tensor")
        end = tensor.end
    return Header(tensors, {str(k): str(v) for k, v in metadata.items()}, 8 + length + end)


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        rows = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise HeaderError("its header is not JSON") from error
    if not isinstance(rows, dict):
        raise HeaderError("its header is not a JSON object")
    return rows


def _tensor(name: str, row: Any) -> Tensor:
    """Check one declaration; a header that lies about one tensor is not trusted for the others."""
    try:
        dtype, shape, (begin, end) = str(row["dtype"]), tuple(row["shape"]), row["data_offsets"]
        numbers = (*shape, begin, end)
    except (TypeError, KeyError, ValueError) as error:
        raise HeaderError(f"its header declares {name!r} without dtype, shape and data_offsets") from error
    if not all(isinstance(number, int) and number >= 0 for number in numbers) or end < begin:
        raise HeaderError(f"its header declares {name!r} with impossible sizes")
    width = _BYTES.get(dtype)
    if width is None:
        raise HeaderError(f"its header declares {name!r} as {dtype[:20]}, which MLX does not know")
    if math.prod(shape) * width != end - begin:
        raise HeaderError(f"its header declares {name!r} as {dtype}{list(shape)} in {end - begin} bytes")
    return Tensor(dtype, shape, begin, end)
