"""What the HTTP service does not let itself be drawn into: strangers, eavesdroppers, stallers."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.spec.http_server import (  # skips where the extra is not installed
    Direct,
    Server,
    again,
    limits,
    serving,
)
from tests.spec.served import make_project

import tidemark as tm
from tidemark.apps.http import TLS, following
from tidemark.apps.http.service import Service
from tidemark.client import Client
from tidemark.errors import RequestInvalid, StoreUnavailable

READ, KEYS = "/v1/services/everything/online", {"keys": {"user_id": "ada"}}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose service nobody needs a key for."""
    return make_project(tmp_path_factory.mktemp("open"))


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A project with a key."""
    folder = make_project(tmp_path_factory.mktemp("closed"))
    with tm.connect(folder) as store:
        return folder, store.registry.keys.create("app").secret


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> TLS:
    """A certificate of this machine, signed by itself."""
    if shutil.which("openssl") is None and os.environ.get("CI") != "true":
        pytest.skip("openssl is not installed")
    return made(tmp_path_factory.mktemp("tls"))


def made(folder: Path) -> TLS:
    files = TLS(str(folder / "certificate.pem"), str(folder / "key.pem"))
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost "
        "-addext subjectAltName=IP:127.0.0.1,DNS:localhost"
    )
    subprocess.run(
        [*command.split(), "-out", files.certificate, "-keyout", files.private_key],
        check=True, capture_output=True,
    )  # fmt: skip
    return files


def place(files: TLS, used: TLS) -> None:
    """Put files where others are, as a tool does that renews them."""
    for source, target in zip(
        (files.certificate, files.private_key), (used.certificate, used.private_key), strict=True
    ):
        shutil.copy(source, target + ".new")
        Path(target + ".new").replace(target)


def connected(port: int, trusted: TLS) -> ssl.SSLSocket:
    """A connection to a server that shows this certificate."""
    trusting = ssl.create_default_context(cafile=trusted.certificate)
    connection = socket.create_connection(("127.0.0.1", port), timeout=300)
    try:
        return trusting.wrap_socket(connection, server_hostname="localhost")
    except ssl.SSLError:
        connection.close()
        raise


class TestAddresses:
    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", ""])  # noqa: S104
    def test_strangers_without_keys(self, project: Path, host: str, certificate: TLS) -> None:
        """Nobody would be asked who they are, however well it is encrypted."""
        with (
            tm.connect(project) as store,
            pytest.raises(RequestInvalid, match="nobody would be asked who they are"),
        ):
            store.serve(host=host, tls=certificate, behind_proxy=True)

    def test_keys_in_the_clear(self, closed: tuple[Path, str]) -> None:
        """They would be read by whoever is in between."""
        with (
            tm.connect(closed[0]) as store,
            pytest.raises(RequestInvalid, match="keys could be read on their way"),
        ):
            store.serve(host="0.0.0.0")  # noqa: S104

    def test_behind_a_proxy(self, closed: tuple[Path, str]) -> None:
        """It is said aloud; then any address may be served, and keys are asked for."""
        folder, secret = closed
        with serving(folder, "--host", "0.0.0.0", "--behind-proxy") as server:  # noqa: S104
            header = {"Authorization": f"Bearer {secret}", "Host": "features.acme.com"}
            assert server.ask("POST", READ, KEYS, **header)[0] == 200
            assert server.ask("POST", READ, KEYS)[0] == 401

    def test_a_proxy_that_asks_who_they_are(self, project: Path) -> None:
        """On this machine, without keys, its own name of the service is taken."""
        with serving(project, "--behind-proxy") as server:
            assert server.ask("POST", READ, KEYS, Host="features.acme.com")[0] == 200

    def test_without_keys_a_far_address_answers_nobody(self, project: Path) -> None:
        """Should the registry be replaced by one without keys, the service closes."""
        with tm.connect(project) as store:
            service = Service(store, limits(), keyless="nobody")
            service.access.refresh()
            assert Direct(service).ask("POST", READ, KEYS)[0] == 401


class TestTLS:
    @pytest.mark.parametrize("workers", ["1", "2"])
    def test_encrypted(self, closed: tuple[Path, str], certificate: TLS, workers: str) -> None:
        """The address says so, and the client checks the certificate."""
        folder, secret = closed
        options = ("--certificate", certificate.certificate)
        options += ("--private-key", certificate.private_key, "--workers", workers)
        trusting = ssl.create_default_context(cafile=certificate.certificate)
        with serving(folder, "--host", "0.0.0.0", *options) as server:  # noqa: S104
            assert server.address.startswith("https://")
            url = f"https://127.0.0.1:{server.port}"
            with Client(url, key=secret, timeout=300, ssl_context=trusting) as client:
                assert client.services()
            with (
                Client(url, key=secret, retries=0, timeout=300) as client,
                pytest.raises(StoreUnavailable, match="CERTIFICATE_VERIFY_FAILED"),
            ):
                client.services()

    def test_a_renewed_certificate(
        self, closed: tuple[Path, str], certificate: TLS, tmp_path: Path
    ) -> None:
        """Who connects is shown what is in the files, or was before they could not be used."""
        first, second = certificate, made(tmp_path)
        used = TLS(str(tmp_path / "used.pem"), str(tmp_path / "used.key"))
        place(first, used)
        options = ("--certificate", used.certificate, "--private-key", used.private_key)
        with serving(closed[0], *options) as server:
            with connected(server.port, first) as before:
                place(second, used)
                connected(server.port, second).close()
                with pytest.raises(ssl.SSLCertVerificationError):
                    connected(server.port, first)
                before.sendall(b"GET /healthz HTTP/1.1\r\nhost: here\r\n\r\n")
                assert before.recv(12) == b"HTTP/1.1 200"
            Path(used.private_key).write_text("half of a k", "utf-8")
            connected(server.port, second).close()
            Path(used.certificate).unlink()
            connected(server.port, second).close()
            place(first, used)
            connected(server.port, first).close()
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(timeout=300)
            said = server.process.stderr.read()
        assert "the renewed certificate is not used, the last one is" in said
        assert used.certificate in said

    def test_old_protocols(self, closed: tuple[Path, str], certificate: TLS) -> None:
        """Below TLS 1.2 nobody is spoken with."""
        options = ("--certificate", certificate.certificate)
        options += ("--private-key", certificate.private_key)
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        with (
            serving(closed[0], *options) as server,
            socket.create_connection(("127.0.0.1", server.port), timeout=300) as connection,
            pytest.raises((ssl.SSLError, ConnectionError)),
        ):
            old.wrap_socket(connection)

    def test_files_that_do_not_fit(self, project: Path, certificate: TLS) -> None:
        """Told before anything is served."""
        for files in (
            TLS("/nowhere.pem"),
            TLS(certificate.private_key, certificate.certificate),
            TLS(certificate.certificate),
        ):
            with (
                tm.connect(project) as store,
                pytest.raises(RequestInvalid, match="cannot be used"),
            ):
                store.serve(tls=files)


def raw(server: Server, *parts: bytes) -> tuple[int, dict[str, Any]]:
    """The status and the problem that a connection is answered with; what it sends is cut off."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=300) as connection:
        try:
            for part in parts:
                connection.sendall(part)
        except ConnectionError:
            pass
        status, body = answered(connection)
        return status, json.loads(body)


def answered(connection: socket.socket) -> tuple[int, bytes]:
    response = http.client.HTTPResponse(connection)
    with response:
        response.begin()
        return response.status, response.read()


@pytest.fixture(scope="module")
def hasty(project: Path) -> Iterator[Server]:
    """A server that waits a quarter of a second for what a caller sends."""
    with serving(project, seconds=0.25) as server:
        yield server


@pytest.fixture(scope="module")
def patient(project: Path) -> Iterator[Server]:
    """A server that waits for whoever is held up."""
    with serving(project) as server:
        yield server


class TestHeads:
    def test_a_head_that_is_too_large(self, patient: Server) -> None:
        """One long header, many short ones, a long path, or one that never ends."""
        start = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
        for parts in (
            (start + b"X: " + b"a" * 40_000 + b"\r\n\r\n",),
            (start + b"X: a\r\n" * 20_000 + b"\r\n",),
            (b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n\r\n",),
            (start, *(b"X: " + b"a" * 5_000 + b"\r\n" for _ in range(10))),
        ):
            status, body = raw(patient, *parts)
            assert (status, body["status"], body["slug"]) == (431, 431, "request-invalid")

    def test_large_bodies_are_no_heads(self, patient: Server) -> None:
        """What follows the head is bounded by a limit of its own."""
        body = json.dumps({"keys": {"user_id": ["ada"] * 9_000}}).encode()
        assert patient.post(READ, body)[0] == 200

    def test_a_head_that_never_ends(self, hasty: Server) -> None:
        """A caller who stalls is told so, and the connection is closed."""
        head = b"GET /healthz HTTP/1.1\r\nHost: loc"
        assert again(lambda: raw(hasty, head))[0] == 408

    def test_a_body_that_never_ends(self, hasty: Server) -> None:
        """Likewise."""
        head = f"POST {READ} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{{"
        assert again(lambda: raw(hasty, head.encode()))[0] == 408

    def test_a_connection_that_says_nothing(self, hasty: Server) -> None:
        """One that is kept in reserve is closed without a word."""
        with socket.create_connection(("127.0.0.1", hasty.port), timeout=300) as connection:
            assert connection.recv(1) == b""

    @pytest.mark.parametrize(
        "sent",
        [
            b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"\r\n\r\nnonsense\r\n\r\n",
            b"GET /healthz HTTP/9.9\r\n\r\n", b"GET /healthz HTTP/1.1\r\nA b: c\r\n\r\n",
            b"POST /healthz HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"POST /healthz HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            b"POST /healthz HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
            b"GET \x00 HTTP/1.1\r\n\r\n",
        ],
    )  # fmt: skip
    def test_what_is_no_http(self, patient: Server, sent: bytes) -> None:
        """It is refused, and told as every other problem."""
        status, body = raw(patient, sent)
        assert (status, body["slug"], body["detail"]) == (
            400, "request-invalid", "This is no HTTP.",
        )  # fmt: skip

    def test_a_connection_is_used_again_and_again(self, patient: Server) -> None:
        """Heads after the first one are bounded alike."""
        with socket.create_connection(("127.0.0.1", patient.port), timeout=300) as connection:
            good = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
            for _ in range(3):
                connection.sendall(good)
                assert answered(connection) == (200, b'{"status":"ok"}')
            connection.sendall(good[:-4] + b"\r\nX: " + b"a" * 40_000 + b"\r\n\r\n")
            assert answered(connection)[0] == 431


class TestConnections:
    """How reads come over a connection, and how their answers leave."""

    HEAD = (
        b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\nX-Request-Id: %s\r\n%s\r\n"
    )

    def head(self, body: bytes, name: bytes, *more: bytes) -> bytes:
        return self.HEAD % (READ.encode(), len(body), name, b"".join(more))

    def test_reads_that_are_sent_at_once_are_answered_in_their_order(self, patient: Server) -> None:
        """Of one connection, each with its own id, the refused ones among them."""
        body, wrong = json.dumps(KEYS).encode(), b"{}"
        with socket.create_connection(("127.0.0.1", patient.port), timeout=300) as connection:
            connection.sendall(
                self.head(body, b"r1") + body
                + self.head(wrong, b"r2") + wrong
                + self.head(body, b"r3", b"Connection: close\r\n") + body
            )  # fmt: skip
            told = b"".join(iter(lambda: connection.recv(65_536), b""))
        places = [told.index(b"x-request-id: r%d\r\n" % number) for number in (1, 2, 3)]
        assert places == sorted(places)
        assert re.findall(rb"HTTP/1.1 (\d+)", told) == [b"200", b"422", b"200"]

    def test_a_caller_who_wants_one_answer_is_hung_up_on(self, patient: Server) -> None:
        """And is told so; so is one who speaks HTTP/1.0."""
        body = json.dumps(KEYS).encode()
        closing = self.head(body, b"r1", b"Connection: close\r\n")
        for head in (closing, self.head(body, b"r2").replace(b"HTTP/1.1", b"HTTP/1.0")):
            with socket.create_connection(("127.0.0.1", patient.port), timeout=300) as connection:
                connection.sendall(head + body)
                told = b"".join(iter(lambda: connection.recv(65_536), b""))
            assert told.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"\r\nconnection: close\r\n" in told
            assert json.loads(told.partition(b"\r\n\r\n")[2])["values"]

    def test_a_body_that_waits_to_be_asked_for(self, patient: Server) -> None:
        """`Expect: 100-continue` is met; a body that comes in parts is put together."""
        body = json.dumps(KEYS).encode()
        with socket.create_connection(("127.0.0.1", patient.port), timeout=300) as connection:
            connection.sendall(self.head(body, b"r1", b"Expect: 100-continue\r\n"))
            assert connection.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"
            connection.sendall(body[:3])
            connection.sendall(body[3:])
            assert answered(connection)[0] == 200


class TestWaiting:
    @pytest.mark.parametrize("keys", [["ada"] * 600, ["ada" * 100] * 100])
    def test_a_large_batch_does_not_delay_others(self, project: Path, keys: list[str]) -> None:
        """It is answered in another thread; whoever asks for little is answered meanwhile.

        Of very many keys, or of many bytes.
        """
        with tm.connect(project) as store:
            service = Service(store, limits())
            service.access.refresh()
            read, begun, go_on = service._vectors.read, threading.Event(), threading.Event()

            def held_up(caller: Any, name: Any, body: bytes, *rest: Any, **more: Any) -> Any:
                if b"adaada" in body or b'"ada", "ada"' in body:
                    begun.set()
                    assert go_on.wait(300)
                return read(caller, name, body, *rest, **more)

            service._vectors.read = held_up  # type: ignore[method-assign]
            large = {"keys": {"user_id": keys}}

            async def both() -> tuple[int, int]:
                direct = Direct(service)
                slow = asyncio.create_task(direct.asked("POST", READ, large))
                assert await asyncio.to_thread(begun.wait, 300)
                quick = await direct.asked("POST", READ, KEYS)
                assert not slow.done()
                go_on.set()
                return quick[0], (await slow)[0]

            assert asyncio.run(both()) == (200, 200)

    def test_what_takes_too_long_is_given_up(self, project: Path) -> None:
        """The caller is told to try again."""
        with tm.connect(project) as store:
            service = Service(store, limits(answer=0.05))
            service.access.refresh()
            go_on = threading.Event()
            service._vectors.read = lambda *_, **__: go_on.wait(300)  # type: ignore[method-assign]
            large = {"keys": {"user_id": ["ada"] * 5_000}}
            status, headers, body = Direct(service).ask("POST", READ, large)
            go_on.set()
            assert (status, headers["retry-after"], body["retryable"]) == (503, "1", True)

    def test_a_registry_that_hangs_holds_up_no_read(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Reads go by the revision that is known; readiness says that something is wrong."""
        with tm.connect(project) as store:
            service = Service(store, limits())
            service.access.refresh()
            store.readers.refresh()
            go_on = threading.Event()
            revisions, head = store.registry._revisions, store.registry._revisions.head

            def hang() -> str:
                assert go_on.wait(300)
                return head()

            revisions.head = hang  # type: ignore[method-assign]
            store.readers._read_at -= 1_000
            served = Direct(service)
            assert served.ask("POST", READ, KEYS)[0] == 200
            assert served.ask("GET", "/v1/services")[0] == 200
            monkeypatch.setattr(following, "READY_SECONDS", 0.05)
            status, _, body = served.ask("GET", "/readyz")
            assert (status, body["retryable"]) == (503, True)
            monkeypatch.setattr(following, "READY_SECONDS", 300.0)
            go_on.set()
            assert served.ask("GET", "/readyz")[0] == 200
