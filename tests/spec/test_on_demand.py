"""On-demand functions: the same Python values and nulls, in training and in serving."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

import tidemark as tm
from tidemark import define
from tidemark.errors import DefinitionError, EngineError
from tidemark.model.graph import Reference


class Checkout(tm.Request):
    amount: tm.Col[float]


@tm.on_demand(amount=Checkout.amount)
def doubled(amount: float) -> float:
    return amount * 2


@tm.on_demand(double=doubled, amount=Checkout.amount)
def total(double: float, amount: float) -> float:
    return double + amount


AMOUNT = Reference("request", "amount", "checkout")


def evaluate(name: str, amounts: list[Any]) -> dict[str, list[Any]]:
    lowered = define.lower(doubled, total)
    columns = {AMOUNT: amounts}
    done = define.evaluate(lowered.definitions, lowered.functions, [name], columns, len(amounts))
    return {reference.name: values for reference, values in done.items()}


def returning(annotation: Any, value: object) -> list[Any]:
    """What one row of a function that returns `value` gives."""

    def constant() -> Any:
        return value

    constant.__annotations__["return"] = annotation
    lowered = define.lower(tm.on_demand()(constant))
    done = define.evaluate(lowered.definitions, lowered.functions, ["constant"], {}, 1)
    return done[Reference("on_demand", "constant")]


def test_functions_are_computed_in_the_order_they_need() -> None:
    """What `total` reads is computed first, and once."""
    assert evaluate("total", [1.0, 2.5]) == {"doubled": [2.0, 5.0], "total": [3.0, 7.5]}


def test_no_rows_give_no_values() -> None:
    """An empty training set calls nothing."""
    assert evaluate("total", []) == {"doubled": [], "total": []}


def test_a_function_that_raises_names_the_row_and_its_values() -> None:
    """One bad row among a million is found at once."""
    with pytest.raises(EngineError) as caught:
        evaluate("doubled", [1.0, 2.0, None])
    assert caught.value.what.startswith("doubled raised TypeError: unsupported operand")
    assert caught.value.where == "row 2: amount=None"


def test_a_function_that_returns_another_type_names_the_row() -> None:
    """The declared type is what training and serving rely on."""
    with pytest.raises(EngineError) as caught:
        evaluate("doubled", [1.0, "x"])
    assert caught.value.what == "doubled returned 'xx', which is not float64."
    assert caught.value.where == "row 1: amount='x'"


def test_null_may_be_returned() -> None:
    """None is null."""
    assert returning(float | None, None) == [None]


@pytest.mark.parametrize(
    ("annotation", "value", "stored"),
    [
        (float, 3, 3.0),
        (int, 3, 3),
        (bool, True, True),
        (str, "x", "x"),
        (bytes, b"x", b"x"),
        (list[str], ["x", None], ["x", None]),
        (list[float], [1, 2.5], [1.0, 2.5]),
        (
            datetime,
            datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))),
            datetime(2026, 1, 1, tzinfo=UTC),
        ),
    ],
)
def test_values_are_stored_as_their_type_holds_them(
    annotation: Any, value: object, stored: object
) -> None:
    """An int is a float64 where a float is declared; moments are in UTC."""
    [found] = returning(annotation, value)
    assert found == stored
    assert type(found) is type(stored)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, 3.0),
        (int, True),
        (int, 2**63),
        (float, "3"),
        (bool, 1),
        (str, b"x"),
        (list[str], "x"),
        (list[str], [1]),
        (datetime, datetime(2026, 1, 1)),
    ],
)
def test_values_of_another_type_are_refused(annotation: Any, value: object) -> None:
    """Nothing is converted that could lose or invent something."""
    with pytest.raises(EngineError, match="which is not"):
        returning(annotation, value)


def test_a_count_is_an_int_and_a_mean_may_be_null() -> None:
    """What a parameter must accept follows from the feature; a default takes null away."""

    class User(tm.Entity):
        user_id: tm.Key[str]

    class Purchase(tm.Source, time="at"):
        user_id: tm.Col[str]
        amount: tm.Col[float]
        at: tm.Col[datetime]

    class Spend(tm.FeatureView, entity=User, source=Purchase):
        n = tm.count(over="7d")
        mean = tm.mean(Purchase.amount, over="7d")
        filled = tm.mean(Purchase.amount, over="7d", default=0)
        newest = tm.latest(Purchase.amount, default=0)

    inputs: dict[Any, Callable[..., float]] = {}

    def accepts(given: tm.Feature[Any], annotation: Any) -> bool:
        def f(x: Any) -> float:
            return 0.0

        f.__annotations__["x"] = annotation
        try:
            inputs[given.name] = tm.on_demand(x=given)(f)
        except tm.errors.DefinitionError:
            return False
        return True

    assert accepts(Spend.n, int)
    assert not accepts(Spend.mean, float)
    assert accepts(Spend.mean, float | None)
    assert accepts(Spend.filled, float)
    assert not accepts(Spend.newest, float)
    assert accepts(Spend.n, float)
    assert not accepts(Spend.mean, int | None)
    assert accepts(Spend.mean, Any)


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (int, np.int64(2), 2),
        (float, np.float32(0.5), 0.5),
        (bool, np.bool_(True), True),
        (list[float], np.array([1.0, 2.5]), [1.0, 2.5]),
    ],
)
def test_values_of_numpy_are_values(annotation: Any, value: object, expected: object) -> None:
    """A function that computes with numpy returns what numpy returns."""
    (found,) = returning(annotation, value)
    assert (found, type(found)) == (expected, type(expected))


def test_a_number_of_numpy_is_not_rounded() -> None:
    """A float is no integer, whoever made it."""
    with pytest.raises(EngineError, match="which is not int64"):
        returning(int, np.float64(2.5))


async def awaited(amount: float) -> float:
    return amount


def yielded(amount: float) -> Iterator[float]:
    yield amount


def by_position(amount: float, /) -> float:
    return amount


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (awaited, "awaited is asynchronous."),
        (yielded, "yielded yields values."),
        (by_position, "by_position takes its parameter 'amount' by position only."),
    ],
)
def test_functions_that_give_no_value_are_refused(function: Callable[..., Any], what: str) -> None:
    """When they are declared, rather than at the first request."""
    with pytest.raises(DefinitionError) as raised:
        tm.on_demand(amount=Checkout.amount)(function)
    assert raised.value.problems[0].what == what


class Item(tm.Entity):
    sku: tm.Key[str]


class Offer(tm.Source, time="at"):
    sku: tm.Col[str]
    price: tm.Col[Decimal] = tm.decimal(12, 2)
    at: tm.Col[datetime]


class Prices(tm.FeatureView, entity=Item, source=Offer):
    price = tm.latest(Offer.price)
    recent = tm.last_n(Offer.price, 3)


def test_a_parameter_takes_decimals_of_any_digits() -> None:
    """The feature says how many; the function says what it takes, as Python does."""

    @tm.on_demand(price=Prices.price, recent=Prices.recent)
    def below(price: Decimal | None, recent: list[Decimal] | None) -> bool:
        return price is not None and price < max(recent or [price])

    assert below(Decimal("1.50"), [Decimal("2.00")])
    lowered = define.lower(below)
    price = Reference("feature", "price", "prices")
    recent = Reference("feature", "recent", "prices")
    columns = {price: [Decimal("1.50"), None], recent: [[Decimal("2.00")], None]}
    done = define.evaluate(lowered.definitions, lowered.functions, ["below"], columns, 2)
    assert done[Reference("on_demand", "below")] == [True, False]


def test_what_a_function_returns_says_the_digits_of_a_decimal() -> None:
    """They are how it is stored."""
    with pytest.raises(DefinitionError, match="A decimal needs its digits"):
        returning(Decimal, Decimal("1.50"))
