"""Commands about keys: who may ask the service."""

from __future__ import annotations

import click

from tidemark.apps.cli.shell import Command, Group, open_store, show


@click.group(cls=Group)
def key() -> None:
    """Make, list and revoke keys of the HTTP service."""


@key.command(cls=Command)
@click.argument("name")
@click.option(
    "--scope",
    "actions",
    multiple=True,
    default=("read",),
    show_default=True,
    type=click.Choice(["read", "push", "metrics", "admin"]),
    help="What it allows; may be given several times.",
)
@click.option("--service", "services", multiple=True, metavar="NAME", help="Only this service.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Only what has this tag.")
@click.option("--expires", metavar="WHEN", help="Such as 90d, or a moment; never if left out.")
@click.option("--rate", default=0.0, help="Requests a second; what the server says if left out.")
@click.option("--owner", default="", help="Who answers for it; you, if left out.")
@click.option("--reason", default="", help="Why.")
def create(
    name: str,
    actions: tuple[str, ...],
    services: tuple[str, ...],
    tags: tuple[str, ...],
    expires: str | None,
    rate: float,
    owner: str,
    reason: str,
) -> None:
    """Make a key and print it, once.

    As soon as there is one, the service answers nobody without.  NAME says whose it is; it is
    never used again.
    """
    from tidemark.registry.keys import told

    with open_store() as store:
        made = store.registry.keys.create(
            name,
            actions,
            services=services,
            tags=tags,
            expires=expires,
            rate=rate,
            owner=owner,
            reason=reason,
        )
    lines = [made.secret, "", "It cannot be shown again.  Send it with each request:"]
    lines.append(f"  Authorization: Bearer {made.secret}")
    lines += ["", made.hint] if made.hint else []
    show("\n".join(lines), {"key": made.secret, "hint": made.hint, **told(made.key)})


@key.command("list", cls=Command)
def list_() -> None:
    """List all keys there ever were."""
    from tidemark.registry.keys import told

    with open_store() as store:
        keys = [told(each) for each in store.registry.keys.list()]
    width = max((len(each["name"]) for each in keys), default=0)
    lines = [
        f"{each['name']:<{width}}  {each['status']:<7}  {','.join(each['actions'])}"
        f"{_limits(each['services'], each['tags'])}"
        f"  {'until ' + each['expires'] if each['expires'] else 'for good'}  {each['owner']}"
        for each in keys
    ]
    nobody = "There is no key: the service answers everybody on this machine, and nobody else."
    show("\n".join(lines) or nobody, {"keys": keys})


@key.command(cls=Command)
@click.argument("name")
@click.option("--reason", default="", help="Why.")
def revoke(name: str, reason: str) -> None:
    """End a key for good.

    Every server refuses it within seconds.
    """
    from tidemark.registry.keys import told

    with open_store() as store:
        revoked = store.registry.keys.revoke(name, reason=reason)
    show(f"{name} is revoked.", told(revoked))


def _limits(services: list[str], tags: list[str]) -> str:
    said = [*services, *(f"#{tag}" for tag in tags)]
    return f" of {', '.join(said)}" if said else ""
