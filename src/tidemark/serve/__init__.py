"""Everything that reads vectors."""

from tidemark.serve.reader import Reader
from tidemark.serve.vector import Status, Vector, Vectors

__all__ = ["Reader", "Status", "Vector", "Vectors"]
