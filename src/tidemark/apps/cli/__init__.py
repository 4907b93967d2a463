"""The command line; `docs/reference/cli.md` lists commands and exit codes.

Everything heavy is imported inside the commands, so that help is instant.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import tidemark
from tidemark.apps.cli import dataset, observing, planning, pushing, registry, running
from tidemark.apps.cli.key import key
from tidemark.apps.cli.serving import serve
from tidemark.apps.cli.shell import (
    ERROR,
    Command,
    Group,
    open_store,
    project,
    show,
)
from tidemark.apps.cli.streaming import stream
from tidemark.apps.cli.watching import freshness

if TYPE_CHECKING:
    from tidemark.model.lineage import Direction, Format


SECTIONS: Mapping[str, tuple[str, ...]] = {
    "Begin": ("init", "doctor"),
    "Define": ("plan", "apply", "describe", "search", "duplicates", "lineage"),
    "Train": ("train", "dataset"),
    "Serve": ("materialize", "online", "serve", "key"),
    "Live events": ("push", "stream", "dead-letters", "catch-up", "compact", "retain"),
    "Watch": ("freshness", "served", "explain", "audit", "run"),
    "Change over time": (
        "log", "diff", "revert", "model", "confirm", "deprecate", "retire", "publish",
    ),
}  # fmt: skip
"""All commands, in the order in which a project comes to need them."""


class Sections(Group):
    """The commands by what they are for."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one list for each section, all as wide."""
        width = max(map(len, self.list_commands(ctx)))
        limit = formatter.width - 6 - width
        for title, names in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(
                    [(name.ljust(width), self.commands[name].get_short_help_str(limit))
                     for name in names]
                )  # fmt: skip


@click.group(
    cls=Sections, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 88}
)
@click.version_option(tidemark.__version__, prog_name="tidemark")
def main() -> None:
    """Features defined once, computed in training and in serving with the same code.

    Commands work on the project of the nearest tidemark.toml; --project names another.
    """


@main.command(cls=Command)
@click.argument("path", default=".", type=click.Path(file_okay=False))
@click.option(
    "--template",
    default="fraud",
    show_default=True,
    metavar="NAME",
    help="fraud: train and serve.  recommender: live events too, and a line for a prompt.",
)
def init(path: str, template: str) -> None:
    """Make an example project.

    It works as it is: definitions, small generated data, labels, a test.
    """
    from tidemark.apps.cli.example import create

    made = create(Path(path), template)
    lines = [f"Made a project in {path}:", *(f"  {name}" for name in made.files), "", "Next:"]
    steps = made.commands if path == "." else (f"cd {path}", *made.commands)
    show(
        "\n".join([*lines, *(f"  {step}" for step in steps)]), {"files": made.files, "next": steps}
    )


@main.command(cls=Command)
@click.argument("service")
@click.option("--key", "keys", multiple=True, metavar="NAME=VALUE", help="An entity key.")
@click.option("--request", multiple=True, metavar="NAME=VALUE", help="A request value.")
@click.option("--at", metavar="MOMENT", help="The moment asked for; now if left out.")
def online(service: str, keys: tuple[str, ...], request: tuple[str, ...], at: str | None) -> None:
    """Read the feature vector of one entity.

    SERVICE is a service, one feature (view:feature) or a model (model:fraud@3).  Values are read
    by their declared types; an empty value of anything but text is null.
    """
    from tidemark.apps.cli.values import key_types, parse_pairs, request_types
    from tidemark.store import reading

    with open_store() as store:
        snapshot = store.registry.snapshot()
        definitions, records = snapshot.definitions, snapshot.records
        outputs = reading.outputs(reading.named(service, records), definitions, records)
        vector = store.online(
            service,
            parse_pairs(keys, key_types(definitions, outputs), "key"),
            request=parse_pairs(request, request_types(definitions, outputs), "request") or None,
            at=at,
        )
    facts: dict[str, Any] = {}
    for name, value in vector.items():
        age = vector.age(name)
        facts[name] = {"value": value, "status": str(vector.status(name))}
        facts[name]["age_seconds"] = None if age is None else age.total_seconds()
    show(repr(vector), facts)


@main.command(cls=Command)
@click.argument("ref", required=False)
@click.option("--as-of", metavar="REVISION", help="As of r12, or of a moment.")
def describe(ref: str | None, as_of: str | None) -> None:
    """Tell what a definition means, or what is in force.

    REF is the name of an entity, a source, a view, a feature (view:feature, view:feature@2), a
    request, an on-demand feature, a service or a model (model:fraud@3); everything if left out.
    """
    with open_store() as store:
        facts = store.describe(ref, as_of=as_of)
    show(repr(facts), facts)


@main.command(cls=Command)
@click.argument("words", nargs=-1)
@click.option("--entity", help="Features of this entity only.")
@click.option("--owner", help="Of this owner only.")
@click.option("--tag", help="With this tag only.")
@click.option("--type", help="Values of this type only, such as int64.")
@click.option("--source", help="From this source only.")
@click.option("--kind", help="Of this kind only, such as feature or source.")
@click.option(
    "--limit",
    default=10,
    type=click.IntRange(min=1),
    show_default=True,
    help="How many to show.",
)
@click.option("--as-of", metavar="REVISION", help="As of r12, or of a moment.")
def search(words: tuple[str, ...], **filters: Any) -> None:
    """Find features and what they are made of.

    WORDS are looked for in names, descriptions, tags, entities, columns, owners and meanings;
    without any, everything is listed, most used first.
    """
    with open_store() as store:
        results = store.registry.search(" ".join(words), **filters)
    show(str(results), results.to_dict())


@main.command(cls=Command)
@click.option("--values", is_flag=True, help="Compare values on a sample of entities as well.")
@click.option("--entities", default=200, show_default=True, help="How many entities to sample.")
@click.option(
    "--least", default=0.95, show_default=True, help="The share of equal values to tell of."
)
def duplicates(values: bool, entities: int, least: float) -> None:
    """List features that mean the same, or nearly so.

    Near ones are told with what differs between them.
    """
    with open_store() as store:
        twins = store.registry.duplicates()
        agreeing = store.registry.value_twins(entities=entities, least=least) if values else ()
    found = [*map(str, twins), *map(str, agreeing)]
    facts = {"twins": twins, "by_value": agreeing} if values else {"twins": twins}
    show("\n".join(found) or "No two features mean the same, or nearly so.", facts)


@main.command(cls=Command)
@click.argument("ref")
@click.option("--upstream", is_flag=True, help="Only what it comes from.")
@click.option("--downstream", is_flag=True, help="Only what it goes to.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "dot", "mermaid"]),
    default="text",
    show_default=True,
    help="A tree, JSON, or a drawing for Graphviz or Mermaid.",
)
def lineage(ref: str, upstream: bool, downstream: bool, form: Format) -> None:
    """Show what something comes from and where it goes.

    REF is a source, a column (source.column), an entity, a view, a feature (view:feature), a
    request, an on-demand feature or a service.
    """
    direction: Direction = "both"
    if upstream != downstream:
        direction = "upstream" if upstream else "downstream"
    with open_store() as store:
        found = store.registry.lineage(ref, direction)
    show(found.render(form), found.to_dict())


@main.command(cls=Command)
def doctor() -> None:
    """Check what is installed and what can be reached.

    Exits with 1 if something is wrong.
    """
    from tidemark.apps.cli.doctor import examine

    found = examine(project())
    show(found.text(), found.to_dict())
    if not found.healthy:
        raise SystemExit(ERROR)


for command in (
    *planning.COMMANDS,
    *registry.COMMANDS,
    *dataset.COMMANDS,
    *pushing.COMMANDS,
    *observing.COMMANDS,
    *running.COMMANDS,
    freshness,
    key,
    serve,
    stream,
):
    main.add_command(command)
