"""Columnar files and the hub: Parquet and Arrow through pyarrow, `hf:` sources through datasets.

Pictures come as the bytes they were published as. No code of a data set is ever run: datasets no longer does,
and nothing here asks it to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from mmpu.config import Values
from mmpu.core import UserError
from mmpu.task.packed import check_size

STREAM_BYTES = 2**30
"""Splits larger than this are streamed, not downloaded whole."""
_SPEC = re.compile(
    r"hf:(?P<name>\w[\w.-]*/\w[\w.-]*)(?::(?P<config>[\w.-]+))?(?:@(?P<revision>[^#]+))?(?:#(?P<split>.+))?"
)


@dataclass(frozen=True)
class HubSource:
    """`hf:org/name:configuration@revision#split`."""

    name: str
    config: str | None
    revision: str | None
    split: str | None

    @staticmethod
    def parse(source: str, where: str, revision: str | None = None) -> HubSource:
        """The parts of an `hf:` source.

        Args:
            revision: The one meant where the source names none.
        """
        match = _SPEC.fullmatch(source)
        if not match:
            raise UserError(f"{where}: cannot read {source!r}; write hf:org/name:configuration@revision#split")
        return HubSource(match["name"], match["config"], match["revision"] or revision, match["split"])

    def rows(self, split: str, folder: Path | None = None) -> Iterator[Values]:
        """The rows of the split (of the source's own `#split`, if it names one).

        Args:
            folder: A local copy of the data set's repository, used instead of the hub.
        """
        try:
            import datasets
            from huggingface_hub.utils import logging
        except ImportError:
            raise UserError("`hf:` sources need datasets; run `pip install 'mmpu[datasets]'`") from None
        datasets.disable_progress_bars()
        logging.set_verbosity_error()  # it would announce every retry; what is wrong is said below, once
        place = str(folder) if folder else self.name
        if folder is None and Path(self.name).exists():
            raise UserError(
                f"the folder {Path(self.name).resolve()} would be read in the place of the hub's data set {self.name}; "
                "run this elsewhere, or name the folder with --data"
            )
        wanted = self.split or split
        try:
            options: Values = {"name": self.config} if folder else {"name": self.config, "revision": self.revision}
            info = cast(Any, datasets).load_dataset_builder(place, **options).info
            size = (info.splits or {}).get(wanted)
            large = size is not None and (size.num_bytes or 0) > STREAM_BYTES
            loaded = cast(Any, datasets).load_dataset(place, split=wanted, streaming=large, **options)
        except Exception as error:  # of many libraries: hub, fsspec, pyarrow, datasets
            raise UserError(
                f"cannot load {place} (configuration {self.config or 'default'}, split {wanted}): "
                f"{str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}; on a machine "
                "without network, point the task at local files with `--data NAME=PATH`"
            ) from None
        for column, feature in (loaded.features or {}).items():
            if isinstance(feature, datasets.Image):
                loaded = loaded.cast_column(column, datasets.Image(decode=False))
        return iter(loaded)


def read_parquet(file: Path) -> Iterator[Values]:
    """Rows of a Parquet file, batch by batch."""
    _pyarrow()
    from pyarrow import parquet

    try:
        opened: Any = parquet.ParquetFile(file)
        groups = (opened.metadata.row_group(i) for i in range(opened.metadata.num_row_groups))
        check_size(sum(group.total_byte_size for group in groups), file.stat().st_size)
        for batch in opened.iter_batches(1024):
            yield from batch.to_pylist()
    except UserError:
        raise
    except Exception as error:  # whatever pyarrow makes of a damaged file
        raise _unreadable(file, error) from None


def read_arrow(file: Path) -> Iterator[Values]:
    """Rows of an Arrow file, stream (as datasets writes) or random access."""
    _pyarrow()
    from pyarrow import ArrowException, ipc, memory_map

    try:
        with memory_map(str(file)) as source:
            try:
                batches: Any = ipc.open_stream(source)
            except ArrowException:
                source.seek(0)
                opened = ipc.open_file(source)
                batches = (opened.get_batch(i) for i in range(opened.num_record_batches))
            for batch in batches:
                yield from batch.to_pylist()
    except UserError:
        raise
    except Exception as error:  # whatever pyarrow makes of a damaged file
        raise _unreadable(file, error) from None


def _pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError:
        raise UserError("Parquet and Arrow files need pyarrow; run `pip install 'mmpu[datasets]'`") from None


def _unreadable(file: Path, error: Exception) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"{file}: no such file; correct `source`, or point `data` at its folder")
    return UserError(f"cannot read {file}: {error}")
