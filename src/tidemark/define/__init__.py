"""What users write, and how it becomes the model: classes, YAML and objects of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from tidemark.define.lowered import Loaded, Lowered
from tidemark.define.lowering import lower
from tidemark.define.modules import functions_of, load_module, load_modules
from tidemark.define.on_demand import evaluate
from tidemark.define.references import outputs

__all__ = [
    "Loaded",
    "Lowered",
    "evaluate",
    "functions_of",
    "load",
    "load_module",
    "load_modules",
    "lower",
    "outputs",
]


def load(source: str | PathLike[str] | Mapping[str, Any] | Sequence[Any]) -> Loaded:
    """Read the definitions of a YAML file, or of a dict of the same form, as objects of the model.

    Raises `DefinitionError` with every problem, each with its line.
    """
    from tidemark.define.document import load as read

    return read(source)
