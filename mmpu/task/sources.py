"""Where rows come from: files as published, folders of pictures, archives, data sets of the hub, and trusted Python.

    rows.jsonl rows.json               each also .gz; a .json file may hold a line per row, as some are published
    rows.csv rows.tsv                  the same; a .tsv with quotes as in CSV, or with none that mean anything
    data/train-*.parquet rows.arrow    one file or several; need pyarrow
    pictures/ pictures.zip             a row per picture: path, name, label (its folder), and metadata.jsonl's fields
    archive.zip/rows.jsonl             a file inside an archive
    hf:openai/gsm8k:main@e53f048#train the hub, through datasets: configuration, revision and split are optional
    rows.py                            what its rows(split) or rows(split, folder) yields; only where code is trusted

Reading data runs no code but that of trusted `.py` sources.
"""

from __future__ import annotations

import csv
import inspect
import io
import json
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from mmpu import files, plugins
from mmpu.config import Values
from mmpu.core import UserError
from mmpu.task.border import check_file
from mmpu.task.packed import BROKEN, member, unzipped

COMMAS = "save it with commas"
METADATA = ("metadata.jsonl", "metadata.csv")
"""Files that describe the pictures of a folder."""
PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
KINDS = (
    ".jsonl, .json, .csv, .tsv (or these with .gz), .parquet, .arrow, .zip, a folder of pictures, hf:org/name, or .py"
)
csv.field_size_limit(2**31 - 1)  # Python's own limit, 128 KiB, is less than a picture in base64 takes

Numbered = Iterable[tuple[str, object]]
"""Rows with their place in the file, such as `line 3`."""


def read_rows(
    file: Path, split: str, fields: tuple[str, ...] = (), folder: Path | None = None, within: Path | None = None
) -> Iterator[Any]:
    """(place, row) for every row of a file, rows as mappings.

    Args:
        file: As above; its name may hold `*`.
        fields: Names for the columns of rows that are lists.
        folder: Where the task's data are, for `.py` sources; default: beside the file.
        within: A folder that no file may leave through links.

    Raises:
        UserError: no such file, unreadable, or a row that is no mapping; with file and line.
    """
    found = sorted(file.parent.glob(file.name)) if "*" in file.name else [file]
    if not found:
        raise UserError(f"{file}: no such file; correct `source`, or point `data` at its folder")
    for each in found:
        if within is not None:
            for read in (each, *(each / name for name in METADATA)):
                check_file(read, within, str(file))
        if each.exists() and not each.is_file() and not each.is_dir():
            raise UserError(f"{each}: a pipe or a device is no file to read; write its rows into one")
        yield from _mappings(each, _open(each, split, folder or file.parent), fields)


def is_there(file: Path) -> bool:
    """Whether a source's file, or a member of an archive, exists."""
    if "*" in file.name:
        return any(file.parent.glob(file.name))
    archive = _archive_of(file)
    try:
        if archive is None:
            return file.exists()
    except OSError:  # a name that is too long
        return False
    try:
        return file.relative_to(archive).as_posix() in _members(archive, archive.stat().st_mtime_ns)
    except (*BROKEN, ValueError) as error:
        raise UserError(f"cannot read {archive}: {error}") from None


@lru_cache(maxsize=16)
def _members(archive: Path, changed: int) -> frozenset[str]:
    """The names in an archive, which thousands of pictures are looked up in; read again when the file has changed."""
    with zipfile.ZipFile(archive) as opened:
        return frozenset(opened.namelist())


def _mappings(file: Path, rows: Numbered, fields: tuple[str, ...]) -> Iterator[tuple[str, Values]]:
    for place, row in rows:
        if isinstance(row, list) and len(cast(list[object], row)) == len(fields):
            row = dict(zip(fields, cast(list[object], row), strict=True))
        if not isinstance(row, dict):
            hint = f"; `fields` names {len(fields)} columns" if fields else "; name its columns with `fields`"
            raise UserError(f"{file}, {place}: not a mapping{hint}")
        yield place, cast(Values, row)


def _open(file: Path, split: str, folder: Path) -> Numbered:
    if file.suffix == ".py":
        return _python(file, split, folder)
    if file.is_dir():
        return _folder(file, folder)
    kind = (file.with_suffix("") if file.suffix == ".gz" else file).suffix
    if kind == ".zip":
        return _zip(file, folder)
    if kind in (".parquet", ".arrow"):
        from mmpu.task.hub import read_arrow, read_parquet

        return numbered((read_parquet if kind == ".parquet" else read_arrow)(file))
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".tsv": _tsv}
    if kind not in readers:
        if not file.suffix and not file.exists():
            raise UserError(f"{file}: no such folder; correct `source`, or point `data` at the folder it is in")
        raise UserError(f"{file}: a source is {KINDS}")
    return readers[kind](_text(file), file)


def numbered(rows: Iterable[object]) -> Numbered:
    return ((f"row {number}", row) for number, row in enumerate(rows, 1))


def _python(file: Path, split: str, folder: Path) -> Numbered:
    rows = getattr(plugins.load_module(file), "rows", None) if file.is_file() else None
    if rows is None:
        raise UserError(f"{file}: no such file, or it does not define rows(split)")
    takes_folder = len(inspect.signature(rows).parameters) > 1
    return numbered(rows(split, folder) if takes_folder else rows(split))


def _text(file: Path) -> str:
    archive = _archive_of(file)
    try:
        raw = files.content(file) if archive is None else member(archive, file.relative_to(archive).as_posix())
        return files.decoded(unzipped(raw) if file.suffix == ".gz" else raw)
    except (FileNotFoundError, NotADirectoryError, KeyError):
        raise UserError(f"{file}: no such file; correct `source`, or point `data` at its folder") from None
    except (*BROKEN, EOFError, ValueError) as error:
        raise UserError(f"cannot read {file}: {error}") from None


def _archive_of(file: Path) -> Path | None:
    return next((p for p in file.parents if p.suffix == ".zip" and files.is_file(p)), None)


def _jsonl(text: str, file: Path) -> Numbered:
    # Not splitlines(): JSON strings may hold U+2028 and other characters that it would break at.
    # Files that were put together have a byte order mark in the middle.
    for number, line in enumerate((line.strip().strip("\ufeff") for line in text.split("\n")), 1):
        if line:
            try:
                yield f"line {number}", files.parsed(line, once=True)
            except ValueError as error:
                raise UserError(f"{file}, line {number}: not JSON ({error}): {line[:80]!r}") from None


def _json(text: str, file: Path) -> Numbered:
    try:
        rows: object = files.parsed(text, once=True)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text[: error.pos].strip() == text.split("\n", 1)[0].strip():
            return _jsonl(text, file)
        raise UserError(f"{file}: not JSON ({error})") from None
    except ValueError as error:
        raise UserError(f"{file}: not JSON ({error})") from None
    if not isinstance(rows, list):
        raise UserError(f"{file}: must hold a list of rows")
    return numbered(cast(list[object], rows))


def _csv(text: str, file: Path, dialect: str | type[csv.Dialect] = "excel") -> Numbered:
    try:
        reader = csv.DictReader(io.StringIO(text.lstrip("\n"), newline=""), dialect=dialect)
        header = list(reader.fieldnames or ())
        if twice := [name for name, n in Counter(header).items() if n > 1 and name]:
            raise UserError(f"{file}: the header names the column {twice[0]!r:.80} twice; rename one of them")
        for number, row in enumerate(reader, 1):
            if len(header) == 1:
                _check_separator(header[0], row, file)
            if None in row or None in row.values():
                raise UserError(f"{file}, row {number}: has not as many columns as the header")
            if row.get("") and header.index("") > 0:  # a table of pandas begins with its index, which has no name
                raise UserError(f"{file}: column {header.index('') + 1} of the header has no name; give it one")
            yield f"row {number}", row
    except csv.Error as error:
        raise UserError(f"cannot read {file}: {error}") from None


def _check_separator(header: str, row: Mapping[str | Any, str | Any], file: Path) -> None:
    """A table that commas do not part is one column, named as all of its header.

    Raises:
        UserError: header and row are parted by something else.
    """
    for mark, way in ((";", COMMAS), ("|", COMMAS), ("\t", "name it .tsv"), (",", "name it .csv")):
        if header.count(mark) and header.count(mark) == str(row[header]).count(mark):
            raise UserError(f"{file}: its columns are parted by {mark!r}; {way}")


class _Quoted(csv.excel_tab):
    strict = True


class _Plain(csv.excel_tab):
    quoting = csv.QUOTE_NONE


def _tsv(text: str, file: Path) -> Numbered:
    """Rows of tab-separated values. pandas and spreadsheets quote them as in CSV, others mean a quote as it stands; a
    file that is no table in the first form is read in the second."""
    try:
        widths = {len(row) for row in csv.reader(io.StringIO(text, newline=""), _Quoted) if row}
    except csv.Error:
        widths = set[int]()
    return _csv(text, file, _Quoted if len(widths) == 1 else _Plain)


def _folder(file: Path, folder: Path) -> Numbered:
    for metadata in (file / name for name in METADATA):
        if metadata.is_file():
            reader = _jsonl if metadata.suffix == ".jsonl" else _csv
            rows = _mappings(metadata, reader(_text(metadata), metadata), ())
            return ((place, _described(row, place, metadata, folder)) for place, row in rows)
    found = sorted(p for p in file.rglob("*") if p.suffix.lower() in PICTURES and p.is_file())
    return numbered(_picture(path, folder, file) for path in found)


def _described(row: Values, place: str, metadata: Path, folder: Path) -> Values:
    name = row.get("file_name")
    if not isinstance(name, str):
        raise UserError(f"{metadata}, {place}: field `file_name` must be a picture's path, it is {name!r}")
    return {**_picture(metadata.parent / name, folder, metadata.parent), **row}


def _zip(file: Path, folder: Path) -> Numbered:
    try:
        with zipfile.ZipFile(file) as archive:
            names = sorted(n for n in archive.namelist() if Path(n).suffix.lower() in PICTURES)
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; correct `source`, or point `data` at its folder") from None
    except (*BROKEN, ValueError) as error:
        raise UserError(f"cannot read {file}: {error}") from None
    return numbered(_picture(file / name, folder, file) for name in names)


def _picture(path: Path, folder: Path, root: Path) -> Values:
    inside = path.relative_to(folder) if path.is_relative_to(folder) else path
    label = path.parent.name if path.parent != root else ""
    return {"path": inside.as_posix(), "name": path.stem, "label": label}
