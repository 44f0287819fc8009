"""A task is a YAML file: where rows come from, how a row becomes a prompt, how an answer is graded.

    about: Which of two shops sells more apples?
    source: rows.jsonl                 # see mmpu/task/sources.py for what a source may be
    prompt:
      - user: [{image: "pictures/{{ picture }}.png"}, "{{ question }}"]
    reference: "{{ explanation }}"
    answer: "{{ answer }}"
    grader: final_answer
    splits: {train: {where: number < 900}, test: {where: number >= 900}}

Texts are Jinja templates over a row's fields, and `split`; a field that a row lacks is an error that names file, line
and field. Paths are relative to the YAML's folder, or to `data` where the user points the task at files elsewhere, and
may not leave it unless the task is trusted (docs/security.md).
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from mmpu import files, plugins
from mmpu.chats import BadRow, NotMeant
from mmpu.config import Values, build, dump_yaml
from mmpu.core import Grader, Sample, Task, UserError
from mmpu.task import border, templates
from mmpu.task.lookup import described, find_task, on_the_path, place_of
from mmpu.task.sample import Maker
from mmpu.task.shares import bounds, key_of, point, spelled_out
from mmpu.task.sources import is_there, read_rows
from mmpu.task.task_config import Split, TaskConfig
from mmpu.thinking import answer_of

GRADES_KEPT = 1 << 15


class YamlTask(Task):
    """A task as its YAML says."""

    def __init__(
        self,
        name: str,
        path: Path,
        config: TaskConfig,
        *,
        trusted: bool,
        allow_urls: bool = False,
        given: Collection[str] = (),
    ) -> None:
        """Args:
        given: Keys of the config that the user said, not the YAML.
        """
        self.name = name
        self.path = path
        self.config = config
        self.trusted = trusted
        self._given = given
        if config.data and not self._allowed("data"):
            border.check_name(config.data, path.parent, f"{path}: `data`")
            border.check_file(path.parent / config.data, path.parent, f"{path}: `data`")
            config = self.config = replace(config, data=str(path.parent / config.data))
        self.folder = files.place(config.data).resolve() if config.data else path.parent
        self.dropped: dict[str, Counter[str]] = {}
        """By split as asked for: rows read and left out, by the key of the YAML that did it."""
        self.examples: dict[str, dict[str, str]] = {}
        """By split as asked for: of rows that are left out for what they hold, the first, by what they count as."""
        self.columns: set[str] = set()
        """Fields that some row read so far has, derived ones included."""
        self._allow_urls = allow_urls
        self._grader = config.grader.make({}) if config.grader else None
        self._samples: dict[str, tuple[Sample, ...]] = {}
        self._grades: dict[tuple[str, str | None, str, str], float | None] = {}

    def samples(self, split: str) -> Sequence[Sample]:
        """The samples of `test` or `train[400:1400]`.

        Raises:
            UserError: unknown or empty split, unreadable file, malformed row, missing field, duplicate id.
        """
        if split not in self._samples:
            samples = self._load(split)
            if self._allow_urls:
                from mmpu.media import local

                samples = local(samples)
            self._samples[split] = tuple(samples)
        return self._samples[split]

    def ready(self, split: str) -> Sequence[Sample]:
        """The samples of a split, once all their pictures are known to be there.

        Raises:
            UserError: also where picture files are missing, with how many, which, and how to get them.
        """
        samples = self.samples(split)
        images = dict.fromkeys(i for s in samples for i in s.images if not i.startswith(("data:", "http:", "https:")))
        missing = [image for image in images if not is_there(Path(image))]
        if missing:
            shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
            raise UserError(
                f"task {self.name}: {len(missing)} of {len(images)} pictures of {split!r} are missing: {shown}; "
                f"{self.config.obtain or 'check the image path of the prompt, or point `data` at the folder'}"
            )
        return samples

    def _allowed(self, key: str) -> bool:
        """Whether what a key names may lie anywhere."""
        return self.trusted or key in self._given

    @property
    def written(self) -> str:
        """The text of its YAML; of a file of rows, the one that it stands for."""
        return files.text(self.path) if self.path.suffix == ".yaml" else dump_yaml(described(self.path)[1])

    @property
    def _within(self) -> Path | None:
        """The folder that files may not leave through links; None where they may, as in a folder of the user's."""
        return None if self._allowed("data") else self.folder

    @property
    def grader(self) -> Grader | None:
        return self._grader

    def grade(self, sample: Sample, text: str) -> float | None:
        if self._grader is None:
            return None
        text = answer_of(text)
        # A judge, an entry and an audit ask for the same grade, and some graders are slow.
        key = (sample.id, sample.answer, repr(sorted(sample.meta.items())), text)
        if key not in self._grades:
            if len(self._grades) >= GRADES_KEPT:
                self._grades.clear()
            self._grades[key] = self._grader.grade(sample, text)
        return self._grades[key]

    def key(self, sample: Sample, text: str) -> str | None:
        return None if self._grader is None else self._grader.key(sample, answer_of(text))

    def rows(self, split: str) -> tuple[str, Iterator[tuple[str, Values]]]:
        """What errors call the source of a split, and its rows with their places."""
        spec = self._split(split)
        source = spec.source or self.config.source
        if source is None:
            raise UserError(f"{self.path}: neither the task nor its split {split!r} names a `source`")
        if source.startswith("hf:"):
            return self._hub(source, split, spec)
        within = None if (free := self._allowed("splits" if spec.source else "source")) else self._within
        if not free:
            border.check_name(source, self.folder, f"{self.path}: `source`")
        path = self.folder / source
        if path.suffix == ".py":
            path = self.path.parent / source  # code stays where the task is; only data moves with `data`
            if not self.trusted:
                raise UserError(f"{self.path} runs the code of {path}; read it, and allow it with --trust")
        elif self.config.obtain and not is_there(path):
            raise UserError(f"{path}: no such file; {self.config.obtain}")
        return str(path), read_rows(path, split, self.config.fields, self.folder, within)

    def _hub(self, source: str, split: str, spec: Split) -> tuple[str, Iterator[tuple[str, Values]]]:
        from mmpu.task.hub import HubSource

        hub = HubSource.parse(source, str(self.path), self.config.revision)
        if self.config.data is None:
            return source, ((f"row {n}", row) for n, row in enumerate(hub.rows(split), 1))
        for name in spec.local:
            if not self._allowed("splits"):
                border.check_name(name, self.folder, f"{self.path}: `local`")
            if is_there(self.folder / name):
                return str(self.folder / name), read_rows(self.folder / name, split, self.config.fields, self.folder)
        if not self.folder.is_dir() or not any(self.folder.rglob("*.parquet")):
            raise UserError(
                f"task {self.name}: {self.folder} holds none of {', '.join(spec.local) or 'the files'} for the split "
                f"{split!r}, and is no copy of the data set {hub.name} with its Parquet files; {self.config.obtain}"
            )
        return str(self.folder), ((f"row {n}", row) for n, row in enumerate(hub.rows(split, self.folder), 1))

    def _split(self, name: str) -> Split:
        if name not in self.config.splits:
            raise UserError(f"task {self.name} has no split {name!r}; {plugins.suggest(name, self.config.splits)}")
        return self.config.splits[name]

    def _load(self, spec: str) -> list[Sample]:
        name, start, stop = parse_split(spec, f"task {self.name}")
        file, found = self.rows(name)
        make = Maker(self.config, self.path, self.folder, name, self._within)
        dropped = self.dropped[spec] = Counter()
        rows: Iterable[tuple[int, str, Values]] = self._kept(found, file, make, name, dropped)
        if self.config.shuffle is not None:
            rows = list(rows)
            random.Random(self.config.shuffle).shuffle(rows)
        if not self.config.format:
            rows = islice(rows, start, stop)  # others need not be sound
            start, stop = 0, None
        samples: list[Sample] = []
        seen: dict[str, str] = {}
        for place, sample in islice(self._made(rows, file, make, spec), start, stop):
            if sample.id in seen:
                raise UserError(f"{file}: {seen[sample.id]} and {place} have the same id {sample.id!r}")
            seen[sample.id] = place
            samples.append(sample)
        if not samples:
            raise UserError(
                f"task {self.name}: {spec!r} holds no sample (from {file}); check `where`, the share and the slice"
            )
        return samples

    def _made(
        self, rows: Iterable[tuple[int, str, Values]], file: str, make: Maker, spec: str
    ) -> Iterator[tuple[str, Sample]]:
        """The samples of rows with their places; those that are left out are counted, the first by its place."""
        for number, place, row in rows:
            where = f"{file}, {place}"
            try:
                sample = make(number, row, where)
            except BadRow as error:
                key = error.key if isinstance(error, NotMeant) else "unusable"
                self.dropped[spec][key] += 1
                self.examples.setdefault(spec, {}).setdefault(key, f"{where}: {error}")
                continue
            yield place, sample

    def _kept(
        self,
        rows: Iterable[tuple[str, Values]],
        file: str,
        make: Maker,
        split: str,
        dropped: Counter[str],
    ) -> Iterator[tuple[int, str, Values]]:
        keep, belongs = self._condition(self._split(split).where), self._share(split)
        seen: set[str] = set()
        for number, (place, raw) in enumerate(rows, 1):
            row = make.prepare(raw, f"{file}, {place}")
            self.columns.update(row)
            if not keep(place, row):
                dropped["where"] += 1
                continue
            if self.config.unique is not None:
                key = templates.text(self.config.unique, row, f"{file}, {place}: `unique` of {self.path.name}")
                if key in seen:
                    dropped["unique"] += 1
                    continue
                seen.add(key)
            if not belongs(number, f"{file}, {place}", raw):
                dropped["share"] += 1
                continue
            yield number, place, row

    def _share(self, split: str) -> Callable[[int, str, Values], bool]:
        """Whether a row is of the part of its source that a split takes."""
        if self.config.splits[split].share is None:
            return lambda _number, _where, _row: True
        source = self._source(split)
        if self._by_name(source):
            raise UserError(
                f"{self.path}: the split {split!r} takes a share of {source!r}, which gives each split rows of its "
                "own; name the one to share out (hf:org/name#train), or let rows(split) do it"
            )
        shares = {name: s.share for name, s in self.config.splits.items() if self._source(name) == source}
        start, end = bounds(shares, str(self.path))[split]
        make = Maker(
            self.config, self.path, self.folder, "", self._within
        )  # the same for all splits, even if templates name theirs

        def belongs(number: int, where: str, row: Values) -> bool:
            try:
                sample = make(number, make.prepare(row, where), where)
            except BadRow:  # who reads the split counts it
                return start <= point(str(row)) < end
            return start <= point(key_of(sample, self.folder, has_id=self.config.id is not None)) < end

        return belongs

    def same_rows(self, split: str) -> list[str]:
        """Other splits, there to be evaluated on, that hold a split's rows by what the YAML says of both."""
        mine, source = self._split(split), self._source(split)
        told_apart = mine.where is not None and "split" in templates.undeclared(mine.where, is_expression=True)
        if self._by_name(source) or told_apart:
            return []

        def same(name: str, other: Split) -> bool:
            apart = name == split or mine.part_of == name or other.part_of == split
            alike = (self._source(name), other.where, other.local) == (source, mine.where, mine.local)
            return not apart and alike and (mine.share is None or other.share is None)

        return [n for n, s in self.config.splits.items() if self.config.for_evaluation(n) and same(n, s)]

    @property
    def way_out(self) -> str:
        """For errors about splits that hold the same rows."""
        by = "origin" if self.config.origin else "id" if self.config.id else "prompt"
        return (
            f"write `splits: {{train: 90%, test: 10%}}` in {self.path.name} to part them by a hash of the {by}, or "
            "name only the splits that are meant"
        )

    def _source(self, split: str) -> str:
        return self.config.splits[split].source or self.config.source or ""

    def _by_name(self, source: str) -> bool:
        """Whether a source gives each split rows of its own."""
        return (source.startswith("hf:") and "#" not in source) or source.endswith(".py")

    def _condition(self, where: str | None) -> Callable[[str, Values], bool]:
        if where is None:
            return lambda _place, _row: True
        holds = templates.expression(where, f"{self.path}: cannot read `where: {where}`")

        def keep(place: str, row: Values) -> bool:
            try:
                return bool(holds(row))
            except templates.failures() as error:
                raise UserError(f"{self.path}: `where: {where}` fails on {place}: {error}") from None

        return keep


def load_task(name: str, *, trust: bool = False, allow_urls: bool = False, **overrides: object) -> YamlTask:
    """The task `name` (an alias, or of a YAML's path).

    Args:
        trust: Whether a task that is not on the search path may run code and name what lies outside its folder.
        allow_urls: Fetch images that rows name by URL. Not a key of the YAML: who runs a task decides, not its author.
        overrides: Replace keys of the YAML, such as `data`.
    """
    path = find_task(name)
    values = {**described(path)[1], **overrides}
    if "splits" in values:
        values["splits"] = spelled_out(values["splits"])
    config = build(TaskConfig, values, str(path))
    trusted = trust or on_the_path(path)
    return YamlTask(path.stem, path, config, trusted=trusted, allow_urls=allow_urls, given=overrides)


def load_local(
    name: str,
    data: str | Sequence[str] = (),
    *,
    trust: bool = False,
    allow_urls: bool = False,
    others: Sequence[str] = (),
) -> YamlTask:
    """The task `name` with what `--data` says of it: `[NAME=]PATH` of its files, or `[NAME=]@REVISION` on the hub.

    Args:
        others: Names that `data` may hold besides those of tasks and data sets.
    """
    place = place_of([data] if isinstance(data, str) else data, name, others)
    keys = {} if place is None else {"revision": place[1:]} if place.startswith("@") else {"data": place}
    return load_task(name, trust=trust, allow_urls=allow_urls, **keys)


def parse_split(spec: str, where: str) -> tuple[str, int, int | None]:
    """`train[400:1400]` as its name, start and stop."""
    match = re.fullmatch(r"([\w-]+)(?:\[(\d{0,9}):(\d{0,9})\])?", spec.strip())
    if not match:
        raise UserError(f"{where}: cannot read the split {spec!r}; write `test` or `train[400:1400]`")
    name, start, stop = match.groups()
    first, last = int(start or 0), int(stop) if stop else None
    if last is not None and last <= first:
        raise UserError(f"{where}: the slice {spec!r} holds nothing; write [start:stop] with a stop after the start")
    return name, first, last
