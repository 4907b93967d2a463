"""The part of PyYAML that Tidemark uses."""

from collections.abc import Iterator
from typing import Any

class YAMLError(Exception): ...

class Mark:
    line: int

class MarkedYAMLError(YAMLError):
    problem: str | None
    problem_mark: Mark | None

class Node:
    start_mark: Mark
    value: Any

class ScalarNode(Node):
    value: str

class SequenceNode(Node):
    value: list[Node]

class MappingNode(Node):
    value: list[tuple[Node, Node]]

class SafeLoader:
    def __init__(self, stream: str) -> None: ...
    def flatten_mapping(self, node: MappingNode) -> None: ...
    def construct_object(self, node: Node) -> Any: ...

def compose_all(stream: str, Loader: type[SafeLoader]) -> Iterator[Node | None]: ...
