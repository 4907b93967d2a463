"""What users write, and how it becomes the model: classes, YAML and objects of the model."""

from tidemark.define.document import load
from tidemark.define.lowering import Loaded, Lowered, lower
from tidemark.define.on_demand import evaluate
from tidemark.define.references import outputs

__all__ = ["Loaded", "Lowered", "evaluate", "load", "lower", "outputs"]
