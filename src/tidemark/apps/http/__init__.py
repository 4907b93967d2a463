"""The HTTP service: the read path in front, and everything else behind it.

`docs/reference/http.md` lists the routes, the JSON form of values, limits and metrics.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from functools import partial
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

import msgspec
from msgspec import structs

from tidemark.apps.http.access import Keyless, is_loopback
from tidemark.errors import MissingExtra, RequestInvalid

if TYPE_CHECKING:
    from tidemark.apps.http.service import Service
    from tidemark.store import Config, Store

__all__ = ["TLS", "Limits", "serve"]

GRACE_SECONDS = 30
"""How long requests in flight may take to finish when the service is told to stop."""

STARTING_SECONDS = 60
"""How long a worker may be silent, as while the kernel is compiled for a new machine."""

_OTHER_FILES = 512
"""Open files of a worker that are no connections of callers: stores, logs, libraries."""

_METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one request may ask of the service, and how many may wait.

    `body` is bytes of a read and `events` of a push, `keys` sets of keys and `features` names in a
    request.  `waiting` is how many reads of one worker may be unanswered, `pushes` how many pushes,
    `arriving` how many bodies may be on their way; further ones are told to come again.
    `connections` is how many there may be to one worker: a further one ends the one that has been
    without a request for longest.  `head` is the bytes of a request before its body, `seconds` how
    long each of the two may take to arrive and how long a caller may take nothing of an answer,
    `idle` how long a connection is kept after an answer (a proxy that keeps it longer would ask
    where nobody answers any more), `answer` how long a store on the network, or a large batch, may
    take, and `push` how long a push.  `rate` is how many requests a second a key may make of one
    worker, where it says nothing of its own; 0 is as many as it likes.
    """

    body: int = 1_000_000
    events: int = 4_000_000
    keys: int = 10_000
    features: int = 1_000
    waiting: int = 128
    pushes: int = 64
    arriving: int = 512
    connections: int = 4_096
    head: int = 32_768
    seconds: float = 10.0
    idle: float = 75.0
    answer: float = 3.0
    push: float = 10.0
    rate: float = 0.0


class TLS(msgspec.Struct, frozen=True):
    """The files of the service's own certificate, with its chain, and of its private key."""

    certificate: str
    private_key: str = ""

    def check(self) -> None:
        """Raise `RequestInvalid` if they cannot be used."""
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate, self.private_key or None, password=str)
        except (OSError, ValueError) as error:  # an `SSLError` is an `OSError`
            raise RequestInvalid(
                "The certificate and its private key cannot be used: "
                f"{getattr(error, 'strerror', None) or error}.",
                where=f"{self.certificate} {self.private_key}".rstrip(),
                remedy="They are PEM files that fit each other; the key has no password.",
            ) from None


def serve(
    store: Store,
    *,
    host: str,
    port: int,
    workers: int,
    limits: Limits | None,
    tls: TLS | None,
    behind_proxy: bool,
    started: Callable[[str], object] | None,
) -> None:
    """Answer until told to stop; see `Store.serve`."""
    try:
        import uvicorn

        from tidemark.apps.http.connection import Connection, Workers
        from tidemark.apps.http.renewal import renewing
        from tidemark.apps.http.service import Service
    except ImportError:
        raise MissingExtra("server", "Serving over HTTP") from None
    limits = limits or Limits()
    keyless = _keyless(store, host, tls, behind_proxy=behind_proxy)
    if workers < 1 or (workers > 1 and _in_memory(store.config)):
        raise RequestInvalid(
            f"{workers} workers cannot serve this store.",
            remedy="Workers are 1 or more; a store in memory has one.",
        )
    limits = _with_room_for_connections(limits)
    with _bound(host, port) as bound:
        shown = f"[{host}]" if ":" in host else host
        address = f"http{'s' if tls else ''}://{shown}:{bound.getsockname()[1]}"
        configured = partial(
            uvicorn.Config,
            http=Connection,
            ws="none",
            lifespan="on",
            proxy_headers=False,  # who asks is said by a key, never by a header
            ssl_certfile=tls.certificate if tls else None,
            ssl_keyfile=(tls.private_key or None) if tls else None,
            ssl_context_factory=partial(renewing, tls) if tls else None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=cast("int", limits.idle),  # handed to `call_later`
            timeout_graceful_shutdown=GRACE_SECONDS,
            timeout_worker_healthcheck=STARTING_SECONDS,
        )
        if started is not None:
            started(address)
        if workers == 1:
            with _until_told():
                uvicorn.Server(configured(Service(store, limits, keyless=keyless))).run([bound])
            return
        with _shared_metrics():
            config = configured(
                partial(_worker, store.config, limits, keyless), factory=True, workers=workers
            )
            Workers(config, [bound]).run()


def _worker(config: Config, limits: Limits, keyless: Keyless) -> Service:
    """The service of a worker process, which opens and closes a store of its own."""
    from tidemark.apps.http.service import Service
    from tidemark.store import Store

    store = Store(config)
    return Service(store, limits, keyless=keyless, stopped=store.close)


def _keyless(store: Store, host: str, tls: TLS | None, *, behind_proxy: bool) -> Keyless:
    """Who is answered without a key as long as there is none; see `Access`.

    Raises `RequestInvalid` for an address at which others would be answered, or their keys be read.
    """
    if tls is not None:
        tls.check()
    if is_loopback(host):
        return "anybody" if behind_proxy else "here"
    if not store.registry.keys.list():
        raise RequestInvalid(
            f"The host {host!r} may be reached from other machines, "
            "and nobody would be asked who they are.",
            remedy="Make a key first, `tidemark key create NAME`, or serve on 127.0.0.1.",
        )
    if tls is None and not behind_proxy:
        raise RequestInvalid(
            f"The host {host!r} may be reached from other machines, "
            "and keys could be read on their way.",
            remedy="Give --certificate and --private-key, or --behind-proxy if a proxy in front "
            "speaks TLS and nobody else reaches this address.",
        )
    return "nobody"


def _with_room_for_connections(limits: Limits) -> Limits:
    """The limits, with no more connections than the process may have open files beside others.

    As many as it may ask for: most systems begin with 1,024, for the sake of programs of long ago.
    """
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limits.connections + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        most = max(soft - _OTHER_FILES, soft // 2)
        limits = structs.replace(limits, connections=min(limits.connections, most))
    return limits


def _in_memory(config: Config) -> bool:
    return config.in_memory or config.registry == "sqlite://"


@contextmanager
def _bound(host: str, port: int) -> Generator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        bound = socket.create_server((host, port), family=family, backlog=2_048)
    except (OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise RequestInvalid(
                f"Port {port} of {host} is in use by another program.",
                remedy="Name another port; 0 takes any that is free.",
            ) from None
        why = (error.strerror if isinstance(error, OSError) else str(error)) or "unknown"
        raise RequestInvalid(
            f"Port {port} of {host} cannot be served: {why.rstrip('.')}.",
            remedy="Name another port, or an address of this machine.",
        ) from None
    bound.set_inheritable(True)
    with bound:
        yield bound


@contextmanager
def _until_told() -> Generator[None]:
    """SIGTERM and Ctrl-C end what is inside, and are no errors.

    uvicorn repeats the signal that it stopped for to whoever handled it before.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _shared_metrics() -> Generator[None]:
    """A folder in which workers count together, so that any of them tells the sums."""
    with TemporaryDirectory(prefix="tidemark-metrics-") as folder:
        before: dict[str, Any] = {_METRICS_FOLDER: os.environ.get(_METRICS_FOLDER)}
        os.environ[_METRICS_FOLDER] = folder
        try:
            yield
        finally:
            if before[_METRICS_FOLDER] is None:
                del os.environ[_METRICS_FOLDER]
            else:
                os.environ[_METRICS_FOLDER] = before[_METRICS_FOLDER]
