"""DuckDB: reads every kind of history and evaluates expressions, as streams of Arrow batches."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any, Self, cast
from weakref import finalize

import duckdb
import numpy as np
import pyarrow as pa

from tidemark.engines import schema
from tidemark.errors import EngineError
from tidemark.kernel import calendar

if TYPE_CHECKING:
    from tidemark.engines.log import EventLog

BATCH_ROWS = 1 << 17
"""Rows that are in flight between DuckDB and the kernel."""

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def parse_bytes(size: str) -> int:
    """Bytes of `"4GB"`, `"512MiB"` and the like; raises `EngineError` for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", size.lower())
    if not found or found[2] == "i":
        raise EngineError(f"{size!r} is not a memory limit.", remedy='Write it as "4GB".')
    return int(float(found[1]) * (_UNITS | _BINARY)[found[2]])


class DuckDB:
    """An engine on one machine.

    `root` is the folder that histories are relative to, `memory` the bytes that one computation may
    use in all, `frames` the objects behind `Frame` histories by name.  `log` holds events beside
    history; those of a source in `positions` are read up to there only.  Use it as a context or
    close it: it owns a folder of temporary files.
    """

    def __init__(
        self,
        *,
        root: str | Path = ".",
        memory_limit: str = "4GB",
        threads: int | None = None,
        temporary: str | Path | None = None,
        frames: Mapping[str, object] | None = None,
        log: EventLog | None = None,
    ) -> None:
        self.root = Path(root)
        self.memory = parse_bytes(memory_limit)
        self.frames = dict(frames or {})
        self.log = log
        self.positions: dict[str, int] = {}
        self.temporary = Path(tempfile.mkdtemp(prefix="tidemark-", dir=temporary))
        # A store that took live events keeps an engine; a notebook's store is often not closed.
        self._cleanup = finalize(self, rmtree, self.temporary, ignore_errors=True)
        config: dict[str, Any] = {
            # The rest belongs to the arrays of the kernel.
            "memory_limit": f"{self.memory * 2 // 5 // 10**6}MB",
            "temp_directory": str(self.temporary / "spill"),
            "preserve_insertion_order": True,  # passes over one history are matched row by row
            "python_enable_replacements": False,  # a query reads tables, not our variables
        }
        if threads is not None:
            config["threads"] = threads
        try:
            self._connection = duckdb.connect(":memory:", config=config)
            self._connection.execute("SET TimeZone = 'UTC'")
        except duckdb.Error as error:
            raise EngineError(f"DuckDB does not start: {error}") from error
        self.threads = int(self.rows("SELECT current_setting('threads')")[0][0])
        self._zones: dict[str, str] = {}
        self._attached: dict[Path, str] = {}
        self._names = 0

    def batches(
        self, query: str, tables: Mapping[str, object] | None = None, rows: int = BATCH_ROWS
    ) -> Iterator[pa.RecordBatch]:
        """The result of a query, streamed in batches; `tables` are Arrow objects that it names."""
        with self._cursor(query, tables) as cursor:
            yield from cursor.sql(query).to_arrow_reader(rows)

    def table(
        self, query: str, tables: Mapping[str, object] | None = None, database: str = ""
    ) -> pa.Table:
        """The whole result of a query; names are looked up in `database` first."""
        with self._cursor(query, tables, database) as cursor:
            result: pa.Table = cursor.sql(query).to_arrow_table()
            return result

    def rows(
        self, query: str, tables: Mapping[str, object] | None = None, database: str = ""
    ) -> list[tuple[Any, ...]]:
        """The result of a small query as Python values."""
        table = self.table(query, tables, database)
        return list(zip(*(column.to_pylist() for column in table.columns), strict=True))

    def execute(
        self, statement: str, tables: Mapping[str, object] | None = None, database: str = ""
    ) -> None:
        """Run a statement that gives no rows."""
        with self._cursor(statement, tables, database) as cursor:
            cursor.execute(statement)

    @contextmanager
    def _cursor(
        self, query: str, tables: Mapping[str, object] | None, database: str = ""
    ) -> Generator[Any]:
        """A connection of its own for one query, so that calls from several threads do not meet."""
        cursor: Any = self._connection.cursor()
        try:
            if database:
                cursor.execute(f"SET search_path = '{database}.main,memory.main'")
            for name, table in (tables or {}).items():
                cursor.register(name, table)
            yield cursor
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            raise _refused(error, query) from error
        finally:
            cursor.close()

    def to_utc(self, zone: str) -> str:
        """The SQL function from naive microseconds of a zone to those of UTC.

        It is ours rather than the database's, so that an hour that occurs twice means the same
        wherever it is read.
        """
        if zone not in self._zones:
            name = f"tidemark_utc_{len(self._zones)}"

            def convert(local: Any) -> Any:
                column = local.combine_chunks() if isinstance(local, pa.ChunkedArray) else local
                return pa.array(calendar.to_utc(np.asarray(column), zone))

            create = cast("Any", self._connection).create_function
            create(name, convert, ["BIGINT"], "BIGINT", type="arrow")
            self._zones[zone] = name
        return self._zones[zone]

    def attach(self, database: Path) -> str:
        """The name of a DuckDB file, which is opened read-only."""
        path = database.resolve()
        if path not in self._attached:
            if not path.is_file():
                raise EngineError(f"There is no database {database}.")
            name = f"history_{len(self._attached)}"
            quoted = str(path).replace("'", "''")
            try:
                self.execute(f"ATTACH '{quoted}' AS {name} (READ_ONLY)")
            except EngineError as error:
                raise EngineError(
                    f"The database {database} cannot be opened for reading.",
                    sql=error.sql,
                    where=error.what,
                    remedy="DuckDB gives a file to one writer or to readers: close the connection "
                    "that has it open, also one in this process.",
                ) from error
            self._attached[path] = name
        return self._attached[path]

    def fresh_name(self, kind: str) -> str:
        """A name that no table or file of this engine has yet."""
        self._names += 1
        return f"{kind}_{self._names}"

    def close(self) -> None:
        """Close the database and remove its temporary files."""
        self._connection.close()
        self._cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def _refused(error: Exception, query: str) -> EngineError:
    """An error of the database, without the hints that only its own shell could follow."""
    message = str(error).split("\n\nLINE ")[0].strip()
    if isinstance(error, duckdb.OutOfMemoryException):
        return EngineError(
            "The memory limit is too small for this history.",
            sql=query,
            where=message.splitlines()[0],
            remedy='Raise it: memory_limit = "4GB" in tidemark.toml, or TIDEMARK_MEMORY_LIMIT=4GB.',
        )
    if message.endswith(schema.INEXACT):
        return EngineError(
            message.partition(": ")[2],
            sql=query,
            remedy="Declare the column as int or as a decimal, or round it in a query.",
        )
    return EngineError(f"The database refused a query: {message}", sql=query)
