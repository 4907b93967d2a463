"""Revisions, keys and jobs in a SQL database: SQLite beside the project, or Postgres."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import event, exc, pool

from tidemark.errors import (
    DefinitionError,
    EngineError,
    MissingExtra,
    StoreUnavailable,
    TidemarkError,
)
from tidemark.model.records import Confirmation
from tidemark.registry.protocol import NO_REVISION, Job, Key, KeyScope, Revision

SCHEMA = 1
"""The version of the tables below and of what is in them; another one is refused."""

_metadata = sa.MetaData()
_schema = sa.Table(
    "tidemark_schema",
    _metadata,
    sa.Column("version", sa.Integer, primary_key=True),
)
_revision = sa.Table(
    "tidemark_revision",
    _metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("previous", sa.String(64), nullable=False),
    sa.Column("author", sa.Text, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("definitions", sa.Text, nullable=False),
    sa.Column("records", sa.Text, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
)
_confirmation = sa.Table(
    "tidemark_confirmation",
    _metadata,
    sa.Column("plan", sa.String(64), primary_key=True),
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
)
_key = sa.Table(
    "tidemark_key",
    _metadata,
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False, unique=True),
    sa.Column("scope", sa.Text, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("author", sa.Text, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("expires", sa.BigInteger),
    sa.Column("revoked", sa.BigInteger),
    sa.Column("revoked_by", sa.Text, nullable=False),
    sa.Column("revoked_reason", sa.Text, nullable=False),
)

_job = sa.Table(
    "tidemark_job",
    _metadata,
    sa.Column("name", sa.String(200), primary_key=True),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("lease", sa.BigInteger, nullable=False),
    sa.Column("started", sa.BigInteger, nullable=False),
    sa.Column("finished", sa.BigInteger, nullable=False),
    sa.Column("failures", sa.BigInteger, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("reached", sa.BigInteger, nullable=False),
)

_CONNECT_SECONDS = "5"
"""How long a connection to a server may take, where its URL says nothing else."""

_EXCLUSIVE = {
    "sqlite": "begin immediate",
    "postgresql": "select pg_advisory_xact_lock(7233173)",
}
"""What keeps other processes out until the transaction ends, in each database."""


class SqlRevisions:
    """A `Writer` on a database named by a SQLAlchemy URL; tables are made on first use."""

    def __init__(self, url: str) -> None:
        self._url = _address(url)
        self._engine: sa.Engine | None = None

    def head(self) -> str:
        """The digest of the newest revision; `NO_REVISION` if there is none."""
        query = sa.select(_revision.c.digest).order_by(_revision.c.number.desc()).limit(1)
        with self._begin() as connection:
            return connection.scalar(query) or NO_REVISION

    def latest(self) -> Revision | None:
        """The newest revision; None if there is none."""
        return self._one(sa.select(_revision).order_by(_revision.c.number.desc()).limit(1))

    def revision(self, number: int) -> Revision | None:
        """The revision of that number."""
        return self._one(sa.select(_revision).where(_revision.c.number == number))

    def revision_at(self, moment: int) -> Revision | None:
        """The newest revision made at or before the moment."""
        query = sa.select(_revision).where(_revision.c.at <= moment)
        return self._one(query.order_by(_revision.c.number.desc()).limit(1))

    def revisions(self) -> Sequence[Revision]:
        """All revisions, oldest first."""
        with self._begin() as connection:
            rows = connection.execute(sa.select(_revision).order_by(_revision.c.number))
            return [Revision(**row) for row in rows.mappings()]

    def append(self, revision: Revision) -> bool:
        """Append if the newest revision is the one that this follows."""
        values = [sa.literal(getattr(revision, column.name), column.type) for column in _revision.c]
        row = sa.select(*values)
        if revision.previous != NO_REVISION:
            before = sa.select(_revision.c.number).where(
                _revision.c.number == revision.number - 1,
                _revision.c.digest == revision.previous,
            )
            row = row.where(before.exists())
        # One statement, so that no other writer can come between the test and the insertion.
        statement = _revision.insert().from_select(list(_revision.c.keys()), row)
        try:
            with self._begin() as connection:
                done = connection.execute(statement, execution_options={"preserve_rowcount": True})
                return done.rowcount == 1
        except exc.IntegrityError:
            return False

    def confirmations(self, plan: str) -> Sequence[Confirmation]:
        """What has been confirmed of the plan of that digest, in the order of the models."""
        query = sa.select(_confirmation).where(_confirmation.c.plan == plan)
        with self._begin() as connection:
            rows = connection.execute(query.order_by(_confirmation.c.model))
            return [Confirmation(**row) for row in rows.mappings()]

    def confirm(self, confirmation: Confirmation) -> None:
        """Keep a confirmation; the first one for a plan and a model stays."""
        values = {each.name: getattr(confirmation, each.name) for each in _confirmation.c}
        try:
            with self._begin() as connection:
                connection.execute(_confirmation.insert().values(**values))
        except exc.IntegrityError:
            return

    def keys(self) -> Sequence[Key]:
        """All keys there ever were, in the order of their names."""
        with self._begin() as connection:
            rows: list[dict[str, Any]] = [
                dict(row) for row in connection.execute(sa.select(_key)).mappings()
            ]
        for row in rows:
            row["scope"] = msgspec.json.decode(row["scope"], type=KeyScope)
        found = [Key(**row) for row in rows]
        return sorted(found, key=lambda key: key.name)  # databases differ in how they order text

    def add_key(self, key: Key) -> bool:
        """Keep a key; False if there ever was one of its name or digest."""
        values = {each.name: getattr(key, each.name) for each in _key.c}
        values["scope"] = msgspec.json.encode(key.scope).decode()
        try:
            with self._begin() as connection:
                connection.execute(_key.insert().values(**values))
        except exc.IntegrityError:
            return False
        return True

    def revoke_key(self, name: str, *, at: int, by: str, reason: str) -> bool:
        """Revoke a key; False if there is none, or if it is revoked already."""
        statement = (
            _key.update()
            .where(_key.c.name == name, _key.c.revoked.is_(None))
            .values(revoked=at, revoked_by=by, revoked_reason=reason)
        )
        with self._begin() as connection:
            return connection.execute(statement).rowcount == 1

    def jobs(self) -> Sequence[Job]:
        """All jobs that were ever taken, in the order of their names."""
        with self._begin() as connection:
            found = [Job(**row) for row in connection.execute(sa.select(_job)).mappings()]
        return sorted(found, key=lambda job: job.name)

    def take_job(self, name: str, holder: str, *, now: int, lease: int) -> Job | None:
        """Become the holder of a job until `lease`; None while somebody else's lease lasts."""
        new = Job(name=name, holder=holder, lease=lease, started=now, reached=now)
        free = sa.or_(_job.c.lease <= now, _job.c.holder == holder)
        statement = (
            _job.update()
            .where(_job.c.name == name, free)
            .values(holder=holder, lease=lease, started=now)
        )
        with self._begin() as connection:
            if connection.execute(statement).rowcount == 1:
                row = connection.execute(sa.select(_job).where(_job.c.name == name))
                return Job(**row.mappings().one())
        try:
            with self._begin() as connection:
                connection.execute(_job.insert().values(**msgspec.structs.asdict(new)))
        except exc.IntegrityError:  # it is there, and somebody else's
            return None
        return new

    def put_off(self, name: str, holder: str, *, lease: int) -> bool:
        """Make a lease last longer; False if the job is somebody else's by now."""
        mine = _job.update().where(_job.c.name == name, _job.c.holder == holder)
        with self._begin() as connection:
            return connection.execute(mine.values(lease=lease)).rowcount == 1

    def give_back(self, job: Job) -> bool:
        """Keep how a job went and end its lease; False if it is somebody else's by now."""
        mine = _job.update().where(_job.c.name == job.name, _job.c.holder == job.holder)
        values = {**msgspec.structs.asdict(job), "holder": "", "lease": 0}
        with self._begin() as connection:
            return connection.execute(mine.values(**values)).rowcount == 1

    def close(self) -> None:
        """Close all connections."""
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    def _one(self, query: sa.Select[Any]) -> Revision | None:
        with self._begin() as connection:
            row = connection.execute(query).mappings().first()
            return Revision(**row) if row is not None else None

    @contextmanager
    def _begin(self) -> Generator[sa.Connection]:
        try:
            if self._engine is None:
                self._engine = self._open()
            with self._engine.begin() as connection:
                yield connection
        except exc.IntegrityError:
            raise
        except (exc.DBAPIError, exc.TimeoutError) as error:
            raise self._refused(error) from error

    def _refused(self, error: exc.DBAPIError | exc.TimeoutError) -> TidemarkError:
        """What the database, its driver or the pool of connections refuses, and what to do."""
        where = self._url.render_as_string(hide_password=True)
        sqlite = where.startswith("sqlite")
        if isinstance(error, exc.TimeoutError):
            return StoreUnavailable(
                "The registry cannot be used: all connections of this process are busy.",
                where=where,
                remedy="Try again; look at what its database waits for.",
            )
        said = str(error.orig).rstrip(".")
        if "readonly" in said or "read-only" in said:
            return StoreUnavailable(
                "The registry can only be read by this process.",
                where=where,
                remedy="Make its file and its directory writable for this user, or write from "
                "where they are."
                if sqlite
                else "Name the server that is written to: this one is a standby of it, or was told "
                "to be read only.",
            )
        if isinstance(error, exc.OperationalError | exc.InterfaceError):
            return StoreUnavailable(
                f"The registry cannot be used: {said}.",
                where=where,
                remedy="Check that the directory exists, that it is writable and that no other "
                "process holds the database."
                if sqlite
                else "Check that the server runs there, and that this user may use the database.",
            )
        return EngineError(
            f"The registry's database refused: {said}.",
            where=where,
            remedy="Is this the registry of a Tidemark project?",
        )

    def _open(self) -> sa.Engine:
        sqlite = self._url.drivername.startswith("sqlite")
        engine = _sqlite(self._url) if sqlite else self._server()
        try:
            with engine.begin() as connection:
                there = self._has_tables(connection)
            if not there:
                with engine.begin() as connection:
                    # Two processes may open a new project at once: one makes the tables.
                    connection.exec_driver_sql(_EXCLUSIVE[engine.dialect.name])
                    if not self._has_tables(connection):
                        _metadata.create_all(connection, checkfirst=False)
                        connection.execute(_schema.insert().values(version=SCHEMA))
        except BaseException:
            engine.dispose()
            raise
        return engine

    def _has_tables(self, connection: sa.Connection) -> bool:
        """Whether the tables are there; raises `EngineError` for those of another schema."""
        if not sa.inspect(connection).has_table(_schema.name):
            return False
        version = connection.scalar(sa.select(_schema.c.version))
        if version != SCHEMA:
            raise EngineError(
                f"The registry is of schema {version}, and this release of Tidemark knows "
                f"schema {SCHEMA} only.",
                where=self._url.render_as_string(hide_password=True),
                remedy="Use the release that made it. What it holds is untouched.",
            )
        return True

    def _server(self) -> sa.Engine:
        url = self._url
        if url.drivername in {"postgres", "postgresql"}:
            url = url.set(drivername="postgresql+psycopg")
        if "connect_timeout" not in url.query:
            url = url.update_query_dict({"connect_timeout": _CONNECT_SECONDS})
        try:
            return sa.create_engine(url, pool_pre_ping=True)
        except ModuleNotFoundError as error:
            raise MissingExtra("postgres", "A registry in Postgres") from error


def _address(url: str) -> sa.URL:
    try:
        address = sa.make_url(url)
    except exc.ArgumentError:
        address = None
    if address is None or address.get_backend_name() not in _EXCLUSIVE:
        raise DefinitionError(
            "This is not the address of a registry.",
            where=f"registry = {url.rpartition('@')[2]!r}",  # without a password
            remedy='Write it as "sqlite:///registry.db" or "postgresql://user@host/database".',
        )
    return address


def _sqlite(url: sa.URL) -> sa.Engine:
    if url.database in {None, "", ":memory:"}:
        return sa.create_engine(
            url, poolclass=pool.StaticPool, connect_args={"check_same_thread": False}
        )
    directory = Path(str(url.database)).parent
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable(
            f"The registry's directory cannot be made: {error.strerror}.",
            where=str(directory),
            remedy='Choose a writable place: registry = "sqlite:///..." in tidemark.toml.',
        ) from error
    file = Path(str(url.database))
    if file.exists() and not (os.access(file, os.W_OK) and os.access(directory, os.W_OK)):
        return _only_read(url, file)
    engine = sa.create_engine(url, connect_args={"timeout": 30})

    def tune(connection: Any, _record: Any) -> None:
        # Readers go on while one process writes; a commit survives the loss of power.
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = full")

    event.listen(engine, "connect", tune)
    return engine


def _only_read(url: sa.URL, file: Path) -> sa.Engine:
    """An engine for a file beside which nothing can be written, as in a container that only serves.

    SQLite reads it without a lock, unless a writer is at work; so each transaction opens it anew
    and sees what has been written until then.
    """

    def connect() -> sqlite3.Connection:
        mode = "ro&immutable=1"
        with suppress(FileNotFoundError):  # also if the last writer just took it away
            if file.with_name(f"{file.name}-wal").stat().st_size:
                mode = "ro"
        return sqlite3.connect(f"{file.resolve().as_uri()}?mode={mode}", uri=True, timeout=30)

    return sa.create_engine(url, creator=connect, poolclass=pool.NullPool)
