"""YAML as plain data, with the line of every key and item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from tidemark.define.problems import Place, suggestion
from tidemark.errors import DefinitionError, Problem

Path_ = tuple[str | int, ...]


def is_mapping(value: object) -> TypeGuard[Mapping[str, Any]]:
    """Whether plain data is a mapping; keys are text in a document."""
    return isinstance(value, Mapping)


def is_list(value: object) -> TypeGuard[Sequence[Any]]:
    """Whether plain data is a list."""
    return isinstance(value, list | tuple)


class Marked:
    """Plain data and where its parts stand; collects what is wrong with it."""

    def __init__(self, data: Any, file: str = "", lines: dict[Path_, int] | None = None) -> None:
        self.data = data
        self.file = file
        self.lines = lines or {}
        self.problems: list[Problem] = []

    def where(self, path: Path_) -> str:
        """The line of a part, or its path where the data came from no file."""
        if not self.file:
            return ".".join(map(str, path))
        while path and path not in self.lines:
            path = path[:-1]
        return str(Place(self.file, self.lines.get(path, 1)))

    def say(self, path: Path_, what: str, remedy: str = "") -> None:
        """Note a problem of the part at `path`."""
        self.problems.append(Problem(what, self.where(path), remedy))

    def mapping(self, path: Path_, value: Any, allowed: set[str]) -> dict[str, Any]:
        """A part that is a mapping of known keys; what is not is noted and left out."""
        if not is_mapping(value):
            self.say(
                path, f"{value!r} is not a mapping.", f"Its keys: {', '.join(sorted(allowed))}."
            )
            return {}
        known: dict[str, Any] = {}
        for key, item in value.items():
            if key in allowed:
                known[str(key)] = item
            else:
                self.say(
                    (*path, str(key)),
                    f"There is no key {str(key)!r} here.",
                    suggestion(str(key), sorted(allowed)),
                )
        return known

    def named(self, path: Path_, value: Any) -> list[tuple[str, Path_, dict[str, Any]]]:
        """The parts of a mapping from names, or of a list of mappings that hold their `name`."""
        found: list[tuple[str, Path_, dict[str, Any]]] = []
        if is_mapping(value):
            for name, body in value.items():
                found.append((str(name), (*path, str(name)), body if body is not None else {}))
        elif is_list(value):
            for position, body in enumerate(value):
                at = (*path, position)
                if is_mapping(body) and isinstance(body.get("name"), str):
                    rest = {key: item for key, item in body.items() if key != "name"}
                    found.append((body["name"], at, rest))
                else:
                    self.say(at, f"{body!r} has no name.", "Give it one: `name: ...`.")
        elif value is not None:
            self.say(path, f"{value!r} is neither a mapping nor a list.")
        return found


def read_yaml(path: Path) -> list[Marked]:
    """The documents of a YAML file; raises `DefinitionError` if it cannot be read."""
    try:
        text = path.read_text("utf-8")
        nodes = [
            node for node in yaml.compose_all(text, Loader=yaml.SafeLoader) if node is not None
        ]
    except OSError as error:
        raise DefinitionError(f"{path} cannot be read: {error.strerror}.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = str(Place(str(path), mark.line + 1)) if mark else str(path)
        problem = getattr(error, "problem", None) or error
        raise DefinitionError(f"This is not YAML: {problem}.", where=where) from None
    return [_Composed(str(path)).marked(node) for node in nodes]


class _Composed:
    """Turns the nodes of one document into plain data; merge keys (`<<`) are followed."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.loader = yaml.SafeLoader("")
        self.lines: dict[Path_, int] = {}
        self.twice: list[Path_] = []

    def marked(self, node: yaml.Node) -> Marked:
        document = Marked(self.value(node, ()), self.file, self.lines)
        for path in self.twice:
            document.say(path, f"The key {path[-1]!r} occurs twice.", "Keep one of them.")
        return document

    def value(self, node: yaml.Node, path: Path_) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            return self.loader.construct_object(node)
        keys = [str(key.value) for key, _ in node.value]
        self.twice += [(*path, key) for key in dict.fromkeys(keys) if keys.count(key) > 1]
        self.loader.flatten_mapping(node)
        found: dict[str, Any] = {}
        for key, value in node.value:
            at = (*path, str(key.value))
            self.lines[at] = key.start_mark.line + 1
            found[str(key.value)] = self.value(value, at)
        return found
