"""A feature as users hold it: one aggregate under the name of an attribute, with its windows."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeGuard, TypeVar

from tidemark.define.expressions import Expression, is_expression, unknown
from tidemark.define.problems import Unknown, here, report, suggestion
from tidemark.define.python_types import as_texts
from tidemark.define.windows import LabelledWindow, Over, is_single, windows
from tidemark.errors import DefinitionError
from tidemark.model.aggregates import RULES
from tidemark.model.window import Window

if TYPE_CHECKING:
    from tidemark.define.declarations import About

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Options(TypedDict, Generic[T], total=False):
    """What every aggregate takes besides its value.

    `where`    keeps the rows for which it is true
    `over`     "30d", a timedelta, `tm.to_date(...)`, None for all time; several fan out
    `offset`   moves the window back
    `rows`     keeps only the newest rows of the window
    `default`  replaces the null of an aggregate that found nothing
    `version`  grows by one when the meaning changes
    """

    where: Expression[bool | None] | Expression[bool] | None
    over: Over | Iterable[Over]
    offset: str | timedelta | None
    rows: int
    default: T | None
    version: int
    description: str
    owner: str
    tags: Sequence[str]


class Feature(Generic[T_co]):
    """An aggregate; assigned in a feature view, it is a feature, or one for each of its windows.

    `UserSpend.spend["7d"]` is the feature of one window; with a single window `UserSpend.typical`
    is the feature itself.
    """

    def __init__(
        self,
        function: str,
        value: Expression[Any] | None,
        options: Options[Any],
        **parameters: float,
    ) -> None:
        self.place = here()
        self.function = function
        self.value = value
        self.parameters = parameters
        self.where = options.get("where")
        self.default = options.get("default")
        self.version = options.get("version", 1)
        self.description = options.get("description", "")
        self.owner = options.get("owner", "")
        self.tags = as_texts(options.get("tags"))
        over = options.get("over")
        self.single = is_single(over)
        self.windows: tuple[LabelledWindow, ...] = windows(
            over, options.get("offset"), options.get("rows")
        )
        self.view: type | None = None
        self.attribute = ""

    def of(self, view: type, attribute: str) -> Feature[T_co]:
        """This feature as an attribute of a view."""
        bound = copy.copy(self)
        bound.view = view
        bound.attribute = attribute
        return bound

    def named_windows(self) -> dict[str, Window]:
        """The window of each feature name that this attribute declares."""
        if self.single:
            return {self.attribute: self.windows[0].window}
        return {f"{self.attribute}_{each.label}": each.window for each in self.windows}

    @property
    def name(self) -> str:
        """The feature's own name; raises `DefinitionError` while several windows are open."""
        names = list(self.named_windows())
        if len(names) > 1:
            raise DefinitionError(
                f"{self} has several windows.",
                where=str(here()),
                remedy=f"Choose one: {', '.join(self._choices())}.",
            )
        return names[0]

    @property
    def optional(self) -> bool:
        """Whether the value can be null."""
        defaulted = self.default is not None and self.function != "latest"
        return not (RULES[self.function].zero or defaulted)

    def __getitem__(self, window: Over) -> Feature[T_co]:
        """The feature with one of its windows, as in `over=` or as in its name: "7d", "all"."""
        for each in self.windows:
            if window == each.label:
                return self.only(each)
        try:
            wanted = windows(window, None, None)[0].window
        except DefinitionError as error:
            report(error.what, here(), error.remedy)
            return unknown(Feature[T_co])
        for each in self.windows:
            if _same_span(each.window, wanted):
                return self.only(each)
        declared = ", ".join(each.label for each in self.windows)
        report(
            f"{self} has no window {window!r}.",
            here(),
            f"Its windows: {declared}. Declare another one in `over=`.",
        )
        return unknown(Feature[T_co])

    def only(self, window: LabelledWindow) -> Feature[T_co]:
        """This feature with one of its windows."""
        chosen = copy.copy(self)
        chosen.windows = (window,)
        return chosen

    def __str__(self) -> str:
        return f"{self.view.__name__}.{self.attribute}" if self.view else self.function

    def __repr__(self) -> str:
        if self.view is None:
            return f"<{self}>"
        view: About = vars(self.view)["__about__"]
        return ", ".join(f"{view.name}:{name}@{self.version}" for name in self.named_windows())

    def choice(self, name: str) -> str:
        """How the feature of that name is written: that of one window."""
        return dict(zip(self.named_windows(), self._choices(), strict=True))[name]

    def _choices(self) -> list[str]:
        return [f'{self}["{each.label}"]' for each in self.windows]


def _same_span(declared: Window, wanted: Window) -> bool:
    spans = [(each.kind, each.length, each.unit, each.zone) for each in (declared, wanted)]
    return spans[0] == spans[1]


def feature(
    function: str, value: object, options: Options[Any], **parameters: float
) -> Feature[Any]:
    """A feature of what an aggregate was called with, or `Unknown` once a mistake is reported."""
    if any(isinstance(each, Unknown) for each in (value, *options.values())):
        return unknown(Feature[Any])
    if unexpected := options.keys() - Options.__annotations__.keys():
        name = min(unexpected)
        report(f"{function} takes no {name!r}.", here(), suggestion(name, Options.__annotations__))
        return unknown(Feature[Any])
    if value is not None and not is_expression(value):
        report(
            f"{function} takes a column, not {value!r}.",
            here(),
            f"For example tm.{function}(Purchase.amount).",
        )
        return unknown(Feature[Any])
    try:
        for parameter, number in (*parameters.items(), ("version", options.get("version", 1))):
            check_number(parameter, number)
        if "q" in parameters:
            parameters["q"] = float(parameters["q"])  # 1 and 1.0 are one definition
        return Feature(function, value, options, **parameters)
    except DefinitionError as error:
        report(error.what, here(), error.remedy)
        return unknown(Feature[Any])


def check_number(parameter: str, value: object) -> None:
    """Refuse what is no number, for `q`, or no whole number, for any other parameter."""
    fits = isinstance(value, int | float) if parameter == "q" else isinstance(value, int)
    if not fits or isinstance(value, bool):
        wanted = "a number" if parameter == "q" else "a whole number"
        raise DefinitionError(f"{parameter}={value!r} is not {wanted}.")


def is_feature(value: object) -> TypeGuard[Feature[Any]]:
    """Whether a value is a feature of whatever type."""
    return isinstance(value, Feature)
