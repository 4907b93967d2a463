"""What comes from what, both ways: sources, columns, features, services, models and datasets.

An edge says what it rests on: `declared`, a definition or a registration names it; `observed`, it
was seen when something was read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import msgspec

from tidemark.errors import NotFound
from tidemark.model.diff import feature_name
from tidemark.model.expr import columns_of
from tidemark.model.graph import (
    Definitions,
    Feature,
    FeatureService,
    FeatureView,
    Reference,
    Source,
)

NodeKind = Literal[
    "source", "column", "feature", "field", "on-demand feature", "service", "model", "dataset"
]
Direction = Literal["upstream", "downstream", "both"]
Format = Literal["text", "json", "dot", "mermaid"]

_KINDS: tuple[NodeKind, ...] = (
    "source", "column", "feature", "field", "on-demand feature", "service", "model", "dataset",
)  # fmt: skip
_SHAPES = {
    "source": ("[(", ")]", "cylinder"),
    "column": ("[", "]", "plaintext"),
    "feature": ("(", ")", "box"),
    "field": ("[/", "/]", "parallelogram"),
    "on-demand feature": ("([", "])", "box"),
    "service": ("[[", "]]", "component"),
    "model": ("{{", "}}", "hexagon"),
    "dataset": ("[(", ")]", "folder"),
}


class Node(msgspec.Struct, frozen=True, gc=False, order=True):
    """One thing that values come from or go to; `name` is how a reference spells it."""

    kind: NodeKind
    name: str
    owner: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


class Edge(msgspec.Struct, frozen=True, gc=False, order=True):
    """Values of `start` go into `end`; `role` says as what, where there is something to say."""

    start: Node
    end: Node
    role: str = ""
    declared: bool = True
    observed: bool = False

    @property
    def evidence(self) -> str:
        """What the edge rests on."""
        kinds = {"declared": self.declared, "observed": self.observed}
        return " and ".join(kind for kind, holds in kinds.items() if holds)


class Consumer(msgspec.Struct, frozen=True):
    """A model or dataset, and what it reads: services by name, features by reference.

    A model may read a dataset, `dataset fraud-2026-11`, if that comes before it.
    """

    kind: Literal["model", "dataset"]
    name: str
    reads: tuple[str, ...]
    owner: str = ""
    observed: bool = False


class Lineage(msgspec.Struct, frozen=True):
    """Nodes and the edges between them; `focus` are the nodes that were asked about, if any."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    focus: tuple[Node, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The graph as JSON values; nodes are named by their kind and name."""
        return {
            "focus": [str(node) for node in self.focus],
            "nodes": [{"id": str(node), **msgspec.to_builtins(node)} for node in self.nodes],
            "edges": [
                {
                    "from": str(edge.start),
                    "to": str(edge.end),
                    "role": edge.role,
                    "evidence": edge.evidence,
                }
                for edge in self.edges
            ],
        }

    def render(self, form: Format) -> str:
        """The graph as text: a tree, JSON, or a drawing for Graphviz (`dot`) or Mermaid."""
        match form:
            case "text":
                return str(self)
            case "json":
                return msgspec.json.format(msgspec.json.encode(self.to_dict()), indent=2).decode()
            case "dot":
                return "\n".join(_dot(self))
            case "mermaid":
                return "\n".join(_mermaid(self))

    def __str__(self) -> str:
        return "\n".join(_tree(self))


class LineageIndex:
    """The lineage of everything, ready to be asked about any part."""

    def __init__(self, definitions: Definitions, consumers: Iterable[Consumer] = ()) -> None:
        self._edges: dict[tuple[Node, Node], Edge] = {}
        self._before: dict[Node, list[Edge]] = {}
        self._after: dict[Node, list[Edge]] = {}
        # Every spelling of a reference, and the nodes that it stands for.
        self._named: dict[str, list[Node]] = {}
        for edge in _declared(definitions):
            self._add(edge)
        known = {node.name: node for edge in self._edges for node in edge}
        known |= {f"service {item.name}": _service(item) for item in definitions.services}
        for consumer in consumers:
            self._consume(consumer, known)
        for edge in self._edges.values():
            self._before.setdefault(edge.end, []).append(edge)
            self._after.setdefault(edge.start, []).append(edge)
        self._name(definitions)

    def of(self, ref: str, direction: Direction = "both") -> Lineage:
        """What a definition comes from (`upstream`), goes to (`downstream`), or both.

        `ref` names a source, `source.column`, entity, view, feature (with or without its version),
        request, `request.field`, on-demand feature, service, model (`fraud@3` or `model:fraud@3`)
        or dataset, optionally after its kind: `service fraud`.  Raises `NotFound` with the nearest
        name.
        """
        if ref.startswith("model:"):
            ref = ref.replace(":", " ", 1)
        focus = self._named.get(ref)
        if focus is None:
            raise NotFound.named("definition", ref, self._named)
        edges: set[Edge] = set()
        if direction != "downstream":
            edges |= _reached(focus, self._before, lambda edge: edge.start)
        if direction != "upstream":
            edges |= _reached(focus, self._after, lambda edge: edge.end)
        nodes = {*focus, *(edge.start for edge in edges), *(edge.end for edge in edges)}
        return Lineage(
            tuple(sorted(nodes, key=_place)),
            tuple(sorted(edges, key=lambda edge: (_place(edge.start), _place(edge.end)))),
            tuple(focus),
        )

    def _add(self, edge: Edge) -> None:
        key = edge.start, edge.end
        known = self._edges.get(key)
        if known is not None:
            edge = msgspec.structs.replace(
                known,
                declared=known.declared or edge.declared,
                observed=known.observed or edge.observed,
            )
        self._edges[key] = edge

    def _consume(self, consumer: Consumer, known: dict[str, Node]) -> None:
        end = Node(consumer.kind, consumer.name, consumer.owner)
        known[str(end)] = end
        for ref in consumer.reads:
            spellings = (f"service {ref}", ref, f"{ref}@1")
            start = next((known[each] for each in spellings if each in known), None)
            # What was retired since is still what the model was given.
            start = start or Node("feature" if ":" in ref else "on-demand feature", ref)
            self._add(Edge(start, end, "", not consumer.observed, consumer.observed))

    def _name(self, definitions: Definitions) -> None:
        nodes = {node for key in self._edges for node in key}
        nodes |= {_source(item) for item in definitions.sources}
        nodes |= {_service(item) for item in definitions.services}
        for node in sorted(nodes, key=_likely):
            self._named.setdefault(node.name, [node])
            self._named[str(node)] = [node]
        for node in sorted(nodes, key=_place):
            if node.kind in {"feature", "on-demand feature", "model"}:
                bare = node.name.rpartition("@")[0]
                for spelling in (bare, f"{node.kind} {bare}"):
                    named = self._named.setdefault(spelling, [])
                    if not named or named[0].kind == node.kind:
                        named.append(node)
        for request in definitions.requests:
            fields = [self._named.get(f"{request.name}.{each.name}") for each in request.fields]
            self._named.setdefault(request.name, [node for each in fields if each for node in each])
        of_view: dict[str, list[Node]] = {}
        of_entity: dict[str, list[Node]] = {item.name: [] for item in definitions.entities}
        for view in definitions.views:
            held = [_feature(view, feature) for feature in view.features]
            of_view.setdefault(view.name, []).extend(held)
            of_entity.setdefault(view.entity, []).extend(held)
        for name, held in (*of_view.items(), *of_entity.items()):
            self._named.setdefault(name, held)


def _declared(definitions: Definitions) -> Iterator[Edge]:
    """Every edge that the definitions say."""
    sources = {item.name: item for item in definitions.sources}
    known: dict[str, Node] = {}
    columns: dict[str, Node] = {}
    for view in definitions.views:
        source = sources[view.source]
        for feature in view.features:
            node = known[feature_name(view, feature)] = _feature(view, feature)
            for column, role in columns_used(source, view, feature).items():
                name = f"{source.name}.{column}"
                if name not in columns:
                    columns[name] = Node("column", name, source.owner)
                    yield Edge(_source(source), columns[name])
                yield Edge(columns[name], node, role)
    for item in definitions.on_demand:
        known[f"{item.name}@{item.version}"] = Node(
            "on-demand feature", f"{item.name}@{item.version}", item.owner
        )
    for request in definitions.requests:
        for field in request.fields:
            name = f"{request.name}.{field.name}"
            known[name] = Node("field", name, request.owner)
    for item in definitions.on_demand:
        for each in item.inputs:
            end = known[f"{item.name}@{item.version}"]
            yield Edge(_start(each.reference, known), end, each.parameter)
    for service in definitions.services:
        end = _service(service)
        for output in service.outputs:
            yield Edge(_start(output.reference, known), end, output.name)


def _start(reference: Reference, known: Mapping[str, Node]) -> Node:
    kinds: dict[str, NodeKind] = {"on_demand": "on-demand feature", "request": "field"}
    name = str(reference)
    return known.get(name) or Node(kinds.get(reference.kind, "feature"), name)


def columns_used(source: Source, view: FeatureView, feature: Feature) -> dict[str, str]:
    """The columns that a feature is computed from, by name, and as what each is used."""
    aggregate = feature.aggregate
    roles: dict[str, list[str]] = {}
    if aggregate.value is not None:
        for name in columns_of(aggregate.value):
            roles.setdefault(name, []).append("value")
    if aggregate.where is not None:
        for name in columns_of(aggregate.where):
            roles.setdefault(name, []).append("filter")
    uses = {"key": view.keys, "time": (source.time,), "seen": (source.seen,)}
    for role, names in {**uses, "identity": source.unique}.items():
        for each in names:
            if each:
                roles.setdefault(each, []).append(role)
    return {name: ", ".join(used) for name, used in sorted(roles.items())}


def _source(source: Source) -> Node:
    return Node("source", source.name, source.owner)


def _feature(view: FeatureView, feature: Feature) -> Node:
    return Node("feature", feature_name(view, feature), feature.owner or view.owner)


def _service(service: FeatureService) -> Node:
    return Node("service", service.name, service.owner)


def _reached(
    focus: Iterable[Node], edges: Mapping[Node, list[Edge]], far: Callable[[Edge], Node]
) -> set[Edge]:
    reached: set[Edge] = set()
    seen = set(focus)
    todo = list(seen)
    while todo:
        for edge in edges.get(todo.pop(), ()):
            reached.add(edge)
            if far(edge) not in seen:
                seen.add(far(edge))
                todo.append(far(edge))
    return reached


def _place(node: Node) -> tuple[int, str]:
    return _KINDS.index(node.kind), node.name


def _likely(node: Node) -> tuple[int, str]:
    """What a bare name means where several kinds share it: what people ask about most."""
    return -_KINDS.index(node.kind), node.name


def _tree(graph: Lineage) -> Iterator[str]:
    before: dict[Node, list[tuple[Node, Edge]]] = {}
    after: dict[Node, list[tuple[Node, Edge]]] = {}
    for edge in graph.edges:
        before.setdefault(edge.end, []).append((edge.start, edge))
        after.setdefault(edge.start, []).append((edge.end, edge))
    for node in graph.focus:
        yield f"{node}{_owned(node)}"
        parts = [("comes from", before), ("goes to", after)]
        parts = [(title, edges) for title, edges in parts if edges.get(node)]
        for number, (title, edges) in enumerate(parts, 1):
            last = number == len(parts)
            yield f"{'└── ' if last else '├── '}{title}"
            yield from _branches(node, edges, "    " if last else "│   ", set())


def _branches(
    node: Node, edges: Mapping[Node, list[tuple[Node, Edge]]], indent: str, shown: set[Node]
) -> Iterator[str]:
    """What hangs below a node; a branch that was shown already is not shown again."""
    # Every column comes from its source; its name says so, so once is enough.
    hanging = [
        each for each in edges.get(node, ()) if each[0].kind != "source" or each[0] not in shown
    ]
    for number, (far, edge) in enumerate(hanging, 1):
        last = number == len(hanging)
        again = far in shown and far in edges
        notes = [edge.role] if edge.role else []
        notes += [edge.evidence] if edge.observed else []
        said = f"  as {', '.join(notes)}" if edge.role else f"  {''.join(notes)}".rstrip()
        yield f"{indent}{'└── ' if last else '├── '}{far}{said}{'  (see above)' if again else ''}"
        if not again:
            shown.add(far)
            yield from _branches(far, edges, indent + ("    " if last else "│   "), shown)


def _owned(node: Node) -> str:
    return f"  ({node.owner})" if node.owner else ""


def _dot(graph: Lineage) -> Iterator[str]:
    yield "digraph lineage {"
    yield "  rankdir=LR;"
    for node in graph.nodes:
        bold = ", style=bold" if node in graph.focus else ""
        look = f"label={_quoted(node.name)}, shape={_SHAPES[node.kind][2]}{bold}"
        yield f"  {_quoted(str(node))} [{look}];"
    for edge in graph.edges:
        style = "" if edge.declared else ", style=dashed"
        label = f"label={_quoted(edge.role)}{style}"
        yield f"  {_quoted(str(edge.start))} -> {_quoted(str(edge.end))} [{label}];"
    yield "}"


def _mermaid(graph: Lineage) -> Iterator[str]:
    yield "flowchart LR"
    ids = {node: f"n{number}" for number, node in enumerate(graph.nodes)}
    for node, name in ids.items():
        opening, closing, _ = _SHAPES[node.kind]
        yield f"  {name}{opening}{_quoted(node.name, '#quot;')}{closing}"
    for edge in graph.edges:
        arrow = "-->" if edge.declared else "-.->"
        label = f"|{_quoted(edge.role, '#quot;')}|" if edge.role else ""
        yield f"  {ids[edge.start]} {arrow}{label} {ids[edge.end]}"
    for node in graph.focus:
        yield f"  style {ids[node]} stroke-width:3px"


def _quoted(text: str, quote: str = '\\"') -> str:
    return '"' + text.replace('"', quote) + '"'
