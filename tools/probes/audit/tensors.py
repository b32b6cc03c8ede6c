"""Single tensors of a safetensors file as numpy arrays, read by offset; a file is trusted for its bytes alone."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tools.models.headers import Header, HeaderError, read_header
from tools.probes.audit.reading import UnreadableError, open_regular

Array = np.ndarray[Any, Any]

_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "U32": "<u4", "I32": "<i4", "U16": "<u2", "U8": "u1", "I8": "i1"}
_WIDTHS = {**{name: np.dtype(code).itemsize for name, code in _TYPES.items()}, "BF16": 2}


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file whose header was checked against its size."""

    path: Path
    header: Header
    start: int
    """First byte of the data."""

    @property
    def names(self) -> list[str]:
        """Names of its tensors."""
        return list(self.header.tensors)

    @property
    def n_values(self) -> int:
        """Stored values of all tensors."""
        return sum(tensor.n_values for tensor in self.header.tensors.values())

    def read(self, name: str) -> Array | None:
        """Return a tensor; bfloat16 as float32; None for a type that numpy has not.

        Raises:
            OSError: The file cannot be read any more.
        """
        tensor = self.header.tensors[name]
        width = _WIDTHS.get(tensor.dtype)
        if width is None:
            return None
        size = math.prod(tensor.shape) * width
        with self.path.open("rb") as stream:
            stream.seek(self.start + tensor.end - size)
            raw = stream.read(size)
        if len(raw) < size:
            raise OSError(f"{name} ends before its {size} bytes")
        if tensor.dtype == "BF16":
            words = np.frombuffer(raw, "<u2").astype(np.uint32) << np.uint32(16)
            return words.view(np.float32).reshape(tensor.shape)
        return np.frombuffer(raw, _TYPES[tensor.dtype]).reshape(tensor.shape)


def open_tensors(path: Path) -> TensorFile:
    """Read a file's header.

    Raises:
        HeaderError: It is no safetensors file, it lies, or it is shorter than its header says.
        OSError: It cannot be read.
    """
    try:
        open_regular(path).close()
    except UnreadableError as error:
        raise HeaderError(str(error)) from error
    header, size = read_header(path), path.stat().st_size
    if size < header.declared_bytes:
        raise HeaderError(f"it has {size:,} bytes where its header declares {header.declared_bytes:,}")
    with path.open("rb") as stream:
        start = 8 + int.from_bytes(stream.read(8), "little")
    return TensorFile(path, header, start)
