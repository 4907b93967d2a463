"""What is wrong with definitions is said all at once, in the author's words, with file and line."""

import re
from datetime import datetime
from pathlib import Path

import pytest

import tidemark as tm
from tidemark import define
from tidemark.errors import DefinitionError
from tidemark.model import graph
from tidemark.model.aggregates import Aggregate
from tidemark.model.check import check
from tidemark.model.expr import Column, Literal
from tidemark.model.types import FLOAT64, INT64, STRING
from tidemark.model.window import Window

HEAD = '''"""Card-fraud features."""
from datetime import datetime
import tidemark as tm


class User(tm.Entity):
    user_id: tm.Key[str]


class Purchase(tm.Source, history=tm.parquet("purchases.parquet"), time="at"):
    user_id: tm.Col[str]
    amount: tm.Col[float]
    merchant: tm.Col[str]
    paid: tm.Col[bool]
    at: tm.Col[datetime]


class Profile(tm.Source, time=None):
    user_id: tm.Col[int]
    plan: tm.Col[str]


class UserSpend(tm.FeatureView, entity=User, source=Purchase):
    spend = tm.sum(Purchase.amount, over=("7d", "30d"))
    typical = tm.mean(Purchase.amount)


'''
FIRST = HEAD.count("\n") + 1


def problems(tmp_path: Path, body: str) -> list[str]:
    """Load a file that ends with `body`; each problem as `line: what | remedy`."""
    (tmp_path / "features.py").write_text(HEAD + body)
    with pytest.raises(DefinitionError) as caught:
        define.load_module("features.py", tmp_path)
    found: list[str] = []
    for problem in caught.value.problems:
        place, _, line = problem.where.splitlines()[-1].partition("   ")
        number = int(place.rpartition(":")[2])
        assert line in (HEAD + body).splitlines()[number - 1]
        found.append(f"{number - FIRST + 1}: {problem.what} | {problem.remedy}")
    return found


CASE = re.compile(r"== (.*)\n((?:.*\n)*?)-- line (\d+)\n(.*)\n(.*)\n?")
CASES = [
    pytest.param(body, f"{line}: {what} | {remedy}", id=name)
    for name, body, line, what, remedy in CASE.findall(
        Path(__file__).with_name("definition_problems.txt").read_text("utf-8")
    )
]


@pytest.mark.parametrize(("body", "expected"), CASES)
def test_one_problem_is_said_once(tmp_path: Path, body: str, expected: str) -> None:
    """What is wrong, at its line, and what to do; nothing follows from it."""
    assert problems(tmp_path, body) == [expected]


def test_all_problems_of_a_file_are_said_at_once(tmp_path: Path) -> None:
    """A class that fails hides nothing of the others, and what uses it adds nothing."""
    body = """\
class Visit(tm.Source, time="att"):
    at: tm.Col[datetime]
class Broken(tm.FeatureView, entty=User, source=Purchase):
    n = tm.count()
class V(tm.FeatureView, entity=User, source=Purchase):
    a = tm.sum(Purchase.merchant)
    b = tm.mean(Purchase.amont / 2, where=Purchase.nothing > 3)
    c = tm.count(over="0d")
    d = tm.mean(Purchase.amount)
class S(tm.FeatureService):
    x = Broken.n
    y = V.d
    z = V.zz
"""
    assert [each.split(" | ")[0] for each in problems(tmp_path, body)] == [
        "1: Visit: time names the column 'att', which Visit does not declare.",
        "3: FeatureView has no class argument 'entty'.",
        "6: V.a sums Purchase.merchant, which is text.",
        "7: Purchase has no column 'amont'.",
        "7: Purchase has no column 'nothing'.",
        "8: '0d' is not a duration: it must be longer than nothing.",
        "13: V has no feature 'zz'.",
    ]


def test_the_error_reads_as_the_contract_says(tmp_path: Path) -> None:
    """What is wrong, where, what to do: three lines."""
    body = """\
class V(tm.FeatureView, entity=User, source=Purchase):
    spend = tm.sum(Purchase.merchant, over=("7d", "30d"))
"""
    (tmp_path / "features.py").write_text(HEAD + body)
    with pytest.raises(DefinitionError) as caught:
        define.load_module("features.py", tmp_path)
    file = tmp_path / "features.py"
    assert str(caught.value).splitlines() == [
        "V.spend sums Purchase.merchant, which is text.",
        f'  {file}:{FIRST + 1}   spend = tm.sum(Purchase.merchant, over=("7d", "30d"))',
        "  Sum needs a number. Numeric columns of Purchase: amount.",
    ]


def test_a_file_that_is_not_python_says_its_line(tmp_path: Path) -> None:
    """A syntax error is a problem like any other."""
    (tmp_path / "features.py").write_text("import tidemark as tm\nclass User(tm.Entity:\n")
    with pytest.raises(DefinitionError, match="This is not Python") as caught:
        define.load_module("features.py", tmp_path)
    assert "features.py:2" in caught.value.where


def test_outside_a_file_a_mistake_is_raised_where_it_is_made() -> None:
    """In a notebook or a test, the class that is wrong is the one that raises."""

    class User(tm.Entity):
        user_id: tm.Key[str]

    class Purchase(tm.Source, time="at"):
        user_id: tm.Col[str]
        merchant: tm.Col[str]
        at: tm.Col[datetime]

    with pytest.raises(DefinitionError) as caught:

        class Wrong(tm.FeatureView, entity=User, source=Purchase):
            a = tm.sum(Purchase.merchant)
            b = tm.quantile(Purchase.merchant, 0.5)

    assert [problem.what for problem in caught.value.problems] == [
        "Wrong.a sums Purchase.merchant, which is text.",
        "Wrong.b takes a quantile of Purchase.merchant, which is text.",
    ]
    with pytest.raises(DefinitionError, match="Purchase has no column 'mrchant'"):
        Purchase.mrchant  # type: ignore[attr-defined]
    assert not hasattr(Purchase, "mrchant")


def test_functions_are_importable_after_loading(tmp_path: Path) -> None:
    """What is recorded as `features:doubled` is found again from the project's root."""
    body = """\
@tm.on_demand(a=UserSpend.typical)
def doubled(a: float | None) -> float | None:
    return None if a is None else 2 * a
"""
    (tmp_path / "features.py").write_text(HEAD + body)
    lowered = define.load_module("features.py", tmp_path)
    assert lowered.definitions.on_demand[0].function == "features:doubled"
    assert define.functions_of(lowered.definitions, tmp_path)["doubled@1"](2.0) == 4.0


def test_a_module_is_loaded_by_its_name(tmp_path: Path) -> None:
    """`definitions = "fraud.features"`, with every problem as for a file."""
    (tmp_path / "fraud_features").mkdir()
    file = tmp_path / "fraud_features" / "spend.py"
    file.write_text(HEAD)
    assert define.load_module("fraud_features.spend", tmp_path).definitions.view("user_spend")
    file.write_text(HEAD + "x = Purchase.a\ny = Purchase.b\n")
    with pytest.raises(DefinitionError) as caught:
        define.load_module("fraud_features.spend", tmp_path)
    assert [problem.what for problem in caught.value.problems] == [
        "Purchase has no column 'a'.",
        "Purchase has no column 'b'.",
    ]


@pytest.mark.parametrize("name", ["nowhere.py", "nowhere", "no.where", "nowhere.yaml"])
def test_a_file_that_is_not_there_is_said(tmp_path: Path, name: str) -> None:
    """With the folder in which it was looked for."""
    with pytest.raises(DefinitionError, match=r"nowhere|no\.where") as caught:
        define.load_module(name, tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_files_of_a_project_may_refer_to_each_other(tmp_path: Path) -> None:
    """A document names views of a Python file by text."""
    (tmp_path / "features.py").write_text(
        HEAD.replace("(Purchase.amount)", "(Purchase.amount, version=2)")
    )
    (tmp_path / "services.yaml").write_text("services: {s: {features: [user_spend:typical]}}\n")
    (tmp_path / "count.yaml").write_text(
        "{name: n, entity: user_id, source: purchase, function: count, where: paid}\n"
    )
    names = ["services.yaml", "features.py", "count.yaml"]
    definitions = define.load_modules(names, tmp_path).definitions
    assert str(definitions.service("s").outputs[0].reference) == "user_spend:typical@2"
    assert definitions.view("n").entity == "user"


def test_problems_of_several_files_are_said_together(tmp_path: Path) -> None:
    """A file that cannot be read hides nothing of the next."""
    (tmp_path / "features.py").write_text(HEAD + "x = Purchase.amont\n")
    (tmp_path / "services.yaml").write_text("serviecs: {}\n")
    with pytest.raises(DefinitionError) as caught:
        define.load_modules(["services.yaml", "nowhere.py", "features.py"], tmp_path)
    assert {problem.what for problem in caught.value.problems} == {
        "Purchase has no column 'amont'.",
        "There is no definition file nowhere.py.",
        "There is no key 'serviecs' here.",
    }


def test_two_projects_may_have_files_of_one_name(tmp_path: Path) -> None:
    """A file imports its neighbours, not those of a project that was open before."""
    for project in ("first", "second"):
        (tmp_path / project).mkdir()
        (tmp_path / project / "neighbours.py").write_text(HEAD.replace("User", project.title()))
        (tmp_path / project / "features.py").write_text("from neighbours import *\n")
    for project in ("first", "second", "first"):
        definitions = define.load_module("features.py", tmp_path / project).definitions
        assert [entity.name for entity in definitions.entities] == [project]


def test_an_edited_file_is_read_anew(tmp_path: Path) -> None:
    """Loading twice sees what was changed between, in imported files as well."""
    (tmp_path / "people.py").write_text(
        "import tidemark as tm\nclass User(tm.Entity):\n    user_id: tm.Key[str]\n"
    )
    (tmp_path / "features.py").write_text("from people import User\n")
    first = define.load_module("features.py", tmp_path).definitions
    (tmp_path / "people.py").write_text(
        "import tidemark as tm\nclass User(tm.Entity):\n    user_number: tm.Key[int]\n"
    )
    second = define.load_module("features.py", tmp_path).definitions
    assert (first.entity("user").keys[0].name, second.entity("user").keys[0].name) == (
        "user_id",
        "user_number",
    )


ENTITY = graph.Entity(name="user", keys=(graph.Field("user_id", STRING),))
SOURCE = graph.Source(
    name="visit",
    columns=(graph.Field("user_id", STRING), graph.Field("at", STRING)),
    time=None,
)


def test_objects_of_the_model_are_checked_too() -> None:
    """What is written without classes is spelled by its names."""
    aggregate = Aggregate("count", window=Window("sliding"), default=Literal(1.5, FLOAT64))
    view = graph.FeatureView(
        name="visits",
        entity="usr",
        source="visit",
        keys=("user_id",),
        features=(
            graph.Feature(name="n", aggregate=aggregate, type=INT64),
            graph.Feature(name="n", aggregate=Aggregate("latest", Column("at")), type=INT64),
        ),
    )
    found = check(graph.Definitions.of([ENTITY, SOURCE, view]))
    assert [problem.what for problem in found] == [
        "visits: There is no entity 'usr'.",
        "visits declares 2 features named 'n'.",
        "visits:n: the default 1.5 is a float64, but the feature is int64.",
        "visits:n: a window of 0 microseconds holds nothing.",
        "visits:n takes count of visit, whose rows have no time.",
        "visits:n is declared int64, but it gives string.",
    ]


def test_on_demand_features_that_need_each_other_are_refused() -> None:
    """There is no order in which they could be computed."""

    def on_demand(name: str, reads: str) -> graph.OnDemand:
        given = (graph.Input("x", graph.Reference("on_demand", reads)),)
        return graph.OnDemand(name=name, function="m:f", inputs=given, type=FLOAT64)

    found = check(graph.Definitions.of([on_demand("a", "b"), on_demand("b", "a")]))
    assert [problem.what for problem in found] == ["a needs itself.", "b needs itself."]
