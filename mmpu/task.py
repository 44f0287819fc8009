"""A task is a YAML file: where rows come from, how a row becomes a prompt, how an answer is graded.

    about: Which of two shops sells more apples?
    source: rows.jsonl                 # .jsonl .json .csv, each also .gz, or a .py with rows(split)
    prompt:
      - user: [{image: "pictures/{{ picture }}.png"}, "{{ question }}"]
    reference: "{{ explanation }}"
    answer: "{{ answer }}"
    grader: final_answer
    splits: {train: {where: number < 900}, test: {where: number >= 900}}

Texts are Jinja templates over a row's fields, and `split`; a field that a row lacks is an error that names file, row
and field. Paths are relative to the YAML's folder, or to `data` where the user points the task at files elsewhere.
"""

from __future__ import annotations

import csv
import gzip
import inspect
import io
import json
import random
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from mmpu import plugins
from mmpu.config import Values, build, component, load_yaml
from mmpu.core import Grader, Message, Part, Sample, Sampling, Task, UserError
from mmpu.media import named_picture

if TYPE_CHECKING:
    from jinja2 import Environment

ROLES = ("system", "user", "assistant")
GRADES_KEPT = 1 << 15


@dataclass(frozen=True)
class Split:
    """Which rows belong to a split."""

    source: str | None = None
    """A file of its own; None takes the task's."""
    where: str | None = None
    """A Jinja expression over a row's fields, such as `number < 900`."""


@dataclass(frozen=True)
class TaskConfig:
    """The keys of a task YAML."""

    prompt: list[dict[str, Any]]
    """Turns: `- user: text` or `- user: [{image: path}, text]`."""
    about: str = ""
    """One line for `mmpu tasks`."""
    source: str | None = None
    fields: tuple[str, ...] = ()
    """Names for the columns of rows that are lists."""
    id: str | None = None
    """Template of a sample's id; default: split and row number."""
    reference: str | None = None
    answer: str | None = None
    meta: dict[str, str] = field(default_factory=dict[str, str])
    """Further templates, kept with the sample: `letter` tells graders the right option's letter."""
    grader: str | dict[str, Any] | None = None
    splits: dict[str, Split] = field(default_factory=lambda: {"train": Split(), "test": Split()})
    sampling: Sampling = field(default_factory=Sampling)
    """How answers are drawn unless a config says otherwise."""
    licence: str = ""
    citation: str = ""
    shuffle: int | None = None
    """Seed of an order of the rows, for files that are sorted; a slice such as `train[:400]` is then a sample."""
    equalise: bool = False
    """Win rates also between answers of comparable length (`lc_equalised`), as PU-RLD's tasks have them."""
    data: str | None = None
    """Folder that relative paths start from; default: the YAML's."""


class YamlTask(Task):
    """A task as its YAML says."""

    def __init__(self, name: str, path: Path, config: TaskConfig, *, allow_urls: bool = False) -> None:
        self.name = name
        self.path = path
        self.config = config
        self.allow_urls = allow_urls
        self.folder = Path(config.data).expanduser().resolve() if config.data else path.parent
        self._grader = _grader(config, path)
        self._samples: dict[str, tuple[Sample, ...]] = {}
        self._grades: dict[tuple[str, str | None, str, str], float | None] = {}

    def samples(self, split: str) -> Sequence[Sample]:
        """The samples of `test` or `train[400:1400]`.

        Raises:
            UserError: unknown or empty split, unreadable file, malformed row, missing field, duplicate id.
        """
        if split not in self._samples:
            samples = self._load(split)
            if self.allow_urls:
                from mmpu.download import local

                samples = local(samples)
            self._samples[split] = tuple(samples)
        return self._samples[split]

    def grade(self, sample: Sample, text: str) -> float | None:
        if self._grader is None:
            return None
        # A judge, an entry and an audit ask for the same grade, and some graders are slow.
        key = (sample.id, sample.answer, repr(sorted(sample.meta.items())), text)
        if key not in self._grades:
            if len(self._grades) >= GRADES_KEPT:
                self._grades.clear()
            self._grades[key] = self._grader.grade(sample, text)
        return self._grades[key]

    def _load(self, spec: str) -> list[Sample]:
        name, start, stop = _slice(spec, f"task {self.name}")
        if name not in self.config.splits:
            raise UserError(f"task {self.name} has no split {name!r}; {plugins.suggest(name, self.config.splits)}")
        split = self.config.splits[name]
        source = split.source or self.config.source
        if source is None:
            raise UserError(f"{self.path}: neither the task nor its split {name!r} names a `source`")
        file = self._resolve(source)
        keep = self._condition(split.where)
        make = self._compile(name)
        numbered = enumerate(read_rows(file, name, self.config.fields, self.folder), 1)
        rows: Iterable[tuple[int, Values]] = ((n, row) for n, row in numbered if keep(n, row))
        if self.config.shuffle is not None:
            rows = list(rows)
            random.Random(self.config.shuffle).shuffle(rows)
        samples: list[Sample] = []
        seen: dict[str, int] = {}
        for number, row in islice(rows, start, stop):
            sample = make(number, row, file)
            if sample.id in seen:
                raise UserError(f"{file}: rows {seen[sample.id]} and {number} have the same id {sample.id!r}")
            seen[sample.id] = number
            samples.append(sample)
        if not samples:
            raise UserError(f"task {self.name}: {spec!r} holds no sample (from {file}); check `where` and the slice")
        return samples

    def _resolve(self, name: str) -> Path:
        path = self.folder / name
        # Code stays where the task is; only data moves with `data`.
        return self.path.parent / name if path.suffix == ".py" else path

    def _condition(self, where: str | None) -> Callable[[int, Values], bool]:
        if where is None:
            return lambda _n, _row: True
        from jinja2 import TemplateError

        try:
            expression = _environment().compile_expression(where, undefined_to_none=False)
        except TemplateError as error:
            raise UserError(f"{self.path}: cannot read `where: {where}`: {error}") from None

        def keep(number: int, row: Values) -> bool:
            try:
                return bool(expression(row))
            except (TemplateError, TypeError) as error:
                raise UserError(f"{self.path}: `where: {where}` fails on row {number}: {error}") from None

        return keep

    def _compile(self, split: str) -> Callable[[int, Values, Path], Sample]:
        """Turns the YAML's templates into one function from a row to a sample."""
        config = self.config
        turns = [self._turn(turn) for turn in config.prompt]
        if not turns:
            raise UserError(f"{self.path}: `prompt` has no turn")

        def make(number: int, row: Values, file: Path) -> Sample:
            row = {k: named_picture(v, f"{file}, row {number}, field {k!r}") for k, v in row.items()}
            row.setdefault("split", split)

            def render(template: str, what: str) -> str:
                return _render(template, row, f"{file}, row {number}: `{what}` of {self.path.name}")

            def optional(template: str | None, what: str) -> str | None:
                return (render(template, what) or None) if template is not None else None

            prompt = tuple(
                Message(
                    cast(Literal["system", "user", "assistant"], role),
                    tuple(self._part(kind, render(text, "prompt")) for kind, text in parts),
                )
                for role, parts in turns
            )
            if not any(part.data.strip() for message in prompt for part in message.parts):
                raise UserError(f"{file}, row {number}: the prompt is empty")
            return Sample(
                id=optional(config.id, "id") or f"{split}-{number}",
                prompt=prompt,
                reference=optional(config.reference, "reference"),
                answer=optional(config.answer, "answer"),
                meta={key: render(text, f"meta.{key}") for key, text in config.meta.items()},
            )

        return make

    def _turn(self, turn: Mapping[str, Any]) -> tuple[str, list[tuple[Literal["text", "image"], str]]]:
        if len(turn) != 1 or next(iter(turn)) not in ROLES:
            raise UserError(f"{self.path}: a turn of `prompt` is `user:`, `system:` or `assistant:`, got {turn!r}")
        role, content = next(iter(turn.items()))
        parts: list[tuple[Literal["text", "image"], str]] = []
        for part in cast(list[object], content) if isinstance(content, list) else [content]:
            if isinstance(part, str):
                parts.append(("text", part))
            elif isinstance(part, dict) and list(cast(Values, part)) == ["image"]:
                parts.append(("image", str(cast(Values, part)["image"])))
            else:
                raise UserError(f"{self.path}: a part of a turn is a text or {{image: …}}, got {part!r}")
        return role, parts

    def _part(self, kind: Literal["text", "image"], value: str) -> Part:
        if kind == "image" and not value.startswith(("data:", "http://", "https://")):
            value = str(self.folder / value)
        return Part(kind, value)


def load_task(name: str, *, allow_urls: bool = False, **overrides: object) -> YamlTask:
    """The task `name` (or of a YAML's path).

    Args:
        allow_urls: Fetch images that rows name by URL. Not a key of the YAML: who runs a task decides, not its author.
        overrides: Replace keys of the YAML, such as `data`.
    """
    path = plugins.find_data("tasks", name)
    config = build(TaskConfig, {**load_yaml(path), **overrides}, str(path))
    return YamlTask(path.stem, path, config, allow_urls=allow_urls)


def _grader(config: TaskConfig, path: Path) -> Grader | None:
    if config.grader is None:
        return None
    name, values = component(config.grader, f"{path}: grader")
    return build(plugins.find_class("graders", name, Grader), values, f"{path}: grader")


def _slice(spec: str, where: str) -> tuple[str, int, int | None]:
    match = re.fullmatch(r"([\w-]+)(?:\[(\d*):(\d*)\])?", spec.strip())
    if not match:
        raise UserError(f"{where}: cannot read the split {spec!r}; write `test` or `train[400:1400]`")
    name, start, stop = match.groups()
    return name, int(start or 0), int(stop) if stop else None


def _environment() -> Environment:
    from jinja2 import Environment, StrictUndefined

    return Environment(undefined=StrictUndefined, finalize=_not_null, autoescape=False, keep_trailing_newline=True)


def _not_null(value: object) -> object:
    if value is None:  # would be written as the word "None"
        raise TypeError("a field is null; where that is meant, write {{ field or '' }}")
    return value


_compiled: dict[str, Any] = {}


def _render(template: str, row: Values, where: str) -> str:
    from jinja2 import TemplateError

    try:
        if template not in _compiled:
            _compiled[template] = _environment().from_string(template)
        return _compiled[template].render(row)
    except (TemplateError, TypeError) as error:
        raise UserError(f"{where}: {error}; the row has: {', '.join(map(str, row))}") from None


# ------------------------------------------------------------------------------------------------------------------
# rows


def read_rows(file: Path, split: str, fields: tuple[str, ...] = (), folder: Path | None = None) -> Iterator[Values]:
    """Rows of a file as mappings; for a `.py`, what its `rows(split)` or `rows(split, folder)` yields.

    Args:
        folder: Where the task's data are; default: beside the file.
    """
    for number, row in _raw_rows(file, split, folder or file.parent):
        if isinstance(row, list) and len(cast(list[object], row)) == len(fields):
            row = dict(zip(fields, cast(list[object], row), strict=True))
        if not isinstance(row, dict):
            hint = f"; `fields` names {len(fields)} columns" if fields else "; name its columns with `fields`"
            raise UserError(f"{file}, row {number}: not a mapping{hint}")
        yield cast(Values, row)


def _raw_rows(file: Path, split: str, folder: Path) -> Iterable[tuple[int, object]]:
    if file.suffix == ".py":
        rows = getattr(plugins.load_module(file), "rows", None) if file.is_file() else None
        if rows is None:
            raise UserError(f"{file}: no such file, or it does not define rows(split)")
        takes_folder = len(inspect.signature(rows).parameters) > 1
        return enumerate(rows(split, folder) if takes_folder else rows(split), 1)
    kind = (file.with_suffix("") if file.suffix == ".gz" else file).suffix
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv}
    if kind not in readers:
        raise UserError(f"{file}: a source ends in .jsonl, .json, .csv (or these with .gz) or .py")
    try:
        raw = file.read_bytes()
        text = (gzip.decompress(raw) if file.suffix == ".gz" else raw).decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; correct `source`, or point `data` at its folder") from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {file}: {error}") from None
    return readers[kind](text, file)


def _jsonl(text: str, file: Path) -> Iterable[tuple[int, object]]:
    # Not splitlines(): JSON strings may hold U+2028 and other characters that it would break at.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{file}, line {number}: not JSON ({error}): {line[:80]!r}") from None


def _json(text: str, file: Path) -> Iterable[tuple[int, object]]:
    try:
        rows: object = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{file}: not JSON ({error})") from None
    if not isinstance(rows, list):
        raise UserError(f"{file}: must hold a list of rows")
    return enumerate(cast(list[object], rows), 1)


def _csv(text: str, file: Path) -> Iterable[tuple[int, object]]:
    try:
        for number, row in enumerate(csv.DictReader(io.StringIO(text, newline="")), 1):
            if None in row or None in row.values():
                raise UserError(f"{file}, row {number}: has not as many columns as the header")
            yield number, row
    except csv.Error as error:
        raise UserError(f"cannot read {file}: {error}") from None
