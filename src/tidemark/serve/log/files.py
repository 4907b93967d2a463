"""Where the serving log lies, and how it is read and forgotten.

    service=fraud/outputs=3f9c.../day=2026-11-21/hour=14/0000018c...-4711-9f3a.parquet

A folder for each service and for each list of outputs that it had, so that the files in one have
the same typed columns.  A file appears whole, under a name that no other process makes.  The files
of an hour that is over become one; that one names those whose rows it holds, so that rows count
once also while, or although, these are still there.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from tidemark.model.window import HOUR, instant, parse_moment, since_epoch
from tidemark.serve.log.form import MOMENT, Description, read_description

_MERGED = "-merged-"
_REPLACES = b"tidemark.replaces"
_PARTS = b"tidemark.parts"
_LARGE_BYTES = 1 << 26
_GROUP_ROWS = 100_000
_READ_ROWS = 1 << 16

_ATTEMPTS = 5
"""How often a reading begins anew when files are forgotten under it."""

_log = logging.getLogger("tidemark.log")


def write(root: Path, description: Description, table: pa.Table) -> None:
    """Write rows into the folders of the hours in which they were answered; raises `OSError`."""
    folder = root / f"service={_quoted(description.target)}"
    folder /= f"outputs={description.fingerprint}"
    hours = pc.divide(table["answered"].cast(pa.int64()), HOUR)
    distinct: list[int] = pc.unique(hours).to_pylist()
    for hour in distinct:
        rows = table if len(distinct) == 1 else table.filter(pc.equal(hours, hour))
        at = instant(hour * HOUR)
        into = folder / f"day={at:%Y-%m-%d}" / f"hour={at:%H}"
        into.mkdir(parents=True, exist_ok=True)
        first: int = pc.min(rows["answered"]).cast(pa.int64()).as_py()
        name = f"{first:016x}-{os.getpid()}-{secrets.token_hex(4)}.parquet"
        part = into / f".{name}"
        try:
            pq.write_table(rows, part, **_form(rows.schema))
            part.rename(into / name)
        except (OSError, pa.ArrowException) as error:
            with suppress(OSError):
                part.unlink()
            raise OSError(str(error)) from error


def _form(schema: pa.Schema) -> dict[str, Any]:
    """How columns are written: what nobody looks for, and what hardly repeats, costs the least."""
    measured = ("value.", "status.", "age.", "known.", "position.")
    repeated = (pa.types.is_string, pa.types.is_binary, pa.types.is_dictionary)
    return {
        "compression": "zstd",
        "use_dictionary": [each.name for each in schema if any(is_(each.type) for is_ in repeated)],
        "write_statistics": [name for name in schema.names if not name.startswith(measured)],
    }


def folders(root: Path, service: str | None) -> list[Path]:
    """The folders of lists of outputs, of one service or of all."""
    pattern = "service=*" if service is None else f"service={_quoted(service)}"
    return sorted(root.glob(f"{pattern}/outputs=*"))


def served_as(root: Path) -> list[str]:
    """What there are rows of: services, models, and `features`."""
    return [unquote(each.name.removeprefix("service=")) for each in sorted(root.glob("service=*"))]


def files(folder: Path, since: int, until: int) -> list[Path]:
    """The files of the hours from `since` until before `until` (microseconds), oldest first."""
    found: list[Path] = []
    for hour in _hours(folder):
        begins = _begins(hour)
        if begins + HOUR > since and begins < until:
            found += _live(hour)
    return found


def _live(hour: Path) -> list[Path]:
    """The files of an hour but those whose rows are in a merged one as well."""
    names = sorted(hour.glob("[!.]*.parquet"))
    replaced: set[str] = set()
    if len(names) > 1:
        for file in names:
            if _MERGED in file.name:
                with suppress(FileNotFoundError), _leaving_out(file):
                    metadata: dict[bytes, bytes] = pq.read_schema(file).metadata or {}
                    replaced.update(msgspec.json.decode(metadata[_REPLACES], type=list[str]))
    return [file for file in names if file.name not in replaced]


def merge(root: Path, before: int) -> int:
    """Make one file of those of each hour that ended before a moment; gives how many went."""
    gone = 0
    for folder in folders(root, None):
        for hour in _hours(folder):
            if _begins(hour) + HOUR <= before:
                with suppress(OSError):  # another process does it, or removes the hour
                    gone += _merged(hour)
    return gone


def _merged(hour: Path) -> int:
    """Merge the small files of an hour; raises `OSError` if somebody else is about to."""
    live = _live(hour)
    leftover = set(hour.glob("[!.]*.parquet")) - set(live)
    small = _sound(file for file in live if file.stat().st_size <= _LARGE_BYTES)
    if len(small) < 2 and not leftover:
        return 0
    lock = hour / ".merging"
    with suppress(FileNotFoundError):
        if time.time() - lock.stat().st_mtime > HOUR / 1e6:
            lock.unlink()  # whoever made it is gone
    os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
    try:
        if len(small) > 1:
            _write_merged(hour, small)
            leftover |= set(small)
        for file in leftover:
            file.unlink(missing_ok=True)
    finally:
        lock.unlink(missing_ok=True)
    return len(leftover)


def _write_merged(hour: Path, small: Sequence[Path]) -> None:
    schema = pq.read_schema(small[0])
    names = msgspec.json.encode([file.name for file in small])
    held = [part for file in small for part in _parts(file, pq.ParquetFile(file))]
    parts = msgspec.json.encode(held)
    schema = schema.with_metadata({**(schema.metadata or {}), _REPLACES: names, _PARTS: parts})
    first = small[0].name.partition("-")[0]
    name = f"{first}{_MERGED}{secrets.token_hex(4)}.parquet"
    part = hour / f".{name}"
    with pq.ParquetWriter(part, schema, **_form(schema)) as out:
        rows: list[pa.Table] = []
        for file in small:
            rows.append(pq.ParquetFile(file).read().replace_schema_metadata(schema.metadata))
            if file is small[-1] or sum(map(len, rows)) >= _GROUP_ROWS:
                out.write_table(pa.concat_tables(rows).combine_chunks())
                rows.clear()
    part.rename(hour / name)


def read(
    folder: Path,
    *,
    since: int,
    until: int,
    where: ds.Expression | None = None,
    columns: Sequence[str] | None = None,
) -> pa.Table | None:
    """The rows answered from `since` until before `until`; None: no file has any.

    Of all `columns`, if they are None.
    """
    damaged = False
    for attempt in range(_ATTEMPTS):
        names = files(folder, since, until)
        try:
            names = _sound(names) if damaged else names
            if not names:
                break
            schema = pq.read_schema(names[-1])
            answered = pc.field("answered")
            low, high = (pa.scalar(each, pa.int64()).cast(MOMENT) for each in (since, until))
            wanted = (answered >= low) & (answered < high)
            rows = ds.dataset([str(each) for each in names], schema=schema)
            answered_then: pa.Table = rows.to_table(
                columns=columns, filter=wanted if where is None else wanted & where
            )
        except (OSError, pa.ArrowInvalid) as error:
            damaged = _is_damage(error)
            if attempt + 1 == _ATTEMPTS or not (damaged or isinstance(error, FileNotFoundError)):
                raise
        else:
            return answered_then
    return None


def batches(
    root: Path, service: str | None, since: int, until: int, *, rows: int, damaged: set[str]
) -> Iterator[tuple[Description, pa.Table]]:
    """The rows answered from `since` until before `until`, `rows` at a time at most.

    Statuses and ages are left out.  Memory does not grow with the log: what one list of outputs was
    served as comes together, in the order of the files' names, each row once, also while files
    become one.  Files that are no Parquet are left out, and their names added to `damaged`.
    """
    for folder in folders(root, service):
        description = described(folder, since, until)
        if description is None:
            damaged.update(each.name for each in files(folder, since, until))
            continue
        tables = _tables(folder, description, since, until, damaged)
        yield from ((description, table) for table in regrouped(tables, rows))


def regrouped(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of so many, but for the last one, which has fewer."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        while sum(map(len, held)) >= rows:
            together = pa.concat_tables(held)
            yield together.slice(0, rows)
            held = [together.slice(rows)]
    if any(map(len, held)):
        yield pa.concat_tables(held)


def _tables(
    folder: Path, description: Description, since: int, until: int, damaged: set[str]
) -> Iterator[pa.Table]:
    names = description.schema.names
    columns = [each for each in names if not each.startswith(("status.", "age.", "seconds"))]
    low, high = (pa.scalar(each, pa.int64()).cast(MOMENT) for each in (since, until))
    for hour in _hours(folder):
        begins = _begins(hour)
        if begins + HOUR <= since or begins >= until:
            continue
        whole = since <= begins and begins + HOUR <= until
        for table in _hour(hour, columns, damaged):
            at = table["answered"]
            then = pc.and_(pc.greater_equal(at, low), pc.less(at, high))
            yield table if whole else table.filter(then)


def _hour(hour: Path, columns: Sequence[str], damaged: set[str]) -> Iterator[pa.Table]:
    done: set[str] = set()
    for attempt in range(_ATTEMPTS):
        try:
            for file in _live(hour):
                if file.name in done:
                    continue
                with _leaving_out(file, damaged):
                    opened = pq.ParquetFile(file)
                    parts = _parts(file, opened)
                    yield from _but(opened, [name in done for name, _ in parts], parts, columns)
                    done.update(name for name, _ in parts)
                done.add(file.name)
        except FileNotFoundError:  # merged or forgotten meanwhile
            if attempt + 1 == _ATTEMPTS:
                raise
        else:
            return


def _but(
    file: pq.ParquetFile,
    skipped: Sequence[bool],
    parts: Sequence[tuple[str, int]],
    columns: Sequence[str],
) -> Iterator[pa.Table]:
    """The rows of a file without those of the parts that are skipped."""
    keep = pa.array(np.repeat([not each for each in skipped], [rows for _, rows in parts]))
    place = 0
    for batch in file.iter_batches(_READ_ROWS, columns=columns):
        table = pa.Table.from_batches([batch])
        yield table.filter(keep.slice(place, len(batch))) if any(skipped) else table
        place += len(batch)


def _parts(file: Path, opened: pq.ParquetFile) -> list[tuple[str, int]]:
    """The names and the numbers of rows of the files that one was made of, in their order."""
    said: dict[bytes, bytes] = opened.schema_arrow.metadata or {}
    if _PARTS in said:
        return msgspec.json.decode(said[_PARTS], type=list[tuple[str, int]])
    return [(file.name, opened.metadata.num_rows)]


def _sound(files: Iterable[Path]) -> list[Path]:
    """The files that can be read whole: a machine that stopped may have left some that cannot."""
    sound: list[Path] = []
    for file in files:
        damaged: set[str] = set()
        with _leaving_out(file, damaged):
            for _ in pq.ParquetFile(file).iter_batches(_READ_ROWS):
                pass
        if damaged:
            _log.error("%s is damaged and is left out of the serving log.", file)
        else:
            sound.append(file)
    return sound


@contextmanager
def _leaving_out(file: Path, damaged: set[str] | None = None) -> Generator[None]:
    """Go on after a file that is damaged, and add its name."""
    try:
        yield
    except (OSError, pa.ArrowInvalid) as error:
        if not _is_damage(error):
            raise
        if damaged is not None:
            damaged.add(file.name)


def _is_damage(error: Exception) -> bool:
    """Whether bytes are not Parquet.

    What cannot be decoded is an `OSError` as well, but without the number that the system gives.
    """
    return isinstance(error, pa.ArrowInvalid) or getattr(error, "errno", 0) is None


def described(folder: Path, since: int, until: int) -> Description | None:
    """What the files of a folder hold; None: there are none from that time."""
    for file in reversed(files(folder, since, until)):
        with suppress(FileNotFoundError), _leaving_out(file):
            return read_description(pq.read_schema(file), folder)
    return None


def last_read(folder: Path, since: int) -> tuple[Description, int] | None:
    """What a folder holds, and when the last row of it was answered, if at `since` or later."""
    with suppress(FileNotFoundError):
        for file in reversed(files(folder, since, 2**62)):
            last = 0
            footer: pq.ParquetFile | None = None
            with _leaving_out(file):
                footer = pq.ParquetFile(file)
            if footer is None:
                continue
            place = footer.schema_arrow.get_field_index("answered")
            for group in range(footer.metadata.num_row_groups):
                newest: datetime = footer.metadata.row_group(group).column(place).statistics.max
                last = max(last, since_epoch(newest))
            return (read_description(footer.schema_arrow, folder), last) if last >= since else None
    return None


def forget(root: Path, before: int) -> int:
    """Remove the hours that ended before a moment; gives how many."""
    removed = 0
    for folder in folders(root, None):
        for hour in _hours(folder):
            if _begins(hour) + HOUR <= before:
                shutil.rmtree(hour, ignore_errors=True)
                removed += 1
        for day in folder.glob("day=*"):
            with suppress(OSError):  # it is not empty
                day.rmdir()
    return removed


def _hours(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.glob("day=????-??-??/hour=??"))


def _begins(hour: Path) -> int:
    text = f"{hour.parent.name.removeprefix('day=')}T{hour.name.removeprefix('hour=')}"
    return parse_moment(f"{text}:00:00Z")


def _quoted(name: str) -> str:
    return quote(name, safe="@")
