"""Where a Redis is, as its URL says it; passwords come in here and never go out in a message."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

from tidemark.errors import DefinitionError, NotFound

_FORMS = """\
redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]
rediss://... is the same with TLS
redis+sentinel://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]...]/SERVICE[/DATABASE]
redis+cluster://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]...]
Write characters such as @ / ? # in a password as %40 %2F %3F %23."""

_URL = re.compile(
    r"(?:(?P<scheme>rediss?)|(?P<cluster>rediss?\+cluster)|(?P<sentinel>rediss?\+sentinel))://"
    r"(?:(?P<user>[^:@/?#]*)(?::(?P<password>[^@/?#]*))?@)?(?P<hosts>[^@/?#]+)"
    r"(?(sentinel)/(?P<service>[^@/?#]+))(?(cluster)/?|(?:/(?P<database>\d{0,5}))?)"
    r"(?:\?(?P<query>[^@#]*))?"
)
_TIMEOUTS = ("connect_timeout", "read_timeout")
_CERTIFICATES = ("ca_certs", "certfile", "keyfile")


@dataclass(frozen=True)
class Address:
    """One Redis; the Sentinels that know where it is (`service` is its name with them); a cluster.

    Timeouts are seconds.  `tls` has the settings of an encrypted connection; empty without it.
    """

    scheme: str
    hosts: tuple[tuple[str, int], ...]
    service: str
    database: int
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    connect_timeout: float = 1.0
    read_timeout: float = 1.0
    tls: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def cluster(self) -> bool:
        """Whether the hosts are nodes of a Redis Cluster, some of them at least."""
        return self.scheme.endswith("+cluster")

    @property
    def name(self) -> str:
        """The URL without what is secret or usual."""
        hosts = ",".join(f"[{h}]:{p}" if ":" in h else f"{h}:{p}" for h, p in self.hosts)
        if self.cluster:
            return f"{self.scheme}://{hosts}"
        service = f"{self.service}/" if self.service else ""
        return f"{self.scheme}://{hosts}/{service}{self.database}"

    @classmethod
    def of(cls, url: str) -> Address:
        """Read a URL; raises `DefinitionError` or `NotFound` without showing what it holds."""
        found = _URL.fullmatch(url)
        if found is None or (found["scheme"] and "," in found["hosts"]):
            raise _unreadable("The address of a Redis cannot be read.")
        usual = 6379 if found["service"] is None else 26379
        return cls(
            found["scheme"] or found["cluster"] or found["sentinel"],
            tuple(_host(each, usual) for each in found["hosts"].split(",")),
            unquote(found["service"] or ""),
            int(found["database"] or 0),
            unquote(found["user"] or "") or None,
            unquote(found["password"] or "") or None,
            **_settings(found["query"] or "", encrypted=url.startswith("rediss")),
        )


def redacted(url: str) -> str:
    """A URL of any kind, without the user and password in it."""
    return re.sub(r"//.*@", "//...@", url)


def _host(text: str, usual: int) -> tuple[str, int]:
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:]+))(?::(\d{1,5}))?", text)
    if found is None:
        raise _unreadable("The host in the address of a Redis cannot be read.")
    return found[1] or found[2], int(found[3] or usual)


def _settings(query: str, *, encrypted: bool) -> dict[str, Any]:
    known = (*_TIMEOUTS, *_CERTIFICATES) if encrypted else _TIMEOUTS
    settings: dict[str, Any] = {}
    tls: dict[str, Any] = {"ssl": True, "ssl_check_hostname": True} if encrypted else {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            raise NotFound.named("setting of a Redis address", name, known)
        if name in _CERTIFICATES:
            tls[f"ssl_{name}"] = value
        elif re.fullmatch(r"\d*\.?\d+", value) and float(value) > 0:
            settings[name] = float(value)
        else:
            raise _unreadable(f"{name} is a number of seconds, such as 0.5.")
    return {**settings, "tls": tls}


def _unreadable(what: str) -> DefinitionError:
    return DefinitionError(what, where="online = ...", remedy=_FORMS)
