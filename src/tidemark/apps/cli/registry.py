"""Commands about what the registry keeps: history, lives of features, models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tidemark.apps.cli.shell import Command, Group, open_store, show

if TYPE_CHECKING:
    from tidemark.model.records import ModelStage


@click.command(cls=Command)
@click.option(
    "--limit",
    default=20,
    type=click.IntRange(min=1),
    show_default=True,
    help="How many of the newest to show.",
)
@click.option("--verify", is_flag=True, help="Check that no revision was altered.")
def log(limit: int, verify: bool) -> None:
    """List the revisions, newest first.

    With --verify, every revision is compared with its digest and with the one before; exits
    with 1 if one is not what was applied.
    """
    with open_store() as store:
        checked = store.registry.verify() if verify else None
        revisions = store.registry.log(limit)
    lines = [
        f"r{each.revision:<5} {each.to_dict()['at']}  {each.author:<12} {each.reason}".rstrip()
        for each in revisions
    ]
    if checked is not None:
        lines.append(f"{checked} revisions, each as it was applied.")
    facts = {"revisions": [each.to_dict() for each in revisions], "verified": checked}
    show("\n".join(lines) or "There is no revision yet.", facts)


@click.command(cls=Command)
@click.argument("before", metavar="REVISION")
@click.argument("after", metavar="[REVISION]", required=False)
def diff(before: str, after: str | None) -> None:
    """Show what changed between two revisions.

    REVISION is r12, or a moment; the second is the one in force if left out.
    """
    from tidemark.registry.rendering import changes

    with open_store() as store:
        found = store.registry.diff(before, after)
    facts = [{**_facts(each), "class": each.category} for each in found]
    show(changes(found), {"changes": facts})


@click.command(cls=Command)
@click.argument("ref")
@click.option("--replacement", default="", metavar="REF", help="What to read instead.")
@click.option("--sunset", default="", metavar="DATE", help="When it may end, as 2027-01-31.")
@click.option("--reason", default="", help="Why.")
def deprecate(ref: str, replacement: str, sunset: str, reason: str) -> None:
    """Warn whoever reads a feature that it will end.

    It serves on; each process that reads it is warned once.
    """
    with open_store() as store:
        store.registry.deprecate(ref, replacement=replacement, sunset=sunset, reason=reason)
    show(f"{ref} is deprecated.", {"feature": ref, "stage": "deprecated"})


@click.command(cls=Command)
@click.argument("ref")
@click.option("--replacement", default="", metavar="REF", help="What to read instead.")
@click.option("--reason", default="", help="Why.")
@click.option(
    "--unread-for",
    default="7d",
    show_default=True,
    metavar="DURATION",
    help="How long nobody may have read it; none does not ask.",
)
def retire(ref: str, replacement: str, reason: str, unread_for: str) -> None:
    """End a feature that nothing uses any more.

    It serves no more; exits with 12 while a service, an on-demand feature or a model uses it, or
    if it was read lately.
    """
    unread = None if unread_for == "none" else unread_for
    with open_store() as store:
        store.registry.retire(ref, replacement=replacement, reason=reason, unread_for=unread)
    show(f"{ref} is retired.", {"feature": ref, "stage": "retired"})


@click.command(cls=Command)
@click.argument("ref")
def publish(ref: str) -> None:
    """Publish a draft.

    Takes a deprecation back as well, and lets a retired feature be defined again.
    """
    with open_store() as store:
        store.registry.publish(ref)
    show(f"{ref} is published.", {"feature": ref, "stage": "published"})


@click.group(cls=Group)
def model() -> None:
    """Models and the feature versions that they are pinned to."""


@model.command("register", cls=Command)
@click.argument("name")
@click.argument("version", type=int)
@click.option("--service", required=True, metavar="SERVICE", help="What it reads.")
@click.option("--dataset", metavar="NAME", help="The dataset that it was trained on.")
@click.option("--owner", default="", help="Who confirms plans for it; you, if left out.")
@click.option(
    "--stage",
    type=click.Choice(["development", "production", "retired"]),
    default="production",
    show_default=True,
    help="Where it is in its life.",
)
def register(
    name: str, version: int, service: str, dataset: str | None, owner: str, stage: ModelStage
) -> None:
    """Pin a model to the feature versions that a service reads now.

    The same version again may say another owner, dataset or stage, but never other features.
    """
    with open_store() as store:
        made = store.registry.register_model(
            name, version, service=service, dataset=dataset, owner=owner, stage=stage
        )
    pins = [f"  {each.name} = {each.reference}" for each in made.outputs]
    show("\n".join([f"{made.reference} reads:", *pins]), _facts(made))


@model.command("list", cls=Command)
def list_() -> None:
    """List the models that are registered."""
    with open_store() as store:
        models = store.registry.snapshot().models
    width = max((len(each.reference) for each in models), default=0)
    lines = [
        f"{each.reference:<{width}}  {each.stage}  {each.service}  {each.owner}".rstrip()
        for each in models
    ]
    show(
        "\n".join(lines) or "There is no model; tidemark model register pins one.",
        {"models": [_facts(each) for each in models]},
    )


def _facts(item: object) -> dict[str, object]:
    import msgspec

    facts: dict[str, object] = msgspec.to_builtins(item)
    return facts


COMMANDS = (log, diff, deprecate, retire, publish, model)
