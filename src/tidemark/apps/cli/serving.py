"""The command that answers over HTTP."""

from __future__ import annotations

import sys

import click

from tidemark.apps.cli.shell import Command, open_store, show


@click.command(cls=Command)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to answer at.")
@click.option(
    "--port",
    default=6566,
    type=click.IntRange(0, 65_535),
    show_default=True,
    help="The port; 0 is any that is free.",
)
@click.option("--workers", default=1, show_default=True, help="How many processes answer.")
@click.option(
    "--max-keys", default=10_000, show_default=True, help="Most sets of keys in a request."
)
@click.option(
    "--max-body", default=1_000_000, show_default=True, help="Largest body of a read, in bytes."
)
@click.option(
    "--max-push", default=4_000_000, show_default=True, help="Largest body of a push, in bytes."
)
@click.option(
    "--max-waiting",
    default=128,
    show_default=True,
    help="Requests that may wait in a worker; others are answered 503.",
)
@click.option("--rate", default=0.0, help="Requests a second of each key to a worker; 0: any.")
@click.option("--certificate", metavar="FILE", help="For HTTPS: the certificate and its chain.")
@click.option("--private-key", metavar="FILE", help="Its private key, if that is another file.")
@click.option("--behind-proxy", is_flag=True, help="Only a proxy that speaks TLS reaches it.")
def serve(
    host: str,
    port: int,
    workers: int,
    max_keys: int,
    max_body: int,
    max_push: int,
    max_waiting: int,
    rate: float,
    certificate: str | None,
    private_key: str | None,
    behind_proxy: bool,
) -> None:
    """Serve feature vectors over HTTP, and take events.

    Until it is told to stop; then requests in flight are finished.  Other machines are answered
    only if there are keys: tidemark key create.
    """
    from tidemark.apps.http import TLS, Limits

    if private_key and not certificate:
        raise click.UsageError("--private-key is that of a --certificate.")
    limits = Limits(keys=max_keys, body=max_body, events=max_push, waiting=max_waiting, rate=rate)
    with open_store() as store:
        store.serve(
            host=host,
            port=port,
            workers=workers,
            limits=limits,
            tls=TLS(certificate, private_key or "") if certificate else None,
            behind_proxy=behind_proxy,
            started=_tell,
        )


def _tell(address: str) -> None:
    show(f"Serving at {address}", {"address": address})
    sys.stdout.flush()  # whoever started it through a pipe waits for this line
