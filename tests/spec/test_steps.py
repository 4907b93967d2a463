"""Views whose windows move in steps: what they say of themselves."""

from datetime import datetime

from msgspec.structs import replace

import tidemark as tm
from tidemark import define
from tidemark.model import prose
from tidemark.model.fingerprint import meaning
from tidemark.model.window import HOUR


class User(tm.Entity):
    """A person with an account."""

    user_id: tm.Key[str]


class Purchase(tm.Source, time="at", timezone="UTC"):
    """Card purchases."""

    user_id: tm.Col[str]
    amount: tm.Col[float]
    at: tm.Col[datetime]


class Hourly(tm.FeatureView, entity=User, source=Purchase, step="1h"):
    """What a user bought, by the hour."""

    spend = tm.sum(Purchase.amount, over="7d", offset="1d")
    dearest = tm.max(Purchase.amount)


DOCUMENT = {
    "entities": {"User": {"keys": {"user_id": "string"}}},
    "sources": {
        "Purchase": {
            "time": "at",
            "columns": {"user_id": "string", "amount": "float64", "at": "timestamp"},
        }
    },
    "views": {
        "Hourly": {
            "entity": "User",
            "source": "Purchase",
            "step": "1h",
            "features": {"spend": {"function": "sum", "value": "amount", "over": "7d"}},
        }
    },
}


def test_a_class_and_a_document_say_the_step() -> None:
    assert define.lower([Hourly]).definitions.views[0].step == HOUR
    assert define.lower(tm.load(DOCUMENT)).definitions.views[0].step == HOUR


def test_a_sentence_says_the_step() -> None:
    definitions = define.lower([Hourly]).definitions
    view = definitions.views[0]
    assert prose.sentence(view, view.features[0], definitions.sources[0]) == (
        "Sum of amount over purchase, in the 7 days up to and including 1 day before the "
        "moment asked for, in steps of 1 hour; null if there were none."
    )


def test_another_step_is_another_meaning() -> None:
    """Without one, fingerprints are what they were before there were steps."""
    definitions = define.lower([Hourly]).definitions
    (view,), (source,) = definitions.views, definitions.sources
    kinds = {meaning(replace(view, step=step), view.features[0], source) for step in (0, 1, HOUR)}
    assert len(kinds) == 3
