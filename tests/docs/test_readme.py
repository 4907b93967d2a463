"""The README is true: its definitions, its script and its commands run as they stand."""

import re
import runpy
import sys
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
from sybil import Sybil
from tests.docs.test_pages import ROOT, ConsoleBlockParser

README = ROOT / "README.md"


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def test_the_definitions_and_the_script_run(tmp_path, monkeypatch):
    """The first block is a features.py, the second uses it; the vector is the training row."""
    definitions, script = python_blocks()
    (tmp_path / "features.py").write_text(definitions)
    (tmp_path / "tidemark.toml").write_text('name = "acme"\ndefinitions = "features.py"\n')
    (tmp_path / "data" / "purchases").mkdir(parents=True)
    now = datetime.now(UTC).replace(microsecond=0)
    purchases = pa.table(
        {
            "order_id": ["o1", "o2", "o2"],
            "user_id": ["u1", "u1", "u1"],
            "amount": [20.0, 22.0, 22.0],
            "merchant": ["tea", "ink", "ink"],
            "status": ["settled"] * 3,
            "purchased_at": [now.replace(tzinfo=None)] * 3,
        }
    )
    pq.write_table(purchases, tmp_path / "data" / "purchases" / "part-0.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "script.py").write_text(f"from features import *\n\n{script}")
    labels = pa.table({"user_id": ["u1"], "at": [datetime.now(UTC)], "amount": [42.0]})
    pushed = {"order_id": "o3", "user_id": "u2", "amount": 5.0, "status": "settled"}
    rows = [pushed | {"merchant": "tea", "purchased_at": datetime.now(UTC)}]
    given = {"labels": labels, "rows": rows}
    space = runpy.run_path(str(tmp_path / "script.py"), given)
    row = space["training"].to_arrow().drop_columns(["user_id", "at", "amount"]).to_pylist()[0]
    assert dict(space["vector"]) == row
    assert row == {"purchases_1h": 2, "spend_7d": 42.0, "last_merchant": "ink", "ratio": 2.0}


def test_the_commands_run(tmp_path, monkeypatch):
    """The commands under Start succeed one after another in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for example in Sybil(parsers=[ConsoleBlockParser()]).parse(README).examples():
        example.evaluate()
    assert (tmp_path / "my-features" / "training.parquet").exists()
