"""On-demand functions of several projects in one process, and code that was edited since."""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

import tidemark as tm
from tidemark.errors import NotFound

FEATURES = '''
import helpers
import tidemark as tm


class Checkout(tm.Request):
    """What is known while paying."""

    amount: tm.Col[float]


@tm.on_demand(amount=Checkout.amount)
def scaled(amount: float) -> float:
    """The amount in the unit of the project."""
    return helpers.scale(amount)


class Fraud(tm.FeatureService):
    """What the model reads."""

    ratio = scaled
'''


def project(folder: Path, factor: int) -> Path:
    """A project of just the same names in every folder, which multiplies by `factor`."""
    folder.mkdir()
    (folder / "tidemark.toml").write_text(f'name = "p{factor}"\ndefinitions = "features.py"\n')
    (folder / "features.py").write_text(FEATURES)
    (folder / "helpers.py").write_text(f"def scale(amount):\n    return amount * {factor}\n")
    with tm.connect(folder) as store:
        store.apply(store.plan())
    return folder


def served(store: tm.Store) -> object:
    return store.online("fraud", {}, request={"amount": 3.0})["ratio"]


def test_projects_of_one_process_compute_with_their_own_modules(tmp_path: Path) -> None:
    """`features.py` and `helpers.py` of the one never stand for those of the other."""
    twice, tenfold = project(tmp_path / "a", 2), project(tmp_path / "b", 10)
    with tm.connect(twice) as one, tm.connect(tenfold) as other:
        assert [served(one), served(other), served(one)] == [6.0, 30.0, 6.0]
    with tm.connect(twice) as one, tm.connect(tenfold) as other:
        assert [served(other), served(one)] == [30.0, 6.0]


@pytest.mark.parametrize("edited", ["features.py", "helpers.py"])
def test_code_edited_since_it_was_applied_is_not_used(tmp_path: Path, edited: str) -> None:
    """A version means what was applied, also where the function's helper is another now."""
    folder = project(tmp_path / "a", 2)
    text = (folder / edited).read_text()
    changed = text.replace("scale(amount)\n", "scale(amount) + 1\n").replace("* 2", "* 3")
    assert changed != text
    (folder / edited).write_text(changed)
    with tm.connect(folder) as store, pytest.raises(NotFound) as caught:
        served(store)
    assert caught.value.what == ("The code of 'features:scaled' is not that of scaled@1 any more.")
    (folder / edited).write_text(text)
    with tm.connect(folder) as store:
        assert served(store) == 6.0


def test_training_refuses_edited_code_too(tmp_path: Path) -> None:
    """The training set and the vector refuse alike."""
    folder = project(tmp_path / "a", 2)
    (folder / "helpers.py").write_text("def scale(amount):\n    return amount * 3\n")
    labels = pa.table({"at": [datetime(2026, 1, 1, tzinfo=UTC)], "amount": [1.0]})
    with tm.connect(folder) as store, pytest.raises(NotFound, match="not that of scaled@1"):
        store.training_set("fraud", labels)
