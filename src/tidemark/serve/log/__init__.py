"""The serving log: what was answered, to whom, from what, and when.

Whoever answers leaves a reference to the answer in a queue; one thread makes columns of what has
come together and writes them as Parquet.  Serving never waits for it and never fails with it: what
does not fit or cannot be written is counted and dropped.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from tidemark.define.python_types import is_value
from tidemark.errors import NotFound, RequestInvalid
from tidemark.model.types import parse_type
from tidemark.model.window import HOUR, MINUTE, clock, instant, parse_duration, parse_moment
from tidemark.serve.log import files
from tidemark.serve.log.explanation import Explanation, explained
from tidemark.serve.log.form import Courtesy, Description, Entry, Form, read_description
from tidemark.serve.log.masking import Mask

if TYPE_CHECKING:
    from tidemark.model.graph import Definitions
    from tidemark.serve.answer import Answer
    from tidemark.serve.program import Program

__all__ = ["Description", "Explanation", "ServingLog", "span"]

QUEUE_ROWS = 20_000
"""Rows that wait at most for the thread that writes; further ones are dropped and counted."""

TAKE_SECONDS = 0.5
TAKE_ROWS = 2_000
"""Answers become columns so often, or when there are so many rows: what that takes is mostly for
each column, whatever its length."""

FLUSH_ROWS = 50_000
FLUSH_SECONDS = 10.0
"""A file is written when there are so many rows, or the oldest of them is so old."""

_OVER = 10 * MINUTE
"""How long after an hour its files become one: by then all processes have written theirs."""

_FORMS = 256

_ROWS = 4_096
"""Rows that become columns at once; what is done to all of them holds up nobody for long."""

_log = logging.getLogger("tidemark.log")


class ServingLog:
    """The serving log of a project, in a folder that several processes may write to.

    `sample` is the share of keys whose rows are kept, the same keys in every process and always;
    `retention` is microseconds, 0 for ever.  `definitions` gives those of a revision, `targets` the
    names of the services in force and of the models, as `model:fraud@3`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        sample: float,
        retention: int,
        definitions: Callable[[int], Definitions],
        targets: Callable[[], Iterable[str]],
    ) -> None:
        self.folder = folder
        self.written = 0
        self.dropped = 0
        self.failed = 0
        self.mask = Mask(folder)
        self._sample, self._retention, self._definitions = sample, retention, definitions
        self._targets = targets
        self._queue: list[Entry] = []
        self._rows = 0
        self._lock = threading.Lock()
        self._forms: dict[tuple[str, Program], Form] = {}
        self._held: dict[Description, list[pa.RecordBatch]] = {}
        self._held_since = 0.0
        self._tidied_at = float("-inf")
        self._failing = False
        self._writing = threading.Lock()
        self._stopping = False
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> int:
        """Rows in the queue."""
        return self._rows

    def add(
        self, answer: Answer, target: str, revision: int, request_id: str, seconds: float
    ) -> None:
        """Keep an answer to be written later; costs about a microsecond, never waits or fails."""
        rows, answer.request_id = answer.rows, request_id
        with self._lock:
            if self._rows and self._rows + rows > QUEUE_ROWS:
                self.dropped += rows
                return
            self._rows += rows
            self._queue.append(Entry(target, revision, request_id, clock(), seconds, answer.logged))
            if self._rows >= TAKE_ROWS and not self._wake.is_set():
                self._wake.set()
            if self._thread is None:
                self._start()

    def flush(self) -> None:
        """Write all that is waiting now."""
        with self._writing:
            self._take(Courtesy(hurry=True))
            self._write()

    def close(self) -> None:
        """Write all that is waiting, and end the thread."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.flush()

    def read(
        self,
        *,
        service: str | None = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        request_id: str | None = None,
        keys: Mapping[str, Any] | None = None,
    ) -> pa.Table:
        """Rows of the log, in the order in which they were answered.

        `service` is one, `model:fraud@3`, or `features`, what was read by name; None is all.
        `since` and `until` are moments, or how long ago, such as `"24h"`.  `keys` are those of one
        entity, in plain also where the log masks them.  Where lists of outputs differ, a row has
        null in the columns that it has not.  Raises `NotFound` for a service that is neither in
        force nor in the log, and `RequestInvalid` where columns of one name have different types:
        read one service then.
        """
        self.flush()
        tables: list[pa.Table] = []
        for description, table in self.blocks(
            service=service, since=since, until=until, request_id=request_id, keys=keys
        ):
            tables.append(
                table.add_column(0, "service", _constant(description.target, len(table)))
                .add_column(1, "outputs", _constant(description.fingerprint, len(table)))
                .replace_schema_metadata(None)
            )
        if not tables:
            return pa.table({"request_id": pa.array([], pa.string())})
        try:
            table = pa.concat_tables(tables, promote_options="default")
        except pa.ArrowException as error:
            raise RequestInvalid(
                f"Services have columns of one name and different types: {error}.",
                remedy="Name one, store.log.read(service=...), or a time in which it had one form.",
            ) from None
        order = [("answered", "ascending"), ("request_id", "ascending"), ("row", "ascending")]
        ordered: pa.Table = table.sort_by(order)
        return ordered

    def count(
        self,
        *,
        service: str | None = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        keys: Mapping[str, Any] | None = None,
    ) -> tuple[int, int]:
        """How many rows `read` gives, and of how many requests; only their ids are read."""
        self.flush()
        rows = requests = 0
        for _, table in self.blocks(
            service=service, since=since, until=until, keys=keys, columns=["request_id"]
        ):
            rows += len(table)
            requests += pc.count_distinct(table["request_id"]).as_py()
        return rows, requests

    def blocks(
        self,
        *,
        service: str | None = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        request_id: str | None = None,
        keys: Mapping[str, Any] | None = None,
        columns: Sequence[str] | None = None,
    ) -> list[tuple[Description, pa.Table]]:
        """The same as `read`, each list of outputs by itself, with what its columns are."""
        self.check(service)
        first, last = span(since, until)
        found: list[tuple[Description, pa.Table]] = []
        fitting, others = 0, set[str]()
        for folder in files.folders(self.folder, service):
            where = None if request_id is None else pc.field("request_id") == request_id
            if keys is not None:
                described = files.described(folder, first, last)
                wanted = None if described is None else self._of_keys(described, keys)
                if wanted is None:
                    others |= (
                        {f"{k.name}: {k.type}" for k in described.keys} if described else set()
                    )
                    continue
                fitting += 1
                where = wanted if where is None else where & wanted
            table = files.read(folder, since=first, until=last, where=where, columns=columns)
            if table is not None and table.num_rows:
                found.append((read_description(table.schema, folder), table))
        if others and not fitting:
            raise RequestInvalid(
                f"No row of the log has such keys: {dict(keys or {})!r}.",
                remedy=f"Keys in the log: {', '.join(sorted(others))}.",
            )
        return found

    def check(self, service: str | None) -> None:
        """Raise `NotFound` for a name that nothing was ever served as, nor will be.

        One that is in force may have no rows yet, and rows outlast the service they are of.
        """
        if service is None or service == "features":
            return
        known = set(self._targets())
        if service not in known:
            known |= set(files.served_as(self.folder))
        if service not in known:
            raise NotFound.named("service", service, known)

    def explain(self, request_id: str) -> Explanation:
        """What one request was given, what that means, and what it was computed from.

        Raises `NotFound` if the log has no such request.
        """
        self.flush()
        for description, table in self.blocks(request_id=request_id):
            revision: int = table["revision"][0].as_py()
            return explained(description, table, self._definitions(revision))
        raise NotFound(
            f"The serving log has no request {request_id!r}.",
            where=str(self.folder),
            remedy="A request is in the log some seconds after its answer, until its retention "
            "ends, and if its keys are in the sample; its id is in the answer.",
        )

    def recent_features(self, since: datetime) -> dict[str, datetime]:
        """The features (`view:feature@1`) read at a moment or later, and when each was read last.

        From the newest file of each list of outputs, so that it costs little in a large log.
        """
        self.flush()
        last: dict[str, int] = {}
        for folder in files.folders(self.folder, None):
            found = files.last_read(folder, parse_moment(since))
            if found is not None:
                for each in found[0].features:
                    last[each.reference] = max(found[1], last.get(each.reference, 0))
        return {name: instant(moment) for name, moment in last.items()}

    def _of_keys(self, description: Description, keys: Mapping[str, Any]) -> Any:
        """What rows of these keys are; None where there are no such keys, or of other types."""
        known = {each.name: each for each in description.keys}
        if not known.keys() >= keys.keys():
            return None
        where = None
        for name, value in keys.items():
            column, plain = known[name], value
            type_ = parse_type(column.type)
            if not is_value(value, type_):
                return None
            if column.masked:
                (plain,) = self.mask.values([value], type_)
            test = pc.field(f"key.{name}") == pa.scalar(plain, column.arrow)
            where = test if where is None else where & test
        return where

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="tidemark-log", daemon=True)
        with suppress(RuntimeError):  # the interpreter is ending; `close` writes what is there
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(TAKE_SECONDS)
            self._wake.clear()
            with self._writing:
                self._take(Courtesy())
                held = sum(len(each) for batches in self._held.values() for each in batches)
                if held >= FLUSH_ROWS or time.monotonic() - self._held_since >= FLUSH_SECONDS:
                    self._write()

    def _take(self, courtesy: Courtesy) -> None:
        """Make columns of the answers in the queue."""
        with self._lock:
            entries, self._queue, self._rows = self._queue, [], 0
        of_form: dict[Form, list[Entry]] = {}
        for each in entries:
            of_form.setdefault(self._form(each), []).append(each)
        if of_form and not self._held:
            self._held_since = time.monotonic()
        entries.clear()
        for form, mine in of_form.items():
            for some in _cut(mine):
                self._hold(form, some, courtesy)
                courtesy.let_go(some)

    def _hold(self, form: Form, entries: list[Entry], courtesy: Courtesy) -> None:
        try:
            batch = form.batch(entries, courtesy)
            if self._sample < 1:
                batch = batch.filter(pa.array(_sampled(entries, self._sample)))
        except Exception as error:  # noqa: BLE001  # whatever it is, the next answers are logged
            self._lost(sum(each.logged.rows for each in entries), error)
            return
        if len(batch):
            self._held.setdefault(form.description, []).append(batch)

    def _form(self, entry: Entry) -> Form:
        key = entry.target, entry.logged.program
        form = self._forms.get(key)
        if form is None:
            if len(self._forms) >= _FORMS:
                self._forms.clear()
            form = self._forms[key] = Form(entry.target, entry.logged.program, self.mask)
        return form

    def _write(self) -> None:
        """Write what is held; once an hour, forget what is too old and merge what is over."""
        held, self._held = self._held, {}
        for description, batches in held.items():
            table = pa.Table.from_batches(batches)
            try:
                files.write(self.folder, description, table)
                self.written += len(table)
                self._failing = False
            except OSError as error:
                self._lost(len(table), error)
        if held and time.monotonic() - self._tidied_at > HOUR / 1e6:
            self._tidied_at = time.monotonic()
            now = clock()
            with suppress(OSError):  # a folder was taken away; the next hour is soon enough
                if self._retention:
                    files.forget(self.folder, now - self._retention)
                files.merge(self.folder, now - _OVER)

    def _lost(self, rows: int, error: Exception) -> None:
        """Count rows that cannot be written, and say so once until writing succeeds again."""
        self.failed += rows
        if not self._failing:
            _log.error("The serving log in %s cannot be written: %s", self.folder, error)
        self._failing = True


def span(since: datetime | str | None, until: datetime | str | None) -> tuple[int, int]:
    """Two moments in microseconds, said as moments or as how long ago; None: from ever, to ever."""
    first = -(2**62) if since is None else _moment(since)
    return first, 2**62 if until is None else _moment(until)


def _moment(said: datetime | str) -> int:
    if isinstance(said, str) and said[:1].isdigit() and said[-1:] in "wdhms" and said.isalnum():
        return clock() - parse_duration(said)
    try:
        return parse_moment(said)
    except RequestInvalid as error:
        remedy = 'Say a moment, "2026-11-20T12:00:00Z", or how long ago it was: "24h".'
        raise RequestInvalid(error.what, remedy=remedy) from None


def _cut(entries: list[Entry]) -> Iterator[list[Entry]]:
    """The answers, so many at once that they have `_ROWS` rows or a few more; empties the list."""
    entries.reverse()
    while entries:
        some: list[Entry] = []
        rows = 0
        while entries and rows < _ROWS:
            some.append(entries.pop())
            rows += some[-1].logged.rows
        yield some


def _sampled(entries: list[Entry], share: float) -> list[bool]:
    """Whether the rows of answers are kept: by their keys, so that an entity always or never is."""
    kept: list[bool] = []
    for each in entries:
        named = [
            b"".join(of)
            for of in zip(*each.logged.program.key_bytes(each.logged.keys), strict=True)
        ]
        named = named or [each.request_id.encode()] * each.logged.rows
        for text in named:
            digest = hashlib.blake2b(text, digest_size=8).digest()
            kept.append(int.from_bytes(digest, "big") < share * 2**64)
    return kept


def _constant(text: str, rows: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text]))
