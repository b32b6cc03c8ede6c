"""Training rows and pairs as tokens, made once for all jobs of a campaign and kept in a file.

200,000 short rows take a minute to render, and every start and resume of a training, its timing and the census need
them. What is kept is whole: cutting to `max_seq_length` and masking follow after it, so that one file serves all
recipes. It is named by all that its content follows from.

File: tokens (int32, row after row), a table (int64, a row each: line, end among the tokens, prompt length, whether the
prompt is a prefix), its number of rows (int64), and the SHA-256 of all before; little-endian.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from state.errors import ConfigError
from state.files import side_of
from state.hashing import hash_file, hash_json
from state.log import passed_over
from state.records import Json
from tools.data import cases, rows
from tools.data.cases import iter_data, iter_pairs
from tools.data.rows import Row
from tools.evaluation import prompts
from tools.evaluation.prompts import Rendered, naming, render_training
from tools.models.identity import WEIGHTS, model_files

SMALLEST_BYTES = 1 << 20
"""A smaller file is read again each time: that takes a second."""

MOST_FILES, MOST_BYTES = 8, 1 << 30
"""Files that are kept, and what all of them hold; the longest unused go first."""

_ASK: list[Json] = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
_SEEN: tuple[Json, ...] = (
    {"messages": _ASK},
    {"messages": [{"role": "system", "content": "s"}, *_ASK]},
    {"messages": _ASK, "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
)
"""What is rendered to see whether the template says today what it said then: many print the date."""

_COLUMNS = 4
_HASH_BYTES = 32
_PREFIX = "rows-"


class Numbered(NamedTuple):
    """One rendered row of a file; a pair is two, chosen and rejected, of the same line."""

    line: int
    rendered: Rendered


class Source(NamedTuple):
    """What rows are rendered from, and where they are kept.

    Args:
        path: The data file.
        system: System text of rows that bring none.
        model: Folder of the tokenizer.
        cache: Folder of kept rows; None keeps none.
    """

    path: Path
    system: str | None = None
    model: Path = Path()
    cache: Path | None = None


def source_of(inputs: Json, path: str) -> Source:
    """Return a data file of a job as its input has it; where case text must not be written, no tokens are kept."""
    cache = inputs.get("row_cache") if inputs.get("privacy") != "redact" else None
    kept = (Path(inputs["model"]), Path(cache)) if cache else ()
    return Source(Path(path), inputs.get("system"), *kept)


def rendered_rows(source: Source, tokenizer: Any) -> Iterator[Numbered]:
    """Yield a data file as tokens, in its order.

    Raises:
        ConfigError: As `iter_data` and `render_training`; file and line are named.

    Side effects: keeps the tokens of a large file where the source says.
    """
    return _known(source, tokenizer, "rows", iter_data(source.path))


def rendered_pairs(source: Source, tokenizer: Any) -> Iterator[Numbered]:
    """Yield a file of pairs as tokens, the chosen side before the rejected one.

    Raises:
        ConfigError: As `iter_pairs` and `render_training`; file and line are named.

    Side effects: as `rendered_rows`.
    """
    return _known(source, tokenizer, "pairs", iter_pairs(source.path))


def _known(source: Source, tokenizer: Any, kind: str, read: Iterable[Row]) -> Iterator[Numbered]:
    made = _rendered(source, tokenizer, read)
    if source.cache is None or not source.path.is_file() or source.path.stat().st_size < SMALLEST_BYTES:
        return made
    key = _key(source, tokenizer, kind)
    file = source.cache / f"{_PREFIX}{key[:16]}"
    kept = _load(file)
    if kept is not None:
        return kept
    return _keeping(made, file, lambda: _key(source, tokenizer, kind) == key)


def _rendered(source: Source, tokenizer: Any, read: Iterable[Row]) -> Iterator[Numbered]:
    for row in read:
        for plain in row.plain:
            with naming(f"{source.path}:{row.line}"):
                rendered = render_training(tokenizer, plain, source.system)
            yield Numbered(row.line, rendered)


def _key(source: Source, tokenizer: Any, kind: str) -> str:
    """Return the name of all that rendered rows follow from."""
    files = [path for path in model_files(source.model) if not fnmatch(path.name, WEIGHTS)]
    code = [Path(str(module.__file__)) for module in (prompts, cases, rows)]
    return hash_json(
        {
            "kind": kind,
            "data": hash_file(source.path),
            "rendered": [_tried(source, tokenizer, row) for row in _SEEN],
            "system": source.system,
            "tokenizer": [[path.name, hash_file(path)] for path in files],
            "code": [*map(hash_file, [*code, Path(__file__)])],
            "packages": {name: version(name) for name in ("mlx-lm", "transformers", "tokenizers")},
        }
    )


def _tried(source: Source, tokenizer: Any, row: Json) -> list[int] | str:
    try:
        return list(render_training(tokenizer, row, source.system).tokens)
    except ConfigError as error:
        return error.sentence


def _load(file: Path) -> Iterator[Numbered] | None:
    """Return the rows of a kept file, None where there is none or it is damaged; that one goes."""
    try:
        content = np.memmap(file, dtype=np.uint8, mode="r")
    except (OSError, ValueError):
        return None
    table = _table(content)
    if table is None:
        file.unlink(missing_ok=True)
        return None
    with passed_over("rendered.not_read", OSError):
        # Used today: what is longest unused goes first.
        os.utime(file)
    return _rows_of(content, table)


def _table(content: NDArray[np.uint8]) -> NDArray[np.int64] | None:
    """Return the table of a file's rows, None where the file is not what was written."""
    end = len(content) - _HASH_BYTES
    if end < 8 or hashlib.sha256(content[:end].data).digest() != content[end:].tobytes():  # noqa: PLR2004 - bytes of the number of rows
        return None
    rows = int(np.frombuffer(content[end - 8 : end].tobytes(), dtype="<i8")[0])
    raw = content[end - 8 - rows * _COLUMNS * 8 : end - 8].tobytes()
    return np.frombuffer(raw, dtype="<i8").reshape(rows, _COLUMNS)


def _rows_of(content: NDArray[np.uint8], table: NDArray[np.int64]) -> Iterator[Numbered]:
    tokens: Any = content[: int(table[-1, 1]) * 4].view("<i4")
    start = 0
    for line, end, prompt, is_prefix in table.tolist():
        yield Numbered(line, Rendered(tokens[start:end], prompt, bool(is_prefix)))
        start = end


def _keeping(rows: Iterator[Numbered], file: Path, is_unchanged: Callable[[], bool]) -> Iterator[Numbered]:
    """Yield rows and write them beside; the file appears once all were asked for, whole, or not at all."""
    side = _Side(side_of(file))
    table: list[tuple[int, int, int, bool]] = []
    end = 0
    try:
        for line, rendered in rows:
            tokens: Any = np.asarray(rendered.tokens, dtype="<i4")
            end += len(tokens)
            table.append((line, end, rendered.prompt_length, rendered.is_prefix))
            side.write(tokens.tobytes())
            yield Numbered(line, replace(rendered, tokens=tokens))
        side.write(np.asarray(table, dtype="<i8").tobytes())
        side.write(np.asarray([len(table)], dtype="<i8").tobytes())
        if is_unchanged():
            side.become(file)
            _thin_out(file.parent)
    finally:
        side.drop()


class _Side:
    """A file that is being written; on a disk that takes no more it is dropped, and what it was for goes on.

    Args:
        path: Where; it becomes another file at the end.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digest = hashlib.sha256()
        self._room = MOST_BYTES
        self._stream: BinaryIO | None = None
        with passed_over("rendered.not_kept", OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Its owner's alone: tokens are the user's texts.
            self._stream = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")

    def write(self, data: bytes) -> None:
        """Append."""
        self._room -= len(data)
        if self._stream is None or self._room < 0:
            self.drop()
            return
        try:
            self._stream.write(data)
            self._digest.update(data)
        except OSError:
            self.drop()

    def become(self, file: Path) -> None:
        """Close with the hash of all that was written, and take a file's place."""
        self.write(self._digest.digest())
        if self._stream is None:
            return
        try:
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._path.replace(file)
        except OSError:
            self.drop()

    def drop(self) -> None:
        """Close, and leave nothing beside."""
        if self._stream is not None:
            # What is left in its buffer may fit no better than before.
            with passed_over("rendered.not_dropped", OSError):
                self._stream.close()
            self._stream = None
            self._path.unlink(missing_ok=True)


def _thin_out(folder: Path) -> None:
    """Delete the kept files that were unused longest, so that edited data does not fill the disk."""
    kept = []
    for path in folder.glob(f"{_PREFIX}*"):
        # Another job may thin out, too.
        with passed_over("rendered.file_gone", FileNotFoundError):
            stat = path.stat()
            kept.append((stat.st_mtime_ns, stat.st_size, path))
    held = 0
    for number, (_, size, path) in enumerate(sorted(kept, reverse=True)):
        held += size
        if number >= MOST_FILES or held > MOST_BYTES:
            path.unlink(missing_ok=True)
