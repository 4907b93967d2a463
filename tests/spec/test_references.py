"""What may be asked for: services, features and functions, as objects or by their names."""

from datetime import datetime

import pytest

import tidemark as tm
from tidemark import define
from tidemark.errors import NotFound, PlanConflict, RequestInvalid
from tidemark.model.graph import Definitions, Output, Reference
from tidemark.model.merge import merged


class User(tm.Entity):
    user_id: tm.Key[str]


class Purchase(tm.Source, time="at"):
    user_id: tm.Col[str]
    amount: tm.Col[float]
    at: tm.Col[datetime]


class UserSpend(tm.FeatureView, entity=User, source=Purchase):
    spend = tm.sum(Purchase.amount, over=("7d", "30d"))
    typical = tm.mean(Purchase.amount, version=2)


class UserMax(tm.FeatureView, entity=User, source=Purchase):
    typical = tm.max(Purchase.amount)


@tm.on_demand(typical=UserSpend.typical)
def filled(typical: float | None) -> float:
    return typical or 0.0


class Fraud(tm.FeatureService):
    week = UserSpend.spend["7d"]
    ratio = filled


def applied(*more: object) -> Definitions:
    return define.lower(Fraud, UserSpend, UserMax, *more).definitions


WEEK = Reference("feature", "spend_7d", "user_spend")
MONTH = Reference("feature", "spend_30d", "user_spend")
TYPICAL = Reference("feature", "typical", "user_spend", version=2)
FILLED = Reference("on_demand", "filled")


def test_a_service_gives_its_left_hand_names() -> None:
    """By its class, by its name, or as an object of the model."""
    expected = (Output("week", WEEK), Output("ratio", FILLED))
    definitions = applied()
    assert define.outputs(Fraud, definitions) == expected
    assert define.outputs("fraud", definitions) == expected
    assert define.outputs(definitions.service("fraud"), definitions) == expected


@pytest.mark.parametrize(
    ("asked", "references"),
    [
        ([UserSpend.spend["7d"], filled], [WEEK, FILLED]),
        (["user_spend:spend_7d", "filled"], [WEEK, FILLED]),
        (["user_spend:typical@2"], [TYPICAL]),
        (["user_spend:typical"], [TYPICAL]),
        (["spend_30d"], [MONTH]),
        (["spend_30d@1", "filled@1"], [MONTH, FILLED]),
        ([UserSpend.spend], [WEEK, MONTH]),
        (UserSpend, [WEEK, MONTH, TYPICAL]),
        ("user_spend", [WEEK, MONTH, TYPICAL]),
        (UserSpend.typical, [TYPICAL]),
        ("user_spend:typical", [TYPICAL]),
        (filled, [FILLED]),
        ([WEEK], [WEEK]),
    ],
)
def test_a_list_gives_the_features_own_names(asked: object, references: list[Reference]) -> None:
    """A view, or several windows, stand for each of their features."""
    outputs = define.outputs(asked, applied())
    assert outputs == tuple(Output(each.name, each) for each in references)


def test_a_name_that_would_occur_twice_is_an_error_unless_full() -> None:
    """Two views have a `typical`."""
    asked = [UserSpend.typical, UserMax.typical]
    with pytest.raises(RequestInvalid, match="'typical' would occur twice"):
        define.outputs(asked, applied())
    full = define.outputs(asked, applied(), full_names=True)
    assert [output.name for output in full] == ["user_spend__typical", "user_max__typical"]


def test_versions_of_one_feature_have_full_names_with_their_versions() -> None:
    """They serve side by side, so they can be compared in one training set."""

    class Newer(tm.FeatureView, name="user_max", entity=User, source=Purchase):
        """The other version of `UserMax`."""

        typical = tm.min(Purchase.amount, version=2)

    both = merged(define.lower(Newer).definitions, define.lower(UserMax).definitions)
    asked = ["user_max:typical@1", "user_max:typical@2"]
    names = [output.name for output in define.outputs(asked, both, full_names=True)]
    assert names == ["user_max__typical@1", "user_max__typical@2"]


def test_a_bare_name_that_two_views_have_is_an_error() -> None:
    """The remedy names both."""
    with pytest.raises(RequestInvalid, match="Several views") as caught:
        define.outputs(["typical"], applied())
    assert caught.value.remedy == "Name one: user_max:typical, user_spend:typical."


@pytest.mark.parametrize(
    ("asked", "remedy"),
    [
        ("frod", "Did you mean 'fraud'?"),
        (["user_spend:spend_7"], "Did you mean 'spend_7d'?"),
        (["usr_spend:spend_7d"], "Did you mean 'user_spend'?"),
        (["user_spend:typical@3"], "What is defined is version 2."),
        (["spend_7@1"], "Did you mean 'user_spend:spend_7d'?"),
        (["spend_7d@3"], "What is defined is version 1."),
        (["filled@3"], "What is defined is version 1."),
        (["typical@2"], "Name one: user_max:typical, user_spend:typical."),
    ],
)
def test_an_unknown_name_suggests_the_nearest(asked: object, remedy: str) -> None:
    """Names come over HTTP and from notebooks, with typos."""
    with pytest.raises((NotFound, RequestInvalid)) as caught:
        define.outputs(asked, applied())
    assert caught.value.remedy == remedy


def test_a_class_that_differs_from_what_is_applied_is_refused() -> None:
    """Training on an edited definition that nobody applied would not be what is served."""

    class Edited(tm.FeatureView, name="user_spend", entity=User, source=Purchase):
        spend = tm.sum(Purchase.amount * 2, over=("7d", "30d"))

    class Other(tm.FeatureService, name="fraud"):
        week = UserSpend.spend["30d"]

    with pytest.raises(PlanConflict, match="user_spend:spend_7d@1 is not defined as"):
        define.outputs([Edited.spend["7d"]], applied())
    with pytest.raises(PlanConflict, match="service 'fraud' is not the one"):
        define.outputs(Other, applied())


def test_asking_for_nothing_or_for_something_else_is_an_error() -> None:
    """A column of a source is not a feature."""
    with pytest.raises(RequestInvalid, match="No features are asked for"):
        define.outputs([], applied())
    with pytest.raises(RequestInvalid, match="is not a feature"):
        define.outputs([Purchase.amount], applied())


def test_a_version_of_a_service_is_one_of_its_model() -> None:
    """Services have none, so it says what was probably meant."""
    with pytest.raises(NotFound) as caught:
        define.outputs("fraud@1", applied())
    assert caught.value.what == "There is no feature 'fraud@1', and a service has no versions."
    assert caught.value.remedy == (
        'Ask for the service, "fraud", or for a version of its model, "model:fraud@1".'
    )


def test_a_version_of_a_view_is_one_of_a_feature() -> None:
    """A view has none, though what it computes has."""
    with pytest.raises(NotFound) as caught:
        define.outputs("user_spend@2", applied())
    assert caught.value.what == "There is no feature 'user_spend@2', and a view has no versions."
    assert caught.value.remedy == (
        'Ask for the view, "user_spend", or for a version of a feature, "user_spend:spend_7d@1".'
    )
