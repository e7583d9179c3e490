"""Text of STAR files: named blocks of values, read and written by the rules of RELION.

- White space separates values. A value that begins with a quote (' or ") ends at the next quote of the same kind before white
  space. A quote inside a value is an ordinary character.
- ``#`` at the beginning of a value starts a comment. Inside a value it is an ordinary character.
- ``data_NAME`` alone in a line begins a block. A row of several values may begin with ``data_``.
- Blank lines and comment lines may occur anywhere. RELION ends a table at a blank line; this reader reads the rows after it.

Values keep the text of the file, so that columns of any program are written unchanged: nan, numbers with leading zeros, 64-bit
identifiers. The package ``starfile`` converts values, cuts a value at ``#``, and ends a table at a row that begins with
``data_``. The tests compare both readers on files without these cases.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import atomic_path, refuse_pointer

SPACE = " \t\r\n\v\f"
_VALUE = re.compile(r"""(['"])(.*?)\1(?=[ \t\v\f]|$)|([^ \t\v\f]+)""")
_NEEDS_QUOTES = re.compile(r"""[ \t\v\f]|^['"#]|^$|[^\x00-\x7f]""", re.MULTILINE)
ROWS_AT_ONCE = 50_000  # rows that are lists of strings at a time, which limits the memory
SMALL = 1e-3  # numbers with a smaller magnitude are written with an exponent, as in RELION


@dataclass(frozen=True)
class Block:
    """A block of a STAR file: its name without ``data_``, and its table. All values are text."""

    name: str
    table: pd.DataFrame


def read_blocks(path: Path | str) -> list[Block]:
    """Read all blocks of a STAR file, in the order of the file. A list of labels and values becomes a table of one row.

    Raises:
        HetacumnError: the file is not a STAR file in UTF-8, a row has too few or too many values, or two columns of a table
            have the same label but different values. The message names the block and the row, counted from 1.
    """
    path = Path(path)
    refuse_pointer(path, "a STAR file")
    blocks: list[_OpenBlock] = []
    for number, line in enumerate(_read_lines(path), 1):
        text = line.strip(SPACE)
        if not text or text[0] == "#":
            continue
        if text.startswith("data_") and len(values := split_values(text)) == 1:
            blocks.append(_OpenBlock(path, values[0][len("data_") :]))
        elif blocks:
            blocks[-1].read_line(text)
        else:
            raise HetacumnError(f"{path}: not a STAR file: line {number} is {text[:40]!r}; expected data_NAME first")
    return [block.close() for block in blocks]


def split_values(text: str) -> list[str]:
    """Divide a line into its values, without quotes and without a comment."""
    if text.isascii() and not ("'" in text or '"' in text or "#" in text):
        return text.split()
    values = []
    for _, quoted, plain in (match.groups() for match in _VALUE.finditer(text)):
        if plain is not None and plain.startswith("#"):
            break
        values.append(quoted if plain is None else plain)
    return values


@dataclass
class _OpenBlock:
    """A block whose lines are being read."""

    path: Path
    name: str
    labels: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    parts: list[pd.DataFrame] = field(default_factory=list)
    is_loop: bool = False
    count: int = 0

    def read_line(self, text: str) -> None:
        values = split_values(text)
        if text.startswith("loop_") and values == ["loop_"]:
            if self.labels or self.is_loop:
                raise HetacumnError(f"{self.path}: data_{self.name}: two tables; expected one table in a block")
            self.is_loop = True
        elif not self.is_loop:
            if not text.startswith("_") or len(values) > 2:
                raise HetacumnError(f"{self.path}: data_{self.name}: {text[:40]!r}; expected loop_, or a label and a value")
            self.labels.append(values[0][1:])
            self.rows = [[*(self.rows[0] if self.rows else []), *(values[1:] or [""])]]
        elif text.startswith("_") and len(values) == 1 and not self.count:
            self.labels.append(values[0][1:])
        else:
            self._add_row(values)

    def _add_row(self, values: list[str]) -> None:
        self.count += 1
        if len(values) != len(self.labels):
            raise HetacumnError(
                f"{self.path}: row {self.count} of data_{self.name}: {len(values)} values; expected {len(self.labels)}, one "
                "for each label"
            )
        self.rows.append(values)
        if len(self.rows) == ROWS_AT_ONCE:
            self._pack()

    def _pack(self) -> None:
        self.parts.append(pd.DataFrame(self.rows, columns=range(len(self.labels)), dtype="str"))
        self.rows = []

    def close(self) -> Block:
        self._pack()
        table = self.parts[0] if len(self.parts) == 1 else pd.concat(self.parts, ignore_index=True)
        first = {label: i for i, label in reversed(list(enumerate(self.labels)))}
        for i, label in enumerate(self.labels):
            if first[label] != i and not table[i].equals(table[first[label]]):
                raise HetacumnError(f"{self.path}: data_{self.name}: two columns {label}; expected each label once")
        kept = sorted(first.values())
        return Block(self.name, table[kept].set_axis([self.labels[i] for i in kept], axis=1))


def _read_lines(path: Path) -> list[str]:
    """Read the lines of a text file in UTF-8; a comment line in another encoding becomes a blank line."""
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        lines = [b"" if line.lstrip().startswith(b"#") else line for line in raw.removeprefix(b"\xef\xbb\xbf").splitlines()]
        for number, line in enumerate(lines, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                raise HetacumnError(
                    f"{path}: line {number}: byte 0x{line[error.start]:02x} is not UTF-8; expected a text file in UTF-8 "
                    "(iconv -f latin1 -t utf-8 converts it)"
                ) from None
        text = b"\n".join(lines).decode()
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def write_blocks(path: Path | str, blocks: Mapping[str, pd.DataFrame]) -> None:
    """Write tables as the blocks of a STAR file, atomically.

    Text is written unchanged, with quotes if the rules above need them. A float has six decimals, and an exponent if its
    magnitude is below :data:`SMALL`, as in RELION. The file contains no date.

    Raises:
        HetacumnError: a value contains a line end, or white space and both kinds of quotes.
    """
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        file.write("# version 30001\n\n")  # the first line of RELION 3.1
        for name, table in blocks.items():
            labels = "".join(f"_{label} #{i}\n" for i, label in enumerate(table.columns, 1))
            file.write(f"data_{name}\n\nloop_\n{labels}")
            columns = [_format(table[label], Path(path)) for label in table.columns]
            file.writelines("\t".join(row) + "\n" for row in zip(*columns, strict=True))
            file.write("\n\n")


def _format(column: pd.Series, path: Path) -> list[str]:
    """Return the values of a column as text."""
    if column.dtype.kind == "f":
        numbers = column.to_numpy(dtype=np.float64)
        small = (numbers != 0) & (np.abs(numbers) < SMALL)
        return [f"{v:.6e}" if one else f"{v:.6f}" for v, one in zip(numbers.tolist(), small.tolist(), strict=True)]
    texts = [str(value) for value in column.tolist()]
    joined = "\n".join(texts)
    if "\r" in joined or joined.count("\n") >= max(1, len(texts)):
        raise HetacumnError(f"{path}: a value of {column.name} contains a line end; expected one line")
    return [_quote(text, path) for text in texts] if _NEEDS_QUOTES.search(joined) else texts


def _quote(text: str, path: Path) -> str:
    """Put a value in quotes if the rules of the format need them."""
    if split_values(text) == [text]:
        return text
    for quote in "\"'":
        if split_values(f"{quote}{text}{quote}") == [text]:
            return f"{quote}{text}{quote}"
    raise HetacumnError(f"{path}: {text!r} contains white space and both kinds of quotes; expected at most one kind of quotes")
