"""Feature views and feature services."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar, TypeAlias, cast

from tidemark.define.declarations import (
    About,
    Declaration,
    Entity,
    Source,
    declaring,
    inherited,
    is_declared,
    is_unknown,
)
from tidemark.define.expressions import Col, is_column
from tidemark.define.features import Feature, check_number, is_feature
from tidemark.define.on_demand import OnDemandFunction
from tidemark.define.problems import here, report
from tidemark.errors import DefinitionError
from tidemark.model.window import Bound, parse_duration

By: TypeAlias = Col[Any] | str | Sequence[Col[Any] | str] | Mapping[str, Col[Any] | str]


class FeatureView(Declaration):
    """Features of one entity over one source.

    `by`         the source's columns that hold the entity's keys, where they are named otherwise
    `columns`    columns, or their names, whose `latest` value is a feature;
                 `segment: tm.Feature[str]` in the body says so to a type checker
    `max_age`    stored values older than this are null
    `freshness`  how old the newest event may be; a promise that is checked and reported
    `step`       windows end where they would at the last multiple of this since 1970 UTC
    `bound`      "before" leaves out events at the very moment asked for
    `version`    the least version of its features; grows when the meaning of all of them changes
    """

    __features__: ClassVar[dict[str, Feature[Any]]] = {}
    __member__ = "feature"

    @classmethod
    def _title(cls) -> str:
        entity = cls.__about__.arguments.get("entity")
        of = f" of {entity.__about__.name}" if is_declared(entity) else ""
        return cls.__about__.name + of

    @classmethod
    def _listed(cls) -> Iterable[str]:
        return [name for each in cls.__features__.values() for name in each.named_windows()]

    @classmethod
    def _instead(cls, name: str) -> str:
        for feature in cls.__features__.values():
            if name in feature.named_windows():
                return f"Write {feature.choice(name)}."
        return super()._instead(name)

    def __init_subclass__(
        cls,
        *,
        entity: type[Entity] | None = None,
        source: type[Source] | None = None,
        by: By | None = None,
        columns: Col[Any] | str | Iterable[Col[Any] | str] = (),
        max_age: str | timedelta | None = None,
        freshness: str | timedelta | None = None,
        step: str | timedelta | None = None,
        bound: Bound | None = None,
        version: int = 1,
        name: str = "",
        abstract: bool = False,
        owner: str = "",
        tags: Sequence[str] = (),
    ) -> None:
        super().__init_subclass__()
        about = About(cls, here(), name=name, abstract=abstract, owner=owner, tags=tags)
        given = {"entity": entity, "source": source, "by": by, "bound": bound}
        about.arguments = inherited(cls) | {k: v for k, v in given.items() if v is not None}
        with declaring(cls, about):
            durations = {"max_age": max_age, "freshness": freshness, "step": step}
            for argument, duration in durations.items():
                if duration is not None:
                    try:
                        about.arguments[argument] = parse_duration(duration)
                    except DefinitionError as error:
                        what = f"{cls.__name__}: {argument}={error.what}"
                        report(what, about.place, error.remedy)
            try:
                check_number("version", version)
            except DefinitionError as error:
                report(f"{cls.__name__}: {error.what}", about.place, error.remedy)
                version = 1
            alone = is_unknown(columns) or isinstance(columns, Col | str)
            these = cast("object", columns)
            _read_features(cls, [these] if alone else cast("Iterable[object]", these), version)


def _read_features(cls: type[FeatureView], columns: Iterable[object], version: int) -> None:
    features = dict(cls.__features__)
    source = cls.__about__.arguments.get("source")
    named = source.__columns__ if is_declared(source) and issubclass(source, Source) else {}
    for given in columns:
        column = named.get(given, given) if isinstance(given, str) else given
        if is_unknown(column):
            continue
        if not is_column(column) or column.owner is None:
            report(
                f"{cls.__name__}: columns holds {column!r}, which is not a column of a source.",
                cls.__about__.place,
                "For example columns=(Profiles.segment, Profiles.plan).",
            )
            continue
        latest: Feature[Any] = Feature("latest", column, {})
        latest.place = cls.__about__.place
        features[column.attribute] = latest
    features |= {name: value for name, value in vars(cls).items() if isinstance(value, Feature)}
    for name in inspect.get_annotations(cls):
        if not name.startswith("_") and name not in features and name not in vars(cls):
            report(
                f"{cls.__name__}.{name} is announced, but nothing is assigned to it.",
                cls.__about__.place_of(name),
                f"Write `{name} = tm.last(...)`, or list the column in `columns=`.",
            )
    cls.__features__ = {name: feature.of(cls, name) for name, feature in features.items()}
    for name, feature in cls.__features__.items():
        feature.version = max(feature.version, version)
        setattr(cls, name, feature)


Served: TypeAlias = "Feature[Any] | OnDemandFunction[..., Any] | Col[Any] | str"


class FeatureService(Declaration):
    """The ordered list of features that a model reads; the left-hand names are what it sees.

    `features=[...]` is the short form: the features under their own names.
    """

    __outputs__: ClassVar[dict[str, Any]] = {}
    __member__ = "feature"

    @classmethod
    def _listed(cls) -> Iterable[str]:
        short = expanded(cls.__about__.arguments.get("features", ()))
        return [*cls.__outputs__, *(str(getattr(each, "name", each)) for each in short)]

    def __init_subclass__(
        cls,
        *,
        features: Iterable[Served | type[FeatureView]] = (),
        name: str = "",
        abstract: bool = False,
        owner: str = "",
        tags: Sequence[str] = (),
    ) -> None:
        super().__init_subclass__()
        about = About(cls, here(), name=name, abstract=abstract, owner=owner, tags=tags)
        with declaring(cls, about):
            outputs = dict(cls.__outputs__)
            for name_, value in vars(cls).items():
                if name_.startswith("_"):
                    continue
                if isinstance(value, Feature | OnDemandFunction | Col | str) or is_unknown(value):
                    outputs[name_] = value
                    continue
                report(
                    f"{cls.__name__}.{name_} is {value!r}, which is not a feature.",
                    about.place_of(name_),
                    'A service lists features (UserSpend.spend["7d"]) and on-demand functions.',
                )
            cls.__outputs__ = outputs
            about.arguments["features"] = () if is_unknown(features) else tuple(features)


def expanded(features: Iterable[object]) -> list[object]:
    """A list of features, in which a view or several windows stand for each of their features."""
    found: list[object] = []
    for each in features:
        if is_declared(each) and issubclass(each, FeatureView):
            found.extend(expanded(each.__features__.values()))
        elif is_feature(each) and each.view is not None:
            found.extend(each.only(window) for window in each.windows)
        else:
            found.append(each)
    return found
