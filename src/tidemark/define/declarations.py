"""What every declared class is, and the three that hold columns: entities, sources, requests."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta, tzinfo
from types import EllipsisType
from typing import TYPE_CHECKING, Any, ClassVar, TypeGuard

from tidemark.define.columns import HeldFrame
from tidemark.define.expressions import Col, Key, is_column, unknown
from tidemark.define.problems import (
    Place,
    Unknown,
    UnknownAttribute,
    caller,
    collected_so_far,
    collecting,
    here,
    report,
    suggestion,
)
from tidemark.define.python_types import as_texts, read_annotation, spelled
from tidemark.errors import DefinitionError
from tidemark.model.graph import History, Stream
from tidemark.model.types import Type
from tidemark.model.window import parse_duration

_SHOWN = 8
"""How many names the text of a class lists."""


class About:
    """What a declared class says besides its body."""

    def __init__(
        self, cls: type, place: Place, *, name: str, abstract: bool, owner: str, tags: Sequence[str]
    ) -> None:
        self.place = place
        self.name = name or snake_case(cls.__name__)
        self.abstract = abstract
        self.partial = False  # whether something in the body was reported as wrong
        self.owner = owner
        self.tags = as_texts(tags)
        self.description = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
        self.places: dict[str, Place] = {}
        self.arguments: dict[str, Any] = {}

    def place_of(self, name: str) -> Place:
        """The line of an attribute, or of the class."""
        return self.places.get(name) or self.place._replace(attribute=name)


if TYPE_CHECKING:
    # A checker would take any name for an attribute, and class arguments for the metaclass's own.
    from builtins import type as _Declaring  # noqa: N812
else:

    class _Declaring(type):
        """The class of declared classes; an attribute that is not there is a mistake."""

        def __getattr__(cls, name: str) -> Any:
            if name.startswith("_"):
                raise AttributeError(name)
            what, remedy = f"{cls.__name__} has no {cls.__member__} {name!r}.", cls._instead(name)
            if collected_so_far() is not None:
                report(what, here(), remedy)
                return unknown(Col[Any])
            raise UnknownAttribute(what, where=str(here()), remedy=remedy)

        def __repr__(cls) -> str:
            if "__about__" not in vars(cls):
                return super().__repr__()
            kind = next(base for base in cls.__mro__ if "__about__" not in vars(base))
            listed = list(cls._listed())
            shown = ", ".join(listed[:_SHOWN]) + (", ..." if len(listed) > _SHOWN else "")
            return f"<{kind.__name__} {cls._title()}: {shown or 'nothing'}>"


class Declaration(metaclass=_Declaring):
    """What Entity, Source, Request, FeatureView and FeatureService share.

    A class is declared by writing it; it is never instantiated.  With `abstract=True` it only lends
    what it declares to the classes that derive from it.
    """

    __about__: ClassVar[About]
    __member__: ClassVar[str] = "attribute"

    @classmethod
    def _title(cls) -> str:
        """What its text begins with."""
        return cls.__about__.name

    @classmethod
    def _listed(cls) -> Iterable[str]:
        """The names that its text lists."""
        return ()

    @classmethod
    def _instead(cls, name: str) -> str:
        """What somebody meant who asked for an attribute that is not there."""
        return suggestion(name, [each for each in dir(cls) if not each.startswith("_")])

    def __new__(cls) -> typing.Self:
        """Refuse."""
        raise TypeError(f"{cls.__name__} is a declaration; use the class itself, without ().")


def snake_case(name: str) -> str:
    """`UserSpend` as `user_spend`, `HTTPLog` as `http_log`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return spaced.strip("_").lower()


@contextmanager
def declaring(cls: type[Declaration], about: About) -> Generator[About]:
    """Read the body of a class; unless a file is being loaded, raise its mistakes at the end."""
    cls.__about__ = about
    collected = collected_so_far()
    if collected is not None:
        before = len(collected)
        yield about
        about.partial = len(collected) > before or any(map(is_unknown, vars(cls).values()))
        return
    with collecting() as problems:
        yield about
    if problems:
        raise DefinitionError(problems)
    if not about.abstract:
        from tidemark.define.lowering import lower

        lower(cls, applied=None)


@contextmanager
def declaring_function() -> Generator[Callable[[object], None]]:
    """As `declaring`, for a function, which is handed over once it is made."""
    made: list[object] = []
    if collected_so_far() is not None:
        yield made.append
        return
    with collecting() as problems:
        yield made.append
    if problems:
        raise DefinitionError(problems)
    from tidemark.define.lowering import lower

    lower(made, applied=None)


def members(cls: type, kind: type[object]) -> Iterator[tuple[str, Any]]:
    """The annotations of a class that say `kind[...]`: the name and what is inside."""
    frame = caller()
    scopes: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    if frame:
        scopes = (frame.f_globals, frame.f_locals)
    for name, annotation in inspect.get_annotations(cls).items():
        if name.startswith("_"):
            continue
        if isinstance(annotation, str):
            try:
                annotation = eval(annotation, *scopes)  # noqa: PLW2901, S307  # as typing does
            except NameError as error:
                report(f"{cls.__name__}.{name}: {error}.", here())
                continue
        origin: object = typing.get_origin(annotation)
        if any(each is ClassVar for each in (origin, annotation)):
            continue
        if origin is not kind:
            report(
                f"{cls.__name__}.{name} is not declared as a {kind.__name__}.",
                here()._replace(attribute=name),
                f"Write `{name}: tm.{kind.__name__}[{spelled(annotation)}]`.",
            )
            continue
        yield name, typing.get_args(annotation)[0]


class Entity(Declaration):
    """What features describe: one or more typed keys.

    class User(tm.Entity):
        user_id: tm.Key[str]
    """

    __keys__: ClassVar[dict[str, Key[Any]]] = {}
    __member__ = "key"

    @classmethod
    def _listed(cls) -> Iterable[str]:
        return cls.__keys__

    def __init_subclass__(
        cls,
        *,
        name: str = "",
        abstract: bool = False,
        owner: str = "",
        tags: Sequence[str] = (),
    ) -> None:
        super().__init_subclass__()
        about = About(cls, here(), name=name, abstract=abstract, owner=owner, tags=tags)
        with declaring(cls, about):
            cls.__keys__ = dict(cls.__keys__)
            for key, inner in members(cls, Key):
                if (type_ := _type_of(cls, key, inner, None)) is not None:
                    cls.__keys__[key] = Key(cls, key, type_[0])
                    setattr(cls, key, cls.__keys__[key])


class _Columns(Declaration):
    """A class whose annotations declare columns."""

    __columns__: ClassVar[dict[str, Col[Any]]] = {}

    @classmethod
    def _listed(cls) -> Iterable[str]:
        return cls.__columns__


def _read_columns(cls: type[_Columns]) -> None:
    """Columns by their names; an attribute may have another one (`tm.column(name="Order ID")`)."""
    columns = [
        column.of(cls, column.attribute, column.type, optional=column.optional)
        for column in cls.__columns__.values()
        if column.type is not None
    ]
    for attribute, inner in members(cls, Col):
        said = vars(cls).get(attribute)
        column = said if is_column(said) else Col[Any]()
        if (found := _type_of(cls, attribute, inner, column.declared_type)) is not None:
            columns.append(column.of(cls, attribute, found[0], optional=found[1]))
        else:
            setattr(cls, attribute, unknown(Col[Any]))
    for column in columns:
        setattr(cls, column.attribute, column)
    cls.__columns__ = {column.name: column for column in columns}


def _type_of(
    cls: type[Declaration], name: str, inner: Any, declared: Type | None
) -> tuple[Type, bool] | None:
    """The type that an annotation declares and whether null is expected; None once reported."""
    label, place = f"{cls.__name__}.{name}", cls.__about__.place_of(name)
    try:
        read = read_annotation(inner, declared)
    except DefinitionError as error:
        report(f"{label}: {error.what}", place, error.remedy)
        return None
    if read.type is None:
        report(f"{label}: {spelled(inner)} does not say one type.", place)
        return None
    return read.type, read.optional


class Source(_Columns):
    """Events with a time: history that the user owns, and optionally a live stream of the same.

    `time`      the column of the event's time; None for timeless facts
    `history`   where the events are: `tm.parquet(...)`, `tm.table(...)`, ...
    `stream`    where they arrive as they happen: `tm.kafka(...)`, `tm.redis_stream(...)`, ...
    `timezone`  the zone of time columns that carry none, by its name or as a `ZoneInfo`
    `unique`    the columns that identify an event, so that one delivered twice counts once
    `seen`      the column that says when an event became known, or `delay` after its time
    """

    __member__ = "column"

    def __init_subclass__(
        cls,
        *,
        time: str | EllipsisType | None = ...,
        history: History | HeldFrame | None = None,
        stream: Stream | None = None,
        timezone: str | tzinfo | None = None,
        unique: str | Sequence[str] = (),
        seen: str | None = None,
        delay: str | timedelta | None = None,
        name: str = "",
        abstract: bool = False,
        owner: str = "",
        tags: Sequence[str] = (),
    ) -> None:
        super().__init_subclass__()
        about = About(cls, here(), name=name, abstract=abstract, owner=owner, tags=tags)
        given = {
            "history": history,
            "stream": stream,
            "timezone": str(timezone or ""),
            "unique": as_texts(unique),
            "seen": seen,
        }
        lent = inherited(cls)
        about.arguments = lent | {key: value for key, value in given.items() if value}
        with declaring(cls, about):
            _read_columns(cls)
            if time is not ...:
                about.arguments["time"] = time
            if "time" not in about.arguments and not abstract:
                report(
                    f"{cls.__name__} does not say which column is its time.",
                    about.place,
                    'Write time="..."; or time=None, if its rows are facts that hold always.',
                )
            if delay is not None:
                try:
                    about.arguments["delay"] = parse_duration(delay)
                except DefinitionError as error:
                    report(f"{cls.__name__}: {error.what}", about.place, error.remedy)


def inherited(cls: type[Declaration]) -> dict[str, Any]:
    """The class arguments that the nearest declared base lends."""
    for base in cls.__mro__[1:]:
        about = vars(base).get("__about__")
        if isinstance(about, About):
            return dict(about.arguments)
    return {}


class Request(_Columns):
    """What the caller knows only at serving time.

    class Checkout(tm.Request):
        amount: tm.Col[float]
    """

    __member__ = "field"

    def __init_subclass__(
        cls,
        *,
        name: str = "",
        abstract: bool = False,
        owner: str = "",
        tags: Sequence[str] = (),
    ) -> None:
        super().__init_subclass__()
        about = About(cls, here(), name=name, abstract=abstract, owner=owner, tags=tags)
        with declaring(cls, about):
            _read_columns(cls)


def is_declared(value: object) -> TypeGuard[type[Declaration]]:
    """Whether a value is a declared class."""
    return isinstance(value, type) and issubclass(value, Declaration)


def is_unknown(value: object) -> bool:
    """Whether a value stands for a mistake that has been reported."""
    return isinstance(value, Unknown)
