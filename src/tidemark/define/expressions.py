"""Expressions as users write them: `Purchase.amount * 2 > 10`, which become nodes of the model."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, tzinfo
from decimal import Decimal
from typing import Any, Generic, NoReturn, TypeAlias, TypeGuard, TypeVar, cast, overload

from tidemark.define.problems import NOWHERE, Place, Unknown, here, report
from tidemark.define.python_types import as_texts, as_type, literal
from tidemark.errors import DefinitionError
from tidemark.model.expr import Call, Cast, Column, Expr, columns_of, type_of
from tidemark.model.types import STRING, Type

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Number = TypeVar("Number", int, float, Decimal)
Added = TypeVar("Added", int, float, Decimal, str)
Ordered = TypeVar("Ordered", float, str, bytes, date, Decimal)
Either: TypeAlias = "T | Expression[T | None]"


class Expression(Generic[T_co]):
    """A value computed from the columns of one source, row by row.

    Null in, null out, as in SQL.  Conditions are combined with `&`, `|` and `~`, each side in
    parentheses.  An expression is neither true nor false by itself, and is no dictionary key.
    """

    __slots__ = ("node", "owners", "place")

    def __init__(
        self, node: Expr, *, owners: frozenset[type] = frozenset(), place: Place = NOWHERE
    ) -> None:
        self.node = node
        self.owners = owners
        self.place = place

    def __repr__(self) -> str:
        return f"<expression of {', '.join(sorted(columns_of(self.node))) or 'constants'}>"

    def __bool__(self) -> NoReturn:
        raise DefinitionError(
            "An expression over columns is not true or false until a row is looked at.",
            where=str(here()),
            remedy="Write & for and, | for or, ~ for not, with parentheses around each side; "
            ".is_in([...]) for in; .is_null() for `is None`.",
        )

    def __iter__(self) -> NoReturn:
        raise TypeError("An expression over columns is one value for each row; it has no items.")

    __hash__ = None  # type: ignore[assignment]  # an unhashable object is what this says

    def __eq__(self: Expression[T], other: T | Expression[T]) -> Expression[bool]:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        return call("eq", self, _not_none(other))

    def __ne__(self: Expression[T], other: T | Expression[T]) -> Expression[bool]:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        return call("ne", self, _not_none(other))

    def __lt__(self: Expression[Ordered | None], other: Either[Ordered]) -> Expression[bool]:
        return call("lt", self, other)

    def __le__(self: Expression[Ordered | None], other: Either[Ordered]) -> Expression[bool]:
        return call("le", self, other)

    def __gt__(self: Expression[Ordered | None], other: Either[Ordered]) -> Expression[bool]:
        return call("gt", self, other)

    def __ge__(self: Expression[Ordered | None], other: Either[Ordered]) -> Expression[bool]:
        return call("ge", self, other)

    def __and__(self: Expression[bool | None], other: Either[bool]) -> Expression[bool]:
        return call("and", self, other)

    def __rand__(self: Expression[bool | None], other: bool) -> Expression[bool]:
        return call("and", other, self)

    def __or__(self: Expression[bool | None], other: Either[bool]) -> Expression[bool]:
        return call("or", self, other)

    def __ror__(self: Expression[bool | None], other: bool) -> Expression[bool]:
        return call("or", other, self)

    def __invert__(self: Expression[bool | None]) -> Expression[bool]:
        return call("not", self)

    def __add__(self: Expression[Added | None], other: Either[Added]) -> Expression[Added]:
        return call("concat" if _is_text(self) or _is_text(other) else "add", self, other)

    def __radd__(self: Expression[Added | None], other: Added) -> Expression[Added]:
        return call("concat" if _is_text(other) else "add", other, self)

    def __sub__(self: Expression[Number | None], other: Either[Number]) -> Expression[Number]:
        return call("sub", self, other)

    def __rsub__(self: Expression[Number | None], other: Number) -> Expression[Number]:
        return call("sub", other, self)

    def __mul__(self: Expression[Number | None], other: Either[Number]) -> Expression[Number]:
        return call("mul", self, other)

    def __rmul__(self: Expression[Number | None], other: Number) -> Expression[Number]:
        return call("mul", other, self)

    def __truediv__(self: Expression[Number | None], other: Either[Number]) -> Expression[float]:
        return call("div", self, other)

    def __rtruediv__(self: Expression[Number | None], other: Number) -> Expression[float]:
        return call("div", other, self)

    def __floordiv__(self: Expression[int | None], other: Either[int]) -> Expression[int]:
        return call("floordiv", self, other)

    def __mod__(self: Expression[int | None], other: Either[int]) -> Expression[int]:
        return call("mod", self, other)

    def __neg__(self: Expression[Number | None]) -> Expression[Number]:
        return call("neg", self)

    def __abs__(self: Expression[Number | None]) -> Expression[Number]:
        return call("abs", self)

    def is_null(self) -> Expression[bool]:
        """Whether there is no value; never null itself."""
        return call("is_null", self)

    def is_not_null(self) -> Expression[bool]:
        """Whether there is a value; never null itself."""
        return call("is_not_null", self)

    def is_nan(self: Expression[float | None]) -> Expression[bool]:
        """Whether the value is the float NaN."""
        return call("is_nan", self)

    def is_in(self: Expression[T], values: Sequence[T]) -> Expression[bool]:
        """Whether the value is one of these constants."""
        if isinstance(values, str | bytes):
            report(f"{values!r} is one constant.", here(), f"Write .is_in([{values!r}]).")
            return unknown(Expression[bool])
        return call("is_in", self, *values)

    def fill_null(self: Expression[T | None], value: T | Expression[T]) -> Expression[T]:
        """The value, or this one where there is none."""
        return call("coalesce", self, value)

    @overload
    def cast(self, type: type[T]) -> Expression[T]: ...
    @overload
    def cast(self, type: Col[T]) -> Expression[T]: ...
    @overload
    def cast(self, type: str) -> Expression[Any]: ...
    def cast(self, type: Any) -> Expression[Any]:
        """The value as another type; text that does not read as the type is an error, not null."""
        place = here()
        try:
            return Expression(Cast(self.node, as_type(type)), owners=self.owners, place=place)
        except DefinitionError as error:
            report(error.what, place, error.remedy)
            return unknown(Expression[Any])

    def round(self: Expression[float | Decimal | None]) -> Expression[float]:
        """The nearest whole number, as a float."""
        return call("round", self)

    def floor(self: Expression[float | Decimal | None]) -> Expression[float]:
        """The largest whole number that is not larger, as a float."""
        return call("floor", self)

    def ceil(self: Expression[float | Decimal | None]) -> Expression[float]:
        """The smallest whole number that is not smaller, as a float."""
        return call("ceil", self)

    def sqrt(self: Expression[float | Decimal | None]) -> Expression[float]:
        """The square root."""
        return call("sqrt", self)

    def ln(self: Expression[float | Decimal | None]) -> Expression[float]:
        """The natural logarithm."""
        return call("ln", self)

    def exp(self: Expression[float | Decimal | None]) -> Expression[float]:
        """E to the power of the value."""
        return call("exp", self)

    def lower(self: Expression[str | None]) -> Expression[str]:
        """The text in lower case."""
        return call("lower", self)

    def upper(self: Expression[str | None]) -> Expression[str]:
        """The text in upper case."""
        return call("upper", self)

    def trim(self: Expression[str | None]) -> Expression[str]:
        """The text without spaces at both ends."""
        return call("trim", self)

    def length(self: Expression[str | None]) -> Expression[int]:
        """The number of characters."""
        return call("length", self)

    def contains(self: Expression[str | None], part: Either[str]) -> Expression[bool]:
        """Whether the text holds this part."""
        return call("contains", self, part)

    def starts_with(self: Expression[str | None], part: Either[str]) -> Expression[bool]:
        """Whether the text begins with this part."""
        return call("starts_with", self, part)

    def ends_with(self: Expression[str | None], part: Either[str]) -> Expression[bool]:
        """Whether the text ends with this part."""
        return call("ends_with", self, part)

    def replace(self: Expression[str | None], old: str, new: str) -> Expression[str]:
        """The text with every `old` replaced by `new`."""
        return call("replace", self, old, new)

    def substring(self: Expression[str | None], start: int, length: int) -> Expression[str]:
        """`length` characters from the place `start`, counted from 1."""
        return call("substring", self, start, length)

    def year(self: Expression[date | None], zone: str | tzinfo = "") -> Expression[int]:
        """The year of a date, or of a timestamp in the zone (UTC)."""
        return call("year", self, *_zone(zone))

    def month(self: Expression[date | None], zone: str | tzinfo = "") -> Expression[int]:
        """The month, 1 to 12, of a date, or of a timestamp in the zone (UTC)."""
        return call("month", self, *_zone(zone))

    def day(self: Expression[date | None], zone: str | tzinfo = "") -> Expression[int]:
        """The day of the month of a date, or of a timestamp in the zone (UTC)."""
        return call("day", self, *_zone(zone))

    def hour(self: Expression[datetime | None], zone: str | tzinfo = "") -> Expression[int]:
        """The hour, 0 to 23, of a timestamp in the zone (UTC)."""
        return call("hour", self, *_zone(zone))

    def minute(self: Expression[datetime | None], zone: str | tzinfo = "") -> Expression[int]:
        """The minute of a timestamp in the zone (UTC)."""
        return call("minute", self, *_zone(zone))

    def weekday(self: Expression[date | None], zone: str | tzinfo = "") -> Expression[int]:
        """The day of the week, Monday is 1, of a date, or of a timestamp in the zone (UTC)."""
        return call("weekday", self, *_zone(zone))

    def day_of_year(self: Expression[date | None], zone: str | tzinfo = "") -> Expression[int]:
        """The day of the year, 1 to 366, of a date, or of a timestamp in the zone (UTC)."""
        return call("day_of_year", self, *_zone(zone))

    def seconds_since(
        self: Expression[datetime | None], earlier: Expression[datetime | None]
    ) -> Expression[float]:
        """The seconds from an earlier timestamp to this one; negative if it is later."""
        return call("seconds_between", earlier, self)


class Col(Expression[T_co]):
    """A column of a source, or a field of a request; written as an annotation, `tm.Col[float]`."""

    __slots__ = (
        *("attribute", "declared_type", "description", "name", "optional", "owner", "tags"),
        "type",
    )

    # `Annotated[Decimal, tm.decimal(18, 2)] | None`: typing keeps annotations in sets.
    __hash__ = object.__hash__  # type: ignore[assignment]

    def __init__(
        self,
        declared_type: Type | None = None,
        *,
        name: str = "",
        description: str = "",
        tags: Sequence[str] = (),
    ) -> None:
        super().__init__(Column(name), place=here())
        self.declared_type = declared_type
        self.description = description
        self.tags = as_texts(tags)
        self.name = name
        self.attribute = ""
        self.type: Type | None = declared_type
        self.optional = False
        self.owner: type | None = None

    def of(self, owner: type, attribute: str, type: Type, *, optional: bool) -> Col[T_co]:
        """This column as an attribute of a class, whose name it has unless it has its own."""
        bound: Col[T_co] = Col(
            self.declared_type,
            name=self.name or attribute,
            description=self.description,
            tags=self.tags,
        )
        bound.owners = frozenset({owner})
        bound.attribute, bound.owner = attribute, owner
        bound.type, bound.optional = type, optional
        return bound

    def __repr__(self) -> str:
        owner = self.owner.__name__ if self.owner else "?"
        return f"<column {owner}.{self.attribute}: {self.type}>"


class Key(Generic[T_co]):
    """A key of an entity; written as an annotation, `user_id: tm.Key[str]`."""

    __slots__ = ("name", "owner", "type")

    def __init__(self, owner: type, name: str, type: Type) -> None:
        self.owner = owner
        self.name = name
        self.type = type

    def __repr__(self) -> str:
        return f"<key {self.owner.__name__}.{self.name}: {self.type}>"


def call(function: str, *args: object) -> Expression[Any]:
    """A function of expressions and constants; a chain of one associative function is one call."""
    place = here()
    nodes: list[Expr] = []
    owners: frozenset[type] = frozenset()
    for arg in args:
        if isinstance(arg, Unknown):
            return unknown(Expression[Any])
        if is_expression(arg):
            nodes.append(arg.node)
            owners |= arg.owners
            continue
        try:
            nodes.append(literal(arg))
        except DefinitionError as error:
            report(error.what, place, error.remedy)
            return unknown(Expression[Any])
    return Expression(flat_call(function, nodes), owners=owners, place=place)


def flat_call(function: str, args: Sequence[Expr]) -> Call:
    """A call; `a & b & c` is one `and` of three, however it was spelled."""
    first = args[0] if args else None
    if (
        function in {"and", "or", "concat"}
        and isinstance(first, Call)
        and first.function == function
    ):
        return Call(function, (*first.args, *args[1:]))
    return Call(function, tuple(args))


def unknown(_kind: type[T]) -> T:
    """What stands for something of that kind that was reported as wrong."""
    return cast("T", Unknown())


def is_expression(value: object) -> TypeGuard[Expression[Any]]:
    """Whether a value is an expression of whatever type."""
    return isinstance(value, Expression)


def is_column(value: object) -> TypeGuard[Col[Any]]:
    """Whether a value is a column of whatever type."""
    return isinstance(value, Col)


def _zone(zone: str | tzinfo) -> tuple[str, ...]:
    return (str(zone),) if zone else ()


def type_if_known(expression: Expression[Any]) -> Type | None:
    """The type of an expression over declared columns; None where it has none yet."""
    types: dict[str, Type] = {}
    for owner in expression.owners:
        for name in columns_of(expression.node):
            column: object = vars(owner)["__columns__"].get(name)
            if is_column(column) and column.type is not None:
                types[name] = column.type
    try:
        return type_of(expression.node, types)
    except DefinitionError:
        return None


def _is_text(value: object) -> bool:
    """Whether a value is known to be text: `+` joins text and adds numbers."""
    return type_if_known(value) == STRING if is_expression(value) else isinstance(value, str)


def _not_none(value: T) -> T:
    if value is None:
        report("Nothing equals null.", here(), "Write .is_null() or .is_not_null().")
    return value
