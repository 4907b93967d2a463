"""On-demand features: typed Python functions of features and request values."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, ParamSpec, TypeAlias, TypeGuard, TypeVar

from tidemark.define.declarations import Request, declaring_function, is_unknown
from tidemark.define.expressions import Col, type_if_known, unknown
from tidemark.define.features import Feature
from tidemark.define.problems import Place, caller, here, report, suggestion
from tidemark.define.python_types import (
    Annotation,
    accepts,
    as_texts,
    is_value,
    python_name,
    read_annotation,
    stored,
    without_numpy,
)
from tidemark.errors import DefinitionError, EngineError
from tidemark.model.aggregates import result_type
from tidemark.model.graph import Definitions, OnDemand, Reference
from tidemark.model.types import Type

P = ParamSpec("P")
R = TypeVar("R")

_DESCRIBING = frozenset({"owner", "tags", "version"})
"""Arguments of `on_demand` that are no inputs."""

OnDemandInput: TypeAlias = "Col[Any] | Feature[Any] | OnDemandFunction[..., Any] | str"


class OnDemandFunction(Generic[P, R]):
    """A function that is an on-demand feature; called with plain arguments, it is the function."""

    def __init__(
        self,
        function: Callable[P, R],
        inputs: Mapping[str, OnDemandInput],
        gives: Annotation,
        place: Place,
        *,
        owner: str,
        tags: tuple[str, ...],
        version: int,
    ) -> None:
        self.function = function
        self.inputs = dict(inputs)
        self.type = gives.type
        self.optional = gives.optional
        self.place = place
        self.owner = owner
        self.tags = tags
        self.version = version
        self.name = function.__name__
        self.path = f"{function.__module__}:{function.__qualname__}"
        self.description = inspect.getdoc(function) or ""
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function itself."""
        return self.function(*args, **kwargs)

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<on-demand feature {self.name}({', '.join(self.inputs)}): {self.type}>"


def on_demand(
    *, owner: str = "", tags: Sequence[str] = (), version: int = 1, **inputs: OnDemandInput
) -> Callable[[Callable[P, R]], OnDemandFunction[P, R]]:
    """Make a function an on-demand feature; each of its parameters is said where it comes from.

    Names, types and nulls of the inputs are compared with the function's parameters at once: a mean
    over a window is `float | None`, a count is `int`.  Parameters cannot be named `owner`, `tags`
    or `version`, which describe the feature.
    """
    place = here()

    def decorate(function: Callable[P, R]) -> OnDemandFunction[P, R]:
        if any(is_unknown(each) for each in inputs.values()):
            return unknown(OnDemandFunction[P, R])
        with declaring_function() as finish:
            _check_kind(function, place)
            parameters, gives = _signature(function, place)
            _compare_names(function, set(parameters), inputs, place)
            for name, given in inputs.items():
                if name in parameters:
                    _compare(function, name, parameters[name], given, place)
            said: dict[str, Any] = {"owner": owner, "tags": tags, "version": version}
            if _DESCRIBING & parameters.keys():
                said = {"owner": "", "tags": (), "version": 1}
            said["tags"] = as_texts(said["tags"])
            made = OnDemandFunction(function, inputs, gives, place, **said)
            finish(made)
        return made

    return decorate


def _check_kind(function: Callable[..., Any], place: Place) -> None:
    """Report a function that gives no value when it is called with its inputs by name."""
    name = function.__name__
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        report(f"{name} is asynchronous.", place, "Write `def`: a value is computed, not awaited.")
    elif inspect.isgeneratorfunction(function):
        report(f"{name} yields values.", place, "Return one value.")
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.POSITIONAL_ONLY:
            said = f"{name} takes its parameter {parameter.name!r} by position only."
            report(said, place, "Leave out the `/`: inputs are given by their names.")


def _signature(
    function: Callable[..., Any], place: Place
) -> tuple[dict[str, Annotation | None], Annotation]:
    """What the annotations of a function say; None where one is missing or was reported."""
    frame = caller()
    scope = frame.f_locals if frame else {}
    try:
        hints = inspect.get_annotations(function, eval_str=True, locals=scope)
    except NameError as error:
        report(f"{function.__name__}: {error}.", place)
        hints = {}
    read: dict[str, Annotation | None] = {}
    for name in [*inspect.signature(function).parameters, "return"]:
        read[name] = None
        if name not in hints:
            said = "what it returns" if name == "return" else f"its parameter {name!r}"
            report(
                f"{function.__name__} does not annotate {said}.",
                place,
                "For example `def ratio(amount: float, mean: float | None) -> float:`.",
            )
            continue
        try:
            read[name] = read_annotation(hints[name], takes=name != "return")
        except DefinitionError as error:
            report(f"{function.__name__}, {name}: {error.what}", place, error.remedy)
    gives = read.pop("return")
    if gives is not None and gives.type is None:
        report(
            f"{function.__name__} returns anything.",
            place,
            "Annotate one type, such as `-> float`.",
        )
    return read, gives or Annotation(None, optional=True)


def _compare_names(
    function: Callable[..., Any], parameters: set[str], inputs: Mapping[str, object], place: Place
) -> None:
    name = function.__name__
    for taken in sorted(_DESCRIBING & parameters):
        report(
            f"{name} has a parameter {taken!r}, which in on_demand(...) describes the feature.",
            place,
            "Give the parameter another name: owner, tags and version are not inputs.",
        )
    for missing in sorted(parameters - inputs.keys() - _DESCRIBING):
        report(
            f"{name} has a parameter {missing!r}, but on_demand(...) does not give it.",
            place,
            f"Add {missing}=... to on_demand; it gives {', '.join(inputs) or 'nothing'}.",
        )
    for extra in sorted(inputs.keys() - parameters):
        report(
            f"on_demand(...) gives {extra!r}, which is no parameter of {name}.",
            place,
            suggestion(extra, sorted(parameters)),
        )


def _compare(
    function: Callable[..., Any],
    name: str,
    parameter: Annotation | None,
    given: OnDemandInput,
    place: Place,
) -> None:
    """Report a parameter that does not take every value of its input."""
    if isinstance(given, Col) and not (given.owner and issubclass(given.owner, Request)):
        report(
            f"{function.__name__}: {name} comes from {given!r}, a column of a source.",
            place,
            "On-demand functions read features, request fields and other on-demand functions.",
        )
        return
    if parameter is None or isinstance(given, str):
        return
    type_ = _type_of(given)
    if type_ is None:
        return
    spelled = python_name(type_) + (" | None" if given.optional else "")
    label = f"{function.__name__}: {name} is annotated {parameter}"
    if not accepts(parameter, type_):
        report(f"{label}, but {_spoken(given)} is {type_}.", place, f"Write `{name}: {spelled}`.")
    elif given.optional and not parameter.optional:
        remedy = f"Write `{name}: {spelled}` and handle None"
        if isinstance(given, Feature):
            remedy += ", or give the feature a default="
        report(f"{label}, but {_spoken(given)} can be null.", place, f"{remedy}.")


def _spoken(given: OnDemandInput) -> str:
    if isinstance(given, Col):
        return f"{given.owner.__name__}.{given.name}" if given.owner else given.name
    return str(given)


def _type_of(given: Col[Any] | Feature[Any] | OnDemandFunction[..., Any]) -> Type | None:
    if not isinstance(given, Feature):
        return given.type
    value = type_if_known(given.value) if given.value is not None else None
    try:
        return (
            None
            if given.value is not None and value is None
            else result_type(given.function, value)
        )
    except DefinitionError:
        return None  # the feature's own mistake is reported where it is declared


def evaluate(
    definitions: Definitions,
    functions: Mapping[str, Callable[..., Any]],
    names: Iterable[str],
    columns: Mapping[Reference, Sequence[Any]],
    n: int,
) -> dict[Reference, list[Any]]:
    """The values of on-demand features over n rows, and of those that they read.

    `functions` are by reference (`ratio@1`); of a name without a version, the newest is meant.
    `columns` holds the Python values of every feature and request field that they read.  Raises
    `EngineError` naming the row and its values when a function fails or returns another type.
    """
    done: dict[Reference, list[Any]] = {}

    def values(reference: Reference) -> Sequence[Any]:
        if reference in columns:
            return columns[reference]
        if reference not in done:
            feature = definitions.on_demand_feature(reference.name, reference.version)
            inputs = {each.parameter: values(each.reference) for each in feature.inputs}
            done[reference] = _rows(feature, functions[feature.reference], inputs, n)
        return done[reference]

    for name in names:
        bare, _, version = name.partition("@")
        feature = definitions.on_demand_feature(bare, int(version or 0))
        values(Reference("on_demand", bare, version=feature.version))
    return done


def _rows(
    feature: OnDemand,
    function: Callable[..., Any],
    inputs: Mapping[str, Sequence[Any]],
    n: int,
) -> list[Any]:
    parameters = tuple(inputs)
    rows = zip(*inputs.values(), strict=True) if inputs else iter([()] * n)
    results: list[Any] = []
    for row in rows:
        given = dict(zip(parameters, row, strict=True))
        try:
            value = function(**given)
        except Exception as error:
            raise EngineError(
                f"{feature.name} raised {type(error).__name__}: {error}",
                where=_row(len(results), given),
                remedy=f"The function is {feature.function}.",
            ) from error
        if value is None:
            results.append(None)
        elif is_value(value, feature.type):
            results.append(stored(value, feature.type))
        elif is_value(plain := without_numpy(value), feature.type):
            results.append(stored(plain, feature.type))
        else:
            raise EngineError(
                f"{feature.name} returned {value!r}, which is not {feature.type}.",
                where=_row(len(results), given),
                remedy=f"The function {feature.function} declares {python_name(feature.type)}.",
            )
    return results


def _row(position: int, given: Mapping[str, object]) -> str:
    values = ", ".join(f"{name}={value!r}" for name, value in given.items())
    return f"row {position}: {values}"


def is_function(value: object) -> TypeGuard[OnDemandFunction[..., Any]]:
    """Whether a value is an on-demand function of whatever parameters."""
    return isinstance(value, OnDemandFunction)
