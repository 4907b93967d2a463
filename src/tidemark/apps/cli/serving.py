"""The command that answers over HTTP."""

from __future__ import annotations

import sys

import click

from tidemark.apps.cli.shell import Command, open_store, show


@click.command(cls=Command)
@click.option("--host", default="127.0.0.1", show_default=True, help="A loopback address.")
@click.option("--port", default=6566, show_default=True, help="The port; 0 is any that is free.")
@click.option("--workers", default=1, show_default=True, help="How many processes answer.")
@click.option("--max-keys", default=10_000, show_default=True, help="Sets of keys in a request.")
@click.option("--max-body", default=1_000_000, show_default=True, help="Bytes in a request.")
@click.option(
    "--max-waiting",
    default=128,
    show_default=True,
    help="Requests that may wait in a worker; others are answered 503.",
)
def serve(
    host: str, port: int, workers: int, max_keys: int, max_body: int, max_waiting: int
) -> None:
    """Answer over HTTP.

    Until it is told to stop; then requests in flight are finished.
    """
    from tidemark.apps.http import Limits

    limits = Limits(keys=max_keys, body=max_body, waiting=max_waiting)
    with open_store() as store:
        store.serve(
            host=host,
            port=port,
            workers=workers,
            limits=limits,
            started=_tell,
        )


def _tell(address: str) -> None:
    show(f"Serving at {address}", {"address": address})
    sys.stdout.flush()  # whoever started it through a pipe waits for this line
