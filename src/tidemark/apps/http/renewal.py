"""The service's own certificate, as its files have it when somebody connects."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tidemark.errors import RequestInvalid

if TYPE_CHECKING:
    from tidemark.apps.http import TLS

_log = logging.getLogger("tidemark.http")


def renewing(tls: TLS, _config: object, make: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """What encrypts connections, each with the certificate that is in its files by then.

    Connections that are open keep theirs.  Files that cannot be used, as while they are written,
    change nothing, and the log says so once.
    """
    known = _Certificate(tls, make)
    known.current.sni_callback = known.choose
    return known.current


class _Certificate:
    """`current` is what was read of the files last that could be used."""

    def __init__(self, tls: TLS, make: Callable[[], ssl.SSLContext]) -> None:
        self._tls, self._make = tls, make
        self._seen = self._stamps()
        self.current = self._read()

    def choose(
        self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext
    ) -> None:
        """Give a connection that begins the certificate; read it again if its files are others."""
        stamps = self._stamps()
        if stamps != self._seen:
            self._seen = stamps
            try:
                self.current = self._read()
            except (RequestInvalid, OSError, ValueError) as error:
                _log.error("the renewed certificate is not used, the last one is: %s", error)
            else:
                _log.info("the renewed certificate %s is used", self._tls.certificate)
        connection.context = self.current

    def _read(self) -> ssl.SSLContext:
        self._tls.check()  # it does not ask for a password
        context = self._make()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    def _stamps(self) -> list[tuple[int, int, int] | None]:
        """What differs when a file has been written, or another one is in its place."""
        return [_stamp(name) for name in (self._tls.certificate, self._tls.private_key) if name]


def _stamp(name: str) -> tuple[int, int, int] | None:
    try:
        found = Path(name).stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
