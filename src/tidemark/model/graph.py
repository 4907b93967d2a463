"""What definitions mean: frozen objects, equal when they mean the same, whatever spelled them.

Classes, YAML and direct objects all become these.  Everything refers to everything else by name,
so that a snapshot of the registry is one document; `Definitions` resolves the names.  Nothing here
can hold itself, so the garbage collector need not look at it (`gc=False`): a registry of thousands
opens three times faster.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Literal, TypeVar

import msgspec

from tidemark.errors import NotFound
from tidemark.model.aggregates import Aggregate
from tidemark.model.types import Type
from tidemark.model.window import Bound


class Field(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A named, typed column, key or request value.

    `optional` says of a request value that it may be null; keys are never, columns always.
    """

    name: str
    type: Type
    description: str = ""
    tags: tuple[str, ...] = ()
    optional: bool = False


class _Described(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What every definition carries besides its meaning."""

    description: str = ""
    owner: str = ""
    tags: tuple[str, ...] = ()


class Entity(_Described, frozen=True, kw_only=True, omit_defaults=True):
    """What features describe: one or more typed keys, in order."""

    name: str
    keys: tuple[Field, ...]


class Parquet(msgspec.Struct, frozen=True, gc=False, tag_field="from", tag="parquet"):
    """Parquet files named by a path or glob, relative to the project."""

    path: str


class Csv(msgspec.Struct, frozen=True, gc=False, tag_field="from", tag="csv"):
    """CSV files with a header, named by a path or glob, relative to the project."""

    path: str


class Table(msgspec.Struct, frozen=True, gc=False, tag_field="from", tag="table"):
    """A table of a database; `connection` is a DuckDB file (relative to the project) or empty."""

    name: str
    connection: str = ""


class Query(msgspec.Struct, frozen=True, gc=False, tag_field="from", tag="query"):
    """A SQL query in DuckDB's dialect; `connection` as for a table."""

    sql: str
    connection: str = ""


class Delta(msgspec.Struct, frozen=True, gc=False, tag_field="from", tag="delta"):
    """A Delta Lake table by its path or address."""

    path: str


class Frame(msgspec.Struct, frozen=True, gc=False, tag_field="from", tag="frame"):
    """An Arrow-capable object of this process; the registry keeps only that there was one."""

    name: str


History = Parquet | Csv | Table | Query | Delta | Frame


class Kafka(msgspec.Struct, frozen=True, gc=False, tag_field="from", tag="kafka"):
    """A topic; where the brokers are is a setting of the project unless `brokers` says it.

    `format` is "json", "avro" or "protobuf"; the latter two find their schemas at `schema`, the URL
    of a schema registry or a folder of files.
    """

    topic: str
    brokers: str = ""
    format: str = "json"
    schema: str = ""


class RedisStream(msgspec.Struct, frozen=True, gc=False, tag_field="from", tag="redis_stream"):
    """A stream of Redis whose entries hold one JSON object in `field`; `url` as for brokers."""

    key: str
    url: str = ""
    field: str = "data"


class Ndjson(msgspec.Struct, frozen=True, gc=False, tag_field="from", tag="ndjson"):
    """A file (relative to the project) to which lines of JSON are appended; "-": standard input."""

    path: str


Stream = Kafka | RedisStream | Ndjson


class Source(_Described, frozen=True, kw_only=True, omit_defaults=True):
    """Events with a time, or timeless facts when `time` is None.

    `timezone` is the zone of a time (and `seen`) column that carries none.  `unique` names the
    columns that identify an event.  `seen` is the column that says when an event became known,
    `delay` (microseconds) a constant in its stead; with neither, events were seen as they happened.
    `stream` is where the same events arrive as they happen.
    """

    name: str
    columns: tuple[Field, ...]
    time: str | None
    history: History | None = None
    timezone: str = ""
    unique: tuple[str, ...] = ()
    seen: str | None = None
    delay: int = 0
    stream: Stream | None = None

    @property
    def types(self) -> dict[str, Type]:
        """The type of each column."""
        return {column.name: column.type for column in self.columns}


class Feature(_Described, frozen=True, kw_only=True, omit_defaults=True):
    """One named, versioned value: an aggregate over a window.

    `attribute` is the name under which it was declared: `spend` fans out to `spend_7d`, ....
    """

    name: str
    aggregate: Aggregate
    type: Type
    attribute: str = ""
    version: int = 1


class FeatureView(_Described, frozen=True, kw_only=True, omit_defaults=True):
    """Features of one entity over one source, each name once.

    A feature that is published stays when its view changes: then several views of one name stand
    beside each other, and `Definitions.locate` finds a feature of a version among them.

    `keys` names the source's columns that hold the entity's keys, in the entity's order.
    `max_age` and `freshness` are microseconds (0: none); `max_age` touches stored values only
    (`latest`, `last`, `last_n`): an older one counts no more.  With a `step` (microseconds, 0:
    none), windows end where they would at the last multiple of it since 1970 UTC.
    """

    name: str
    entity: str
    source: str
    keys: tuple[str, ...]
    features: tuple[Feature, ...]
    bound: Bound = "at"
    max_age: int = 0
    freshness: int = 0
    step: int = 0

    @property
    def reach(self) -> int | None:
        """How far before the moment asked for its windows can look; None: without limit."""
        reaches = [feature.aggregate.window.reach for feature in self.features]
        known = [reach for reach in reaches if reach is not None]
        if len(known) < len(reaches):
            return None
        return max(known, default=0) + max(self.step - 1, 0)


class Request(_Described, frozen=True, kw_only=True, omit_defaults=True):
    """What the caller knows only at serving time."""

    name: str
    fields: tuple[Field, ...]


class Reference(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Where a value comes from.

    `feature`    feature `name` of the view `owner`, at `version`
    `on_demand`  the on-demand feature `name` (no owner), at `version`
    `request`    the field `name` of the request `owner`
    """

    kind: Literal["feature", "on_demand", "request"]
    name: str
    owner: str = ""
    version: int = 1

    def __str__(self) -> str:
        if self.kind == "request":
            return f"{self.owner}.{self.name}"
        head = f"{self.owner}:{self.name}" if self.owner else self.name
        return f"{head}@{self.version}"


class Input(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One parameter of an on-demand function and what it receives."""

    parameter: str
    reference: Reference


class OnDemand(_Described, frozen=True, kw_only=True, omit_defaults=True):
    """A typed Python function of features and request values, named as `module:function`.

    `code` is the fingerprint of what the function does, its own helpers included.
    """

    name: str
    function: str
    inputs: tuple[Input, ...]
    type: Type
    version: int = 1
    code: str = ""

    @property
    def reference(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"


class Output(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One column of a service: the name that the model sees and where its value comes from."""

    name: str
    reference: Reference


class FeatureService(_Described, frozen=True, kw_only=True, omit_defaults=True):
    """The ordered list of features that a model reads."""

    name: str
    outputs: tuple[Output, ...]


Definition = Entity | Source | FeatureView | Request | OnDemand | FeatureService

_VERSION = re.compile("[1-9][0-9]{0,8}")

_T = TypeVar("_T", Entity, Source, FeatureView, Request, OnDemand, FeatureService, Field)


class Definitions(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Everything that is defined, each kind in the order of its names."""

    entities: tuple[Entity, ...] = ()
    sources: tuple[Source, ...] = ()
    views: tuple[FeatureView, ...] = ()
    requests: tuple[Request, ...] = ()
    on_demand: tuple[OnDemand, ...] = ()
    services: tuple[FeatureService, ...] = ()

    @classmethod
    def of(cls, objects: Iterable[Definition]) -> Definitions:
        """Definitions that hold the given objects, each kind in the order of its names."""
        items = sorted(set(objects), key=lambda item: (item.name, -getattr(item, "version", 0)))
        return cls(
            entities=tuple(item for item in items if isinstance(item, Entity)),
            sources=tuple(item for item in items if isinstance(item, Source)),
            views=tuple(item for item in items if isinstance(item, FeatureView)),
            requests=tuple(item for item in items if isinstance(item, Request)),
            on_demand=tuple(item for item in items if isinstance(item, OnDemand)),
            services=tuple(item for item in items if isinstance(item, FeatureService)),
        )

    def __iter__(self) -> Iterator[Definition]:
        yield from self.entities
        yield from self.sources
        yield from self.views
        yield from self.requests
        yield from self.on_demand
        yield from self.services

    def entity(self, name: str) -> Entity:
        """The entity of that name; raises `NotFound`."""
        return _named("entity", name, self.entities)

    def source(self, name: str) -> Source:
        """The source of that name; raises `NotFound`."""
        return _named("source", name, self.sources)

    def view(self, name: str) -> FeatureView:
        """The feature view of that name as it was defined last; raises `NotFound`."""
        return _named("feature view", name, self.views)

    def variants(self, name: str) -> tuple[FeatureView, ...]:
        """All feature views of that name, the one that was defined last first; or `NotFound`."""
        return tuple(view for view in self.views if view.name == name) or (self.view(name),)

    def locate(self, reference: Reference) -> tuple[FeatureView, Feature]:
        """The feature of that version and the view that holds it; raises `NotFound`."""
        variants = self.variants(reference.owner)
        for view in variants:
            for feature in view.features:
                if feature.name == reference.name and feature.version == reference.version:
                    return view, feature
        features = [feature for view in variants for feature in view.features]
        versions = [each.version for each in features if each.name == reference.name]
        if not versions:
            names = {feature.name for feature in features}
            raise NotFound.named(f"feature of {reference.owner}", reference.name, names)
        raise _no_version(reference, versions)

    def versions(self, owner: str, name: str) -> tuple[int, ...]:
        """The versions of a feature, or with no owner of an on-demand feature, newest first."""
        if not owner:
            found = [each.version for each in self.on_demand if each.name == name]
        else:
            views = [view for view in self.views if view.name == owner]
            found = [f.version for view in views for f in view.features if f.name == name]
        return tuple(sorted(found, reverse=True))

    def request(self, name: str) -> Request:
        """The request of that name; raises `NotFound`."""
        return _named("request", name, self.requests)

    def on_demand_feature(self, name: str, version: int = 0) -> OnDemand:
        """The on-demand feature of that version, 0 the newest; raises `NotFound`."""
        found = [each for each in self.on_demand if each.name == name]
        if not found:
            return _named("on-demand feature", name, self.on_demand)
        for each in found:
            if version == each.version:
                return each
        if version:
            reference = Reference("on_demand", name, version=version)
            raise _no_version(reference, [each.version for each in found])
        return max(found, key=lambda each: each.version)

    def service(self, name: str) -> FeatureService:
        """The feature service of that name; raises `NotFound`."""
        return _named("feature service", name, self.services)

    def needed(self, references: Iterable[Reference]) -> tuple[Reference, ...]:
        """The references and all that on-demand features among them read, each once."""
        found: dict[Reference, None] = {}
        todo = list(references)
        while todo:
            reference = todo.pop(0)
            if reference not in found:
                found[reference] = None
                known = self.versions("", reference.name)
                if reference.kind == "on_demand" and reference.version in known:
                    read = self.on_demand_feature(reference.name, reference.version).inputs
                    todo += [each.reference for each in read]
        return tuple(found)

    def type_of(self, reference: Reference) -> Type:
        """The type of what a reference names; raises `NotFound`."""
        match reference.kind:
            case "feature":
                return self.locate(reference)[1].type
            case "on_demand":
                return self.on_demand_feature(reference.name, reference.version).type
            case "request":
                request = self.request(reference.owner)
                return _named(f"field of {request.name}", reference.name, request.fields).type


def _no_version(reference: Reference, versions: Iterable[int]) -> NotFound:
    there = ", ".join(str(version) for version in sorted(versions))
    return NotFound(f"There is no {reference}.", remedy=f"What is defined is version {there}.")


def _named(kind: str, name: str, items: Iterable[_T]) -> _T:
    items = tuple(items)
    for item in items:
        if item.name == name:
            return item
    raise NotFound.named(kind, name, (item.name for item in items))


def parse_reference(text: str) -> Reference:
    """Read `view:feature`, `view:feature@2`, or the name of an on-demand feature.

    Raises `NotFound` where what follows the `@` is no version.
    """
    head, at, version = text.partition("@")
    if at and not _VERSION.fullmatch(version):
        raise NotFound(
            f"There is no {text!r}.", remedy=f"Versions are whole numbers: {head or 'name'}@1."
        )
    owner, _, name = head.rpartition(":")
    kind: Literal["feature", "on_demand"] = "feature" if owner else "on_demand"
    return Reference(kind, name, owner, int(version) if version else 1)
