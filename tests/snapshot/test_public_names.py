"""The names that `import tidemark as tm` promises, with their signatures."""

import inspect
import re
from pathlib import Path
from typing import Any

import tidemark as tm

PROMISED = Path(__file__).with_name("public_names.txt")
DECLARED = ("Entity", "Source", "Request", "FeatureView", "FeatureService")
LAZY = ("Store", "connect", "testing", "errors")


def spelled(name: str) -> str:
    item: Any = getattr(tm, name)
    if name in DECLARED:
        parameters = list(inspect.signature(item.__init_subclass__).parameters)
        return f"class {name}({', '.join(parameters)})"
    if inspect.isclass(item):
        return f"class {name}"
    return name + re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(item)))


def test_public_names_change_only_on_purpose() -> None:
    """A changed line of `public_names.txt` is a change for every user."""
    lines = [spelled(name) if name not in LAZY else name for name in tm.__all__]
    assert lines == PROMISED.read_text("utf-8").splitlines()
