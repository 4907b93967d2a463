"""Definitions kept as data: YAML files and dicts, which mean what the classes mean.

A document has the sections `entities`, `sources`, `views`, `requests`, `on_demand`, `services` and
`features` (each one feature with its entity and source), or is one such feature itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, cast

from msgspec.structs import replace

from tidemark.define.columns import HeldFrame, kafka, ndjson, redis_stream
from tidemark.define.features import check_number
from tidemark.define.fragments import parse_sql
from tidemark.define.linking import link, read_reference
from tidemark.define.lowered import Loaded
from tidemark.define.marks import Marked, Path_, is_list, is_mapping, read_yaml
from tidemark.define.parts import default_literal, spelled_out
from tidemark.define.problems import ordered
from tidemark.define.python_types import as_texts
from tidemark.define.windows import Over, is_single, to_date, windows
from tidemark.errors import DefinitionError, Problem
from tidemark.model import graph
from tidemark.model.aggregates import RULES, Aggregate, result_type
from tidemark.model.expr import Expr, type_of
from tidemark.model.findings import Spelling, Subject
from tidemark.model.types import BOOL, FLOAT64, Type, parse_type
from tidemark.model.window import parse_duration

_ABOUT = {"description", "owner", "tags"}
_SYNONYMS = {"column": "value", "filter": "where", "window": "over"}
_AGGREGATE = {
    *("function", "value", "where", "over", "offset", "rows", "default"),
    *("n", "q", "ddof", "population"),
    *_SYNONYMS,
}
_FEATURE = _ABOUT | {"type", "version", "aggregation"}
_BARE = _FEATURE | {"name", "entity", "source", "by"}
_SECTIONS = ("entities", "sources", "requests", "views", "features", "on_demand", "services")


def load(source: str | PathLike[str] | Mapping[str, Any] | Sequence[Any]) -> Loaded:
    """Read the definitions of a YAML file, or of a dict of the same form.

    Returns the objects of the model.  Raises `DefinitionError` with every problem and its line.
    """
    reader = _Reader()
    files = isinstance(source, str | PathLike)
    for document in read_yaml(Path(cast("str", source))) if files else [Marked(source)]:
        reader.read(document)
    return reader.finish()


class _Reader:
    """Reads documents into model objects, sections in the order in which they need each other."""

    def __init__(self) -> None:
        self.doc = Marked({})
        self.objects: list[graph.Definition] = []
        self.problems: list[Problem] = []
        self.loaded = Loaded()

    def finish(self) -> Loaded:
        if self.problems:
            raise DefinitionError(ordered(self.problems))
        self.loaded.extend(link(graph.Definitions.of(self.objects)))
        return self.loaded

    def read(self, document: Marked) -> None:
        self.doc = document
        data = document.data
        if is_mapping(data) and "entity" in data:
            self.bare((), data)
        elif is_list(data):
            for position, body in enumerate(data):
                self.bare((position,), body)
        else:
            sections = document.mapping((), data, set(_SECTIONS))
            for section in _SECTIONS:
                read = getattr(self, f"section_{section}")
                for name, path, body in document.named((section,), sections.get(section)):
                    try:
                        read(name, path, body)
                    except DefinitionError as error:
                        document.say(path, f"{name}: {error.what}", error.remedy)
        self.problems.extend(document.problems)

    def keep(self, kind: str, item: graph.Definition, path: Path_) -> None:
        self.objects.append(item)
        self.loaded.spelled[Subject(kind, item.name)] = Spelling(item.name, self.doc.where(path))

    def about(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "description": (body.get("description") or "").strip(),
            "owner": body.get("owner") or "",
            "tags": as_texts(body.get("tags")),
        }

    def fields(self, path: Path_, value: Any, *more: str) -> tuple[graph.Field, ...]:
        """Named types; `more` is what may be said of each besides."""
        if is_mapping(value):
            value = {k: {"type": v} if isinstance(v, str) else v for k, v in value.items()}
        found: list[graph.Field] = []
        for name, at, body in self.doc.named(path, value):
            known = self.doc.mapping(at, body, {"type", "description", "tags", *more})
            type_ = self.type(at, known.get("type"))
            if type_ is not None:
                about = self.about(known)
                optional = bool(known.get("optional"))
                found.append(
                    graph.Field(name, type_, about["description"], about["tags"], optional)
                )
        return tuple(found)

    def type(self, path: Path_, text: Any) -> Type | None:
        try:
            return parse_type(str(text))
        except DefinitionError as error:
            self.doc.say((*path, "type"), error.what, error.remedy)
            return None

    def section_entities(self, name: str, path: Path_, body: Any) -> None:
        known = self.doc.mapping(path, body, _ABOUT | {"keys"})
        keys = self.fields((*path, "keys"), known.get("keys"))
        self.keep("entity", graph.Entity(name=name, keys=keys, **self.about(known)), path)

    def section_sources(self, name: str, path: Path_, body: Any) -> None:
        allowed = {"columns", "time", "history", "timezone", "unique", "seen", "delay", "stream"}
        known = self.doc.mapping(path, body, _ABOUT | allowed)
        if "time" not in known:
            self.doc.say(
                path,
                f"{name} does not say which column is its time.",
                "Write `time: ...`; or `time: null`, if its rows are facts that hold always.",
            )
        source = graph.Source(
            name=name,
            columns=self.fields((*path, "columns"), known.get("columns")),
            time=known.get("time"),
            history=self.history(name, (*path, "history"), known.get("history")),
            timezone=known.get("timezone") or "",
            unique=as_texts(known.get("unique")),
            seen=known.get("seen"),
            delay=self.duration((*path, "delay"), known.get("delay")),
            stream=self.stream((*path, "stream"), known.get("stream")),
            **self.about(known),
        )
        self.loaded.unsaid["source", name] = {"timezone", "delay"} - _said(known)
        self.keep("source", source, path)

    def history(self, name: str, path: Path_, value: Any) -> graph.History | None:
        if value is None or isinstance(value, graph.History):
            return value
        if isinstance(value, HeldFrame):
            self.loaded.frames[name] = value.frame
            return graph.Frame(name)
        kinds = {"parquet", "csv", "delta", "table", "query"}
        known = self.doc.mapping(path, value, kinds | {"connection"})
        said = [kind for kind in known if kind in kinds]
        if len(said) != 1:
            self.doc.say(path, "A history is in one place.", "`parquet: data/*.parquet`, ...")
            return None
        where, connection = known[said[0]], known.get("connection") or ""
        if said[0] == "table":
            return graph.Table(where, connection)
        if said[0] == "query":
            return graph.Query(where, connection)
        if said[0] == "csv":
            return graph.Csv(where)
        return graph.Parquet(where) if said[0] == "parquet" else graph.Delta(where)

    def stream(self, path: Path_, value: Any) -> graph.Stream | None:
        if value is None or isinstance(value, graph.Stream):
            return value
        more = {"brokers", "format", "schema", "url", "field"}
        known = self.doc.mapping(path, value, {"kafka", "redis_stream", "ndjson", *more})
        said = [kind for kind in known if kind not in more]
        if len(said) != 1:
            self.doc.say(path, "A stream is in one place.", "`kafka: purchases`, ...")
            return None
        kinds: dict[str, Callable[..., graph.Stream]] = {
            "kafka": kafka,
            "redis_stream": redis_stream,
            "ndjson": ndjson,
        }
        make = kinds[said[0]]
        rest = {key: item for key, item in known.items() if key in more}
        try:
            return make(known[said[0]], **rest)
        except DefinitionError as error:
            self.doc.say(path, error.what, error.remedy)
        except TypeError:
            self.doc.say(path, f"{', '.join(sorted(rest))} does not go with {said[0]}.")
        return None

    def duration(self, path: Path_, value: Any) -> int:
        if value is None:
            return 0
        try:
            return parse_duration(value if not isinstance(value, int) else str(value))
        except DefinitionError as error:
            self.doc.say(path, error.what, error.remedy)
            return 0

    def section_requests(self, name: str, path: Path_, body: Any) -> None:
        known = self.doc.mapping(path, body, _ABOUT | {"fields"})
        fields = self.fields((*path, "fields"), known.get("fields"), "optional")
        self.keep("request", graph.Request(name=name, fields=fields, **self.about(known)), path)

    def section_views(self, name: str, path: Path_, body: Any) -> None:
        allowed = {"entity", "source", "by", "features", "columns", "max_age", "freshness", "step"}
        known = self.doc.mapping(path, body, _ABOUT | allowed | {"bound", "version"})
        entity, source = str(known.get("entity")), str(known.get("source"))
        features: list[graph.Feature] = []
        for column in as_texts(known.get("columns")):
            at = (*path, "columns")
            features += self.features(
                name, column, at, {"function": "latest", "value": column}, source
            )
        for each, at, spec in self.doc.named((*path, "features"), known.get("features")):
            features += self.features(name, each, at, spec, source)
        version = known.get("version", 1)
        check_number("version", version)
        features = [replace(each, version=max(each.version, version)) for each in features]
        view = graph.FeatureView(
            name=name,
            entity=entity,
            source=source,
            keys=self.keys(entity, known.get("by")),
            features=tuple(features),
            bound=known.get("bound") or "at",
            max_age=self.duration((*path, "max_age"), known.get("max_age")),
            freshness=self.duration((*path, "freshness"), known.get("freshness")),
            step=self.duration((*path, "step"), known.get("step")),
            **self.about(known),
        )
        self.loaded.unsaid["view", name] = {"bound"} - _said(known)
        self.keep("view", view, path)

    def section_features(self, name: str, path: Path_, body: Any) -> None:
        self.bare(path, {"name": name, **body})

    def bare(self, path: Path_, body: Any) -> None:
        """One feature with its entity and source: a view of its own, of the same name."""
        known = self.doc.mapping(path, body, _BARE | _AGGREGATE)
        missing = sorted({"name", "entity", "source"} - known.keys())
        if missing:
            self.doc.say(path, f"This feature does not say its {missing[0]}.")
            return
        name, entity, source = (str(known[key]) for key in ("name", "entity", "source"))
        spec = {k: v for k, v in known.items() if k not in {"name", "entity", "source", "by"}}
        features = tuple(self.features(name, name, path, spec, source))
        keys = self.keys(entity, known.get("by"))
        view = graph.FeatureView(
            name=name,
            entity=entity,
            source=source,
            keys=keys,
            features=features,
            **self.about(known),
        )
        self.loaded.unsaid["view", name] = {"bound"} - _said(known)
        self.keep("view", view, path)

    def keys(self, entity: str, by: Any) -> tuple[str, ...]:
        """The columns that hold the keys; the entity may be named by its only key."""
        declared = next(
            (
                tuple(key.name for key in item.keys)
                for item in self.objects
                if isinstance(item, graph.Entity) and item.name == entity
            ),
            (entity,),
        )
        if is_mapping(by):
            return tuple(str(by.get(key, key)) for key in declared)
        return as_texts(by) or declared

    def features(
        self, view: str, name: str, path: Path_, spec: Any, source: str
    ) -> list[graph.Feature]:
        known = self.doc.mapping(path, spec, _FEATURE | _AGGREGATE)
        nested = known.pop("aggregation", None)
        if nested is not None:
            known |= self.doc.mapping((*path, "aggregation"), nested, _AGGREGATE)
        for other, meant in _SYNONYMS.items():
            if other in known:
                known[meant] = known.pop(other)
        try:
            features = self.aggregate(name, path, known, source)
        except DefinitionError as error:
            label = name if view == name else f"{view}:{name}"
            self.doc.say(path, f"{label}: {error.what}", error.remedy)
            return []
        for feature in features:
            label = f"{view}:{feature.name}"
            spelling = Spelling(label, self.doc.where(path))
            self.loaded.spelled[Subject("view", view, feature.name)] = spelling
        return features

    def aggregate(
        self, name: str, path: Path_, known: Mapping[str, Any], source: str
    ) -> list[graph.Feature]:
        function = str(known.get("function"))
        value = (
            _expression(known["value"], condition=False) if known.get("value") is not None else None
        )
        where = (
            _expression(known["where"], condition=True) if known.get("where") is not None else None
        )
        over = _over(known.get("over"))
        spans = windows(over, known.get("offset"), known.get("rows"))
        for parameter in ("n", "q", "ddof", "version"):
            check_number(parameter, known.get(parameter, 1))
        declared = self.type(path, known["type"]) if known.get("type") is not None else None
        type_ = declared or self.inferred(function, value, source)
        population = bool(known.get("population"))
        return [
            graph.Feature(
                name=name if is_single(over) else f"{name}_{each.label}",
                aggregate=Aggregate(
                    function,
                    value=value,
                    where=where,
                    window=each.window,
                    n=known.get("n", 0),
                    q=float(known.get("q", 0.5)),
                    ddof=0 if population else known.get("ddof", 1),
                    default=default_literal(spelled_out(known.get("default"), type_), type_),
                ),
                type=type_,
                attribute=name,
                version=known.get("version", 1),
                **self.about(known),
            )
            for each in spans
        ]

    def inferred(self, function: str, value: Expr | None, source: str) -> Type:
        """The type of a feature from its source's columns, or from its function alone."""
        types = next(
            (o.types for o in self.objects if isinstance(o, graph.Source) and o.name == source),
            None,
        )
        rule = RULES.get(function)
        if types is not None or value is None:
            try:
                return result_type(function, None if value is None else type_of(value, types or {}))
            except DefinitionError:
                return FLOAT64  # the check says what is wrong, beside everything else
        if rule is not None and rule.gives in {"int64", "float64", "bool"}:
            return parse_type(rule.gives)
        raise DefinitionError(
            f"The type is not known, since the source {source} is declared elsewhere.",
            remedy="Say it: `type: float64`.",
        )

    def reference(self, text: Any) -> graph.Reference:
        """`view:feature`, an on-demand feature, or `request.field`."""
        reference = read_reference(str(text))
        if "@" in str(text):
            self.loaded.pinned.add(reference)
        return reference

    def section_on_demand(self, name: str, path: Path_, body: Any) -> None:
        known = self.doc.mapping(path, body, _ABOUT | {"function", "inputs", "type", "version"})
        type_ = self.type(path, known.get("type"))
        inputs: object = known.get("inputs") or {}
        if not is_mapping(inputs):
            self.doc.say((*path, "inputs"), "Inputs are a mapping from parameters.")
        elif type_ is not None:
            given = tuple(graph.Input(str(p), self.reference(r)) for p, r in inputs.items())
            feature = graph.OnDemand(
                name=name,
                function=str(known.get("function")),
                inputs=given,
                type=type_,
                version=known.get("version", 1),
                **self.about(known),
            )
            self.keep("on_demand", feature, path)

    def section_services(self, name: str, path: Path_, body: Any) -> None:
        known = self.doc.mapping(path, body, _ABOUT | {"features"})
        listed = known.get("features") or ()
        outputs: list[graph.Output] = []
        if is_mapping(listed):
            for output, text in listed.items():
                outputs.append(graph.Output(str(output), self.reference(text)))
                at = self.doc.where((*path, "features", str(output)))
                label = f"{name}.{output}"
                self.loaded.spelled[Subject("service", name, str(output))] = Spelling(label, at)
        else:
            for text in listed:
                reference = self.reference(text)
                outputs.append(graph.Output(reference.name, reference))
        service = graph.FeatureService(name=name, outputs=tuple(outputs), **self.about(known))
        self.keep("service", service, path)


def _expression(value: Any, *, condition: bool) -> Expr:
    """An expression spelled as SQL text."""
    return parse_sql(str(value), expected=BOOL if condition else None)


def _over(value: Any) -> Any:
    """`30d`, a list of windows, or `{to_date: month, zone: America/New_York}`."""
    if is_list(value):
        return [_window(each) for each in value]
    return _window(value)


def _window(value: Any) -> Over:
    if is_mapping(value) and set(value) <= {"to_date", "zone"}:
        return to_date(str(value.get("to_date")), str(value.get("zone", "UTC")))
    return str(value) if isinstance(value, int) else cast("Over", value)


def _said(known: Mapping[str, Any]) -> set[str]:
    return {key for key, value in known.items() if value is not None}
