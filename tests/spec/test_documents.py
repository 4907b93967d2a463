"""Definitions kept as data: YAML files and dicts say what classes say."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import tidemark as tm
from tidemark import define
from tidemark.errors import DefinitionError
from tidemark.model import graph
from tidemark.model.aggregates import Aggregate
from tidemark.model.expr import Call, Column, Literal, Sql
from tidemark.model.types import (
    BOOL,
    BYTES,
    DATE,
    FLOAT64,
    INT64,
    STRING,
    TIMESTAMP,
    decimal,
    list_of,
    vector,
)
from tidemark.model.window import DAY, Window

BARE = """\
name: user_purchase_count_30d
entity: user_id
type: int64
description: "Number of purchases in the last 30 days"
owner: growth-ml-team
source: transactions_table
aggregation: {function: count, window: 30d, filter: "status = 'completed'"}
"""

COMPLETED = Call("eq", (Column("status"), Literal("completed", STRING)))


def load(tmp_path: Path, text: str) -> list[graph.Definition]:
    file = tmp_path / "features.yaml"
    file.write_text(text)
    return list(tm.load(file))


def problems(tmp_path: Path, text: str) -> list[str]:
    """Each problem of a file as `line: what | remedy`."""
    file = tmp_path / "features.yaml"
    file.write_text(text)
    with pytest.raises(DefinitionError) as caught:
        define.load_module("features.yaml", tmp_path)
    return [
        f"{p.where.partition('   ')[0].rpartition(':')[2]}: {p.what} | {p.remedy}"
        for p in caught.value.problems
    ]


def test_a_bare_feature_is_a_view_of_one(tmp_path: Path) -> None:
    """One feature, its entity and its source; the view has the feature's name."""
    assert load(tmp_path, BARE) == [
        graph.FeatureView(
            name="user_purchase_count_30d",
            description="Number of purchases in the last 30 days",
            owner="growth-ml-team",
            entity="user_id",
            source="transactions_table",
            keys=("user_id",),
            features=(
                graph.Feature(
                    name="user_purchase_count_30d",
                    aggregate=Aggregate(
                        "count", where=COMPLETED, window=Window("sliding", 30 * DAY)
                    ),
                    type=INT64,
                    attribute="user_purchase_count_30d",
                    description="Number of purchases in the last 30 days",
                    owner="growth-ml-team",
                ),
            ),
        )
    ]


def test_a_bare_feature_finds_its_entity_by_the_key_and_its_source_by_the_table(
    tmp_path: Path,
) -> None:
    """`entity: user_id` is the entity with that key, `source:` may be the table's own name."""

    class User(tm.Entity):
        user_id: tm.Key[str]

    class Transaction(tm.Source, time="at", history=tm.table("transactions_table")):
        user_id: tm.Col[str]
        status: tm.Col[str]
        at: tm.Col[datetime]

    definitions = define.lower(User, Transaction, load(tmp_path, BARE)).definitions
    view = definitions.view("user_purchase_count_30d")
    assert (view.entity, view.source, view.keys) == ("user", "transaction", ("user_id",))


def test_a_bare_feature_equals_its_class() -> None:
    """The filter is SQL text, and the same node."""

    class User(tm.Entity):
        user_id: tm.Key[str]

    class Purchase(tm.Source, time="at"):
        user_id: tm.Col[str]
        status: tm.Col[str]
        amount: tm.Col[float]
        at: tm.Col[datetime]

    class Spend(tm.FeatureView, entity=User, source=Purchase):
        spend = tm.sum(Purchase.amount, where=Purchase.status == "completed", over="30d")

    data = {
        "name": "spend",
        "entity": "user",
        "source": "purchase",
        "by": "user_id",
        "function": "sum",
        "value": "amount",
        "where": "status = 'completed'",
        "over": "30d",
        "type": "float64",
    }
    assert list(tm.load(data)) == list(define.lower(Spend).definitions.views)


EVERYTHING: dict[str, Any] = {
    "entities": [{"name": "seat", "keys": {"row": "int64", "letter": "string"}, "tags": ["air"]}],
    "sources": {
        "booking": {
            "history": {"table": "lake.bookings", "connection": "lake.duckdb"},
            "stream": {"kafka": "bookings", "format": "avro", "schema": "schemas"},
            "time": "at",
            "timezone": "Europe/Paris",
            "unique": ["id"],
            "delay": "10m",
            "columns": {
                "id": "int64",
                "row": "int64",
                "seat_letter": "string",
                "price": {"type": "decimal(18,2)", "description": "In euros."},
                "taste": "vector<3>",
                "paid": "bool",
                "at": "timestamp",
            },
        }
    },
    "views": {
        "seat_sales": {
            "entity": "seat",
            "source": "booking",
            "by": {"letter": "seat_letter"},
            "bound": "before",
            "max_age": "30d",
            "columns": ["taste"],
            "features": {
                "sold": {"function": "count", "filter": "paid", "over": [None, "7d"]},
                "income": {"function": "sum", "value": "price", "default": 0, "version": 2},
                "spread": {"function": "stddev", "value": "price * 2", "population": True},
                "monthly": {
                    "function": "quantile",
                    "value": "price",
                    "q": 0.9,
                    "over": {"to_date": "month", "zone": "Europe/Paris"},
                    "offset": "1d",
                    "rows": 100,
                },
                "recent": {"function": "last_n", "value": "id", "n": 3, "tags": ["list"]},
                "odd": {"function": "count", "where": "seat_letter LIKE 'A%'"},
            },
        }
    },
    "services": {"pricing": {"features": ["seat_sales:income", "seat_sales:sold_7d"]}},
}


def test_a_document_says_whatever_classes_can() -> None:
    """Composite keys, windows of every kind, parameters, versions, decimals and vectors."""
    definitions = define.lower(tm.load(EVERYTHING)).definitions
    view = definitions.view("seat_sales")
    assert definitions.source("booking").history == graph.Table("lake.bookings", "lake.duckdb")
    assert definitions.source("booking").stream == tm.kafka(
        "bookings", format="avro", schema="schemas"
    )
    assert definitions.source("booking").types["taste"] == vector(3)
    assert definitions.source("booking").delay == 600_000_000
    assert (view.keys, view.bound, view.max_age) == (("row", "seat_letter"), "before", 30 * DAY)
    features = {feature.name: feature for feature in view.features}
    assert {name: feature.type for name, feature in features.items()} == {
        "taste": vector(3),
        "sold_all": INT64,
        "sold_7d": INT64,
        "income": decimal(38, 2),
        "spread": FLOAT64,
        "monthly": FLOAT64,
        "recent": features["recent"].type,
        "odd": INT64,
    }
    assert features["income"].aggregate.default == Literal("0.00", decimal(38, 2))
    assert features["spread"].aggregate.ddof == 0
    assert features["monthly"].aggregate == Aggregate(
        "quantile",
        Column("price"),
        window=Window("to_date", offset=DAY, unit="month", zone="Europe/Paris", rows=100),
        q=0.9,
    )
    assert features["odd"].aggregate.where == Sql("seat_letter LIKE 'A%'", ("seat_letter",), BOOL)
    outputs = definitions.service("pricing").outputs
    assert [(output.name, output.reference.version) for output in outputs] == [
        ("income", 2),
        ("sold_7d", 1),
    ]


def test_a_dict_may_be_planned_as_it_is() -> None:
    """`store.plan` takes a dict, `tm.load` of one, or a list of both."""
    assert define.lower(EVERYTHING) == define.lower([tm.load(EVERYTHING)])


def test_a_dict_may_hold_a_frame() -> None:
    """As classes can, in notebooks and tests."""
    rows = pa.table({"id": [1]})
    data = {
        "sources": {"fact": {"time": None, "history": tm.frame(rows), "columns": {"id": "int64"}}}
    }
    lowered = define.lower(data)
    assert lowered.definitions.source("fact").history == graph.Frame("fact")
    assert lowered.frames["fact"] is rows


def test_several_documents_in_one_file_go_together(tmp_path: Path) -> None:
    """Bare features are kept one below the other."""
    second = BARE.replace("count_30d", "count_7d").replace("30d", "7d")
    names = [item.name for item in load(tmp_path, f"{BARE}---\n{second}")]
    assert names == ["user_purchase_count_30d", "user_purchase_count_7d"]


def test_all_problems_of_a_document_are_said_with_their_lines(tmp_path: Path) -> None:
    """Unknown keys suggest the known one; nothing is skipped silently."""
    text = """\
entities:
  user: {keys: {user_id: string}, onwer: me}
sources:
  purchase:
    time: at
    columns: {user_id: string, amount: floatt, at: timestamp}
veiws: {}
views:
  spend:
    entity: user
    source: purchase
    features:
      n: {function: count, over: 0d}
      m: {function: mean, value: amount, were: amount > 3}
      s: {function: count, where: "amount >"}
services:
  fraud:
    features: {x: "spend:n"}
"""
    found = [each.split(" | ")[0] for each in problems(tmp_path, text)]
    assert found[-1].startswith("15: spend:s: The SQL 'amount >' does not read: ")
    assert found[:-1] == [
        "2: There is no key 'onwer' here.",
        "6: 'floatt' is not a type.",
        "7: There is no key 'veiws' here.",
        "13: spend:n: '0d' is not a duration: it must be longer than nothing.",
        "14: There is no key 'were' here.",
    ]


def test_a_document_that_reads_is_checked_as_classes_are(tmp_path: Path) -> None:
    """Each problem stands at the line of its feature."""
    text = """\
entities: {user: {keys: {user_id: string}}}
sources:
  purchase:
    time: at
    columns: {user_id: string, merchant: string, at: timestamp}
views:
  spend:
    entity: user
    source: purchase
    features:
      total: {function: sum, value: merchant}
      name: {function: last, value: mrchant}
services:
  fraud:
    features:
      x: spend:totl
"""
    assert problems(tmp_path, text) == [
        (
            "11: spend:total sums purchase.merchant, which is text. | "
            "Sum needs a number. Numeric columns of purchase: none."
        ),
        "12: spend:name: There is no column 'mrchant'. | Columns: user_id, merchant, at.",
        "16: fraud.x: There is no feature of spend 'totl'. | Did you mean 'total'?",
    ]


def test_a_key_that_occurs_twice_is_a_problem(tmp_path: Path) -> None:
    """YAML would keep the last one and say nothing."""
    text = "entities:\n  user: {keys: {id: int64}}\n  user: {keys: {id: string}}\n"
    assert problems(tmp_path, text) == ["3: The key 'user' occurs twice. | Keep one of them."]


def test_anchors_and_merge_keys_save_repetition(tmp_path: Path) -> None:
    """What several features share is written once."""
    text = """\
- &week {name: a, entity: user, source: visit, function: count, window: 7d, type: int64}
- {<<: *week, name: b, window: 30d}
"""
    views = [item for item in load(tmp_path, text) if isinstance(item, graph.FeatureView)]
    windows = {view.name: view.features[0].aggregate.window.length for view in views}
    assert windows == {"a": 7 * DAY, "b": 30 * DAY}


def test_a_file_that_is_not_yaml_says_its_line(tmp_path: Path) -> None:
    """The parser's word, at its line."""
    with pytest.raises(DefinitionError, match="This is not YAML") as caught:
        load(tmp_path, "entities:\n  user: {keys: [\n")
    assert "features.yaml:3" in caught.value.where


def test_a_file_that_is_not_there_is_said() -> None:
    """No traceback of the operating system."""
    with pytest.raises(DefinitionError, match=r"nowhere\.yaml cannot be read"):
        tm.load("nowhere.yaml")


def test_a_function_that_cannot_be_imported_is_a_problem(tmp_path: Path) -> None:
    """A document names functions; they are looked up when it is planned."""
    text = """\
on_demand:
  doubled: {function: "nowhere:doubled", inputs: {}, type: float64}
"""
    [found] = problems(tmp_path, text)
    assert found.startswith("2: The function 'nowhere:doubled' of doubled cannot be imported")


def test_a_feature_of_an_undeclared_source_says_its_type(tmp_path: Path) -> None:
    """A sum's type follows its column's, which is declared elsewhere."""
    with pytest.raises(
        DefinitionError, match="the source purchase is declared elsewhere"
    ) as caught:
        load(tmp_path, "{name: x, entity: user, source: purchase, function: sum, value: amount}")
    assert caught.value.remedy == "Say it: `type: float64`."


def test_defaults_of_types_that_yaml_lacks_are_text(tmp_path: Path) -> None:
    """Decimals, dates, moments, and bytes in base16."""
    features = load(
        tmp_path,
        """\
sources:
  sale:
    time: at
    columns: {k: string, d: "decimal(9,2)", day: date, raw: bytes, at: timestamp}
views:
  sales:
    entity: shop
    source: sale
    features:
      price: {function: last, value: d, default: "1.5"}
      prices: {function: last_n, value: d, n: 2, default: ["1.5", null]}
      day: {function: last, value: day, default: "2026-01-31"}
      when: {function: last, value: at, default: "2026-01-31T00:00:00+01:00"}
      raw: {function: last, value: raw, default: "00ff"}
""",
    )[1].features
    assert [feature.aggregate.default for feature in features] == [
        Literal("1.50", decimal(9, 2)),
        Literal(("1.50", None), list_of(decimal(9, 2))),
        Literal("2026-01-31", DATE),
        Literal("2026-01-30T23:00:00Z", TIMESTAMP),
        Literal("00ff", BYTES),
    ]


def test_a_default_that_does_not_read_is_refused(tmp_path: Path) -> None:
    """As the text that it is."""
    text = """\
entities: {shop: {keys: {k: string}}}
sources: {sale: {time: at, columns: {k: string, day: date, at: timestamp}}}
views:
  sales:
    entity: shop
    source: sale
    features:
      day: {function: last, value: day, default: soon}
"""
    what = "sales:day: the default 'soon' is text, but the feature is date."
    assert problems(tmp_path, text) == [f"8: {what} | Give a default of type date."]
