"""What functions do: formatting changes nothing, what they use does, and some they may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidemark import define
from tidemark.errors import DefinitionError, PlanConflict
from tidemark.store import connect

HEAD = """
import tidemark as tm
{imports}


class Checkout(tm.Request):
    amount: tm.Col[float]


{helpers}


@tm.on_demand(amount=Checkout.amount)
def ratio(amount: float) -> float:
"""
BODY = "    return amount * 2"


def code(folder: Path, body: str = BODY, helpers: str = "", imports: str = "") -> str:
    """The fingerprint of a function in a definition file."""
    text = HEAD.format(helpers=helpers, imports=imports) + body + "\n"
    (folder / "features.py").write_text(text, "utf-8")
    (feature,) = define.load_module("features.py", folder).definitions.on_demand
    return feature.code


@pytest.mark.parametrize(
    "body",
    [
        "    return amount*2",
        "    # twice\n    return (\n        amount * 2\n    )",
        '    """Twice the amount."""\n    return amount * 2',
    ],
)
def test_the_same_function(tmp_path: Path, body: str):
    """Spaces, brackets, comments and documentation say nothing about what is computed."""
    assert code(tmp_path, body) == code(tmp_path)


def test_annotations_say_nothing_about_the_value(tmp_path: Path):
    """Types are part of the contract, which is compared elsewhere."""
    plain = "def twice(x):\n    return x * 2"
    typed = "def twice(x: float) -> float:\n    return x * 2"
    body = "    return twice(amount)"
    assert code(tmp_path, body, plain) == code(tmp_path, body, typed)


@pytest.mark.parametrize("body", ["    return amount * 3", "    return 2 * amount"])
def test_another_function(tmp_path: Path, body: str):
    """Whatever could give another value does, even if it happens not to."""
    assert code(tmp_path, body) != code(tmp_path)


@pytest.mark.parametrize(
    ("helpers", "others"),
    [
        ("FACTOR = 2", "FACTOR = 3"),
        ("FACTOR = 2", "FACTOR = 2.0"),
        ("FACTOR = {'a': 2}['a']", "FACTOR = 5"),
    ],
)
def test_constants_count(tmp_path: Path, helpers: str, others: str):
    """By their value and type."""
    body = "    return amount * FACTOR"
    assert code(tmp_path, body, helpers) != code(tmp_path, body, others)


def test_constants_that_it_does_not_use_do_not(tmp_path: Path):
    """Neighbours may change."""
    assert code(tmp_path, helpers="OTHER = 1") == code(tmp_path, helpers="OTHER = 2")


def test_helpers_count_and_so_do_theirs(tmp_path: Path):
    """As far as the project goes."""
    body = "    return outer(amount)"
    helpers = "def inner(x):\n    return x * {}\n\n\ndef outer(x):\n    return inner(x) + 1"
    assert code(tmp_path, body, helpers.format(2)) != code(tmp_path, body, helpers.format(3))


def test_helpers_of_another_module_count(tmp_path: Path):
    """Where they are does not matter, what they do does."""
    found: list[str] = []
    for number in (2, 3, 2):
        (tmp_path / "helping.py").write_text(f"def twice(x):\n    return x * {number}\n")
        body = "    return helping.twice(amount)"
        found.append(code(tmp_path, body, imports="import helping"))
    assert found[0] == found[2] != found[1]


def test_sets_have_no_order(tmp_path: Path):
    """They are compared by what they hold."""
    body = "    return amount if str(amount) in WORDS else 0.0"
    one, two = "WORDS = {'a', 'b', 'c'}", "WORDS = {'c', 'a', 'b'}"
    assert code(tmp_path, body, one) == code(tmp_path, body, two)


def test_a_function_that_calls_itself(tmp_path: Path):
    """Once is enough."""
    helpers = "def down(x):\n    return 0.0 if x < 1 else down(x - 1)"
    assert code(tmp_path, "    return down(amount)", helpers)


@pytest.mark.parametrize(
    ("imports", "call", "why"),
    [
        ("import time", "time.time()", "time.time, which asks the clock"),
        ("from time import time", "time()", "time, which asks the clock"),
        (
            "from datetime import datetime",
            "datetime.now().hour",
            "datetime.now, which asks the clo",
        ),
        ("import datetime as dt", "dt.date.today().day", "dt.date.today, which asks the clock"),
        ("import random", "random.random()", "random.random, which asks random numbers"),
        ("from random import random", "random()", "random, which asks random numbers"),
        ("import numpy as np", "np.random.rand()", "np.random.rand, which asks random numbers"),
        ("import uuid", "uuid.uuid4().int", "uuid.uuid4, which asks random numbers"),
        ("import urllib.request", "len(urllib.request.urlopen('').read())", "asks the network"),
        ("", "len(open('x').read())", "open, which asks files or the machine"),
        ("import os", "len(os.environ)", "os.environ, which asks files or the machine"),
        ("", "hash('x')", "hash, which asks what differs from process to process"),
    ],
)
def test_what_a_function_may_not_use(tmp_path: Path, imports: str, call: str, why: str):
    """It gives one value for one input, whenever and wherever it is called."""
    with pytest.raises(DefinitionError) as caught:
        code(tmp_path, f"    return amount + {call}", imports=imports)
    assert "ratio gives different values for the same inputs" in str(caught.value)
    assert why in str(caught.value)
    assert "features.py:" in str(caught.value)


def test_nor_may_its_helpers_or_imports_inside(tmp_path: Path):
    """However deep."""
    helpers = "def when():\n    import time\n\n    return time.time()"
    with pytest.raises(DefinitionError, match=r"time\.time"):
        code(tmp_path, "    return amount + when()", helpers)


@pytest.mark.parametrize(
    ("imports", "call"),
    [
        ("import math", "math.sqrt(amount)"),
        ("from datetime import datetime", "datetime(2020, 1, 1).year"),
        ("import numpy as np", "float(np.log1p(amount))"),
    ],
)
def test_what_it_may(tmp_path: Path, imports: str, call: str):
    """Whatever depends on its arguments alone."""
    assert code(tmp_path, f"    return amount + {call}", imports=imports)


class TestVersions:
    """A published function is as immutable as any feature."""

    @pytest.fixture
    def project(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "tidemark.toml").write_text('definitions = "features.py"\n')
        code(tmp_path)
        with connect() as store:
            store.apply(store.plan())
        return tmp_path

    def test_another_body_is_refused(self, project: Path):
        """Like any other change of meaning."""
        code(project, "    return amount * 3")
        with connect() as store, pytest.raises(PlanConflict, match="ratio@1"):
            store.apply(store.plan())

    def test_version_1_needs_its_code(self, project: Path):
        """The plan says what is missing; nothing reads it, so it may go."""
        text = HEAD.format(helpers="", imports="").replace(
            "Checkout.amount)", "Checkout.amount, version=2)"
        )
        (project / "features.py").write_text(text + "    return amount * 3\n")
        with connect() as store:
            plan = store.plan()
            (lost,) = plan.lost
            assert (lost.feature, lost.readers) == ("ratio@1", ())
            assert "is version 2 of ratio now" in lost.why
            store.apply(plan)

    def test_while_a_service_reads_it_the_plan_is_refused(self, project: Path):
        """It could not be served."""
        service = "\n\nclass Old(tm.FeatureService):\n    r = 'ratio@1'\n"
        text = HEAD.format(helpers="", imports="").replace(
            "Checkout.amount)", "Checkout.amount, version=2)"
        )
        (project / "features.py").write_text(text + "    return amount * 3\n" + service)
        with connect() as store, pytest.raises(PlanConflict, match="still read is gone") as caught:
            store.apply(store.plan())
        assert "read by service old" in caught.value.where

    def test_both_versions_serve_from_modules_of_their_own(self, project: Path):
        """Their code lies side by side."""
        text = (project / "features.py").read_text()
        (project / "old.py").write_text(text)
        text = text.replace("Checkout.amount)", "Checkout.amount, version=2)").replace("* 2", "* 3")
        (project / "features.py").write_text(
            text.replace(
                "class Checkout(tm.Request):\n    amount: tm.Col[float]", "from old import Checkout"
            )
        )
        (project / "tidemark.toml").write_text('definitions = ["old.py", "features.py"]\n')
        with connect() as store:
            plan = store.plan()
            assert plan.lost == ()
            store.apply(plan)
            request = {"amount": 5.0}
            assert store.online("ratio@1", {}, request=request)["ratio"] == 10.0
            assert store.online("ratio", {}, request=request)["ratio"] == 15.0
