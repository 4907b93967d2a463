"""The HTTP service, from the outside: a real server, and the answers that it gives."""

from __future__ import annotations

import asyncio
import json
import math
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.redis_server import free_port
from tests.spec.http_server import Server, serving  # skips where the extra is not installed
from tests.spec.served import ASKED, DEFINITIONS, define, make_project

import tidemark as tm
from tidemark.apps.http.problems import problem  # where the extra is there
from tidemark.client import AsyncClient, Client
from tidemark.errors import NotFound, RequestInvalid, StaleSource, StoreUnavailable

AT = "2026-03-03T12:00:00Z"
USERS = ["ada", "nan", "inf", "low", "eve"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def server(project: Path) -> Iterator[Server]:
    with serving(project, "--max-keys", "1000") as found:
        yield found


@pytest.fixture(scope="module")
def store(project: Path) -> Iterator[tm.Store]:
    with tm.connect(project) as found:
        yield found


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.address, timeout=300) as found:
        yield found


def same(one: Any, other: Any) -> bool:
    """Equality in which NaN equals NaN, of values and of their types."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return type(one) is type(other) and one == other


class TestReading:
    def test_one_entity(self, server: Server) -> None:
        """Values, statuses, ages in seconds and the versions that were read, by name."""
        status, body = server.post(
            "/v1/services/everything/online", {"keys": {"user_id": "ada"}, "at": AT}
        )
        assert status == 200
        assert body["service"] == "everything"
        assert body["at"] == AT
        assert body["values"] == {
            "events": 2,
            "spend": 20.35,
            "paid": "12.55",
            "most": 2**62 + 1,
            "blob": "AP8=",
            "born": "2000-02-29",
            "good": True,
            "amounts": [0.1, 20.25],
            "last_at": "2026-03-02T12:00:00.000007Z",
            "items": 3,
        }
        assert set(body["statuses"].values()) == {"PRESENT"}
        assert body["ages"]["born"] == 172799.999993
        assert body["features"]["spend"] == "activity:spend@1"
        assert body["types"]["paid"] == "decimal(38,2)"

    def test_many_entities_are_answered_by_column(self, server: Server) -> None:
        """An array for each name, in the order of the keys; NaN and infinities are text."""
        status, body = server.post(
            "/v1/services/everything/online", {"keys": {"user_id": USERS}, "at": AT}
        )
        assert status == 200
        assert body["values"]["spend"] == [20.35, "NaN", "Infinity", "-Infinity", None]
        assert body["values"]["amounts"][1:4] == [["NaN"], ["Infinity"], ["-Infinity"]]
        assert body["statuses"]["items"] == ["PRESENT", *["EXPIRED"] * 3, "MISSING"]
        assert body["ages"]["events"][4] is None

    def test_keys_as_rows_mean_the_same(self, server: Server) -> None:
        """An array of objects is the other way to send many keys."""
        rows = {"keys": [{"user_id": user} for user in USERS], "at": AT}
        columns = {"keys": {"user_id": USERS}, "at": AT}
        _, one = server.post("/v1/services/everything/online", rows, X_Request_Id="a")
        _, other = server.post("/v1/services/everything/online", columns, X_Request_Id="a")
        assert one == other

    def test_features_named_one_by_one(self, server: Server) -> None:
        """A list of references instead of a service."""
        body = {"features": ["activity:spend", "told"], "keys": {"user_id": "ada"}, "at": AT}
        status, answer = server.post("/v1/features/online", {**body, "request": NOTHING})
        assert status == 200
        assert answer["values"] == {"spend": 20.35, "told": "(None, None, None, None, None, None)"}
        assert "service" not in answer

    def test_what_needs_no_keys(self, server: Server) -> None:
        """A function of request values alone is asked with no keys."""
        body = {"features": ["told"], "keys": {}, "request": NOTHING, "at": AT}
        _, answer = server.post("/v1/features/online", body)
        assert answer["values"] == {"told": "(None, None, None, None, None, None)"}
        assert (answer["statuses"], answer["ages"]) == ({"told": "PRESENT"}, {"told": None})

    def test_a_request_id_of_the_caller_comes_back(self, server: Server) -> None:
        """In the body and in the header; without one, a new one is made."""
        path, body = "/v1/services/everything/online", {"keys": {"user_id": "ada"}}
        _, headers, answer = server.ask("POST", path, body, X_Request_Id="order-17")
        assert answer["request_id"] == headers["x-request-id"] == "order-17"
        _, headers, answer = server.ask("POST", path, body, X_Request_Id="<script>")
        assert re.fullmatch("[0-9a-f]{24}", answer["request_id"])
        _, headers, _ = server.ask("GET", "/healthz", X_Request_Id="order-18")
        assert headers["x-request-id"] == "order-18"

    def test_arrow(self, server: Server, store: tm.Store) -> None:
        """An Arrow stream has the columns of `to_arrow`, then statuses and ages."""
        _, headers, content = server.ask(
            "POST",
            "/v1/services/everything/online",
            {"keys": {"user_id": USERS}, "at": AT},
            Accept="application/vnd.apache.arrow.stream",
        )
        assert headers["content-type"] == "application/vnd.apache.arrow.stream"
        table = pa.ipc.open_stream(content).read_all()
        vectors = store.online_many("everything", {"user_id": USERS}, at=AT)
        expected = vectors.to_arrow()
        assert (
            table.select(expected.column_names)
            .drop(["spend", "amounts"])
            .equals(expected.drop(["spend", "amounts"]))
        )
        assert table["items__status"].to_pylist() == vectors.statuses("items")
        assert table["events__age_seconds"].to_pylist()[0] == 86399.999993
        assert table.schema.metadata[b"at"] == AT.encode()


NOTHING = dict.fromkeys(ASKED)


class TestContract:
    def test_services_are_listed(self, client: Client) -> None:
        """With what they are for and how many features they have."""
        found = {each["name"]: each["features"] for each in client.services()}
        assert found == {"asked": 2, "everything": 10}

    def test_a_service_says_what_it_needs(self, client: Client) -> None:
        """Types, and the JSON Schema of a body."""
        told = client.service("asked")
        assert told["keys"] == [{"name": "user_id", "type": "string", "description": ""}]
        assert {each["name"]: each["type"] for each in told["request"]}["price"] == "decimal(10,2)"
        assert told["features"][1] == {
            "name": "events", "feature": "activity:events@1", "type": "int64",
        }  # fmt: skip
        one = told["body"]["properties"]["keys"]["anyOf"][0]
        assert one["properties"] == {"user_id": {"type": "string"}}

    def test_features_and_search(self, client: Client) -> None:
        """The registry can be read."""
        assert client.feature("activity:spend")["kind"] == "feature"
        assert client.search("spend", limit=1)[0]["reference"] == "activity:spend@1"
        narrow = {"entity": "user", "type": "float64", "source": "event", "kind": "feature"}
        (hit,) = client.search("spend", **narrow)
        assert hit["reference"] == "activity:spend@1"
        with pytest.raises(NotFound, match="everything is not a feature"):
            client.feature("everything")

    def test_a_search_for_what_there_is_not(self, client: Client) -> None:
        """An entity that is none is said to be none; an owner of nothing finds nothing."""
        with pytest.raises(NotFound, match="There is no entity 'usr'") as caught:
            client.search("spend", entity="usr")
        assert caught.value.remedy == "Did you mean 'user'?"
        assert client.search("spend", owner="nobody@example.com") == []
        with pytest.raises(RequestInvalid, match="A search has no parameter 'entty'") as refused:
            client.search("spend", entty="user")
        assert refused.value.remedy == "It has: q, entity, owner, tag, type, source, kind, limit."

    def test_openapi_has_every_route(self, server: Server) -> None:
        """Those that FastAPI does not know too."""
        _, _, document = server.ask("GET", "/openapi.json")
        assert set(document["paths"]) == {
            "/v1/services/{name}/online", "/v1/features/online", "/v1/services",
            "/v1/services/{name}", "/v1/features/{ref}", "/v1/search", "/healthz", "/readyz",
            "/metrics", "/v1/sources/{name}/events", "/v1/freshness",
        }  # fmt: skip
        references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
        assert references <= set(document["components"]["schemas"])

    def test_health(self, server: Server) -> None:
        """It lives, and it is ready with the revision in force."""
        assert server.ask("GET", "/healthz")[2] == {"status": "ok"}
        assert server.ask("GET", "/readyz")[2] == {"status": "ready", "revision": 1}

    def test_metrics(self, server: Server) -> None:
        """Requests by route and status, times, and values by feature and status."""
        server.post("/v1/services/everything/online", {"keys": {"user_id": "ada"}, "at": AT})
        server.post("/v1/services/everything/online", b"{")
        _, _, content = server.ask("GET", "/metrics")
        text = content.decode()
        for line in (
            'tidemark_http_requests_total{route="/v1/services/{name}/online",status="200"}',
            'tidemark_http_requests_total{route="/v1/services/{name}/online",status="400"}',
            'tidemark_http_request_seconds_bucket{le="0.001",route="/v1/services/{name}/online"}',
            'tidemark_http_stage_seconds_count{stage="store"}',
            'tidemark_values_total{feature="activity:spend@1",status="PRESENT"}',
            "tidemark_keys_total",
        ):
            assert line in text


READ = "/v1/services/everything/online"
READ_ROUTE = "/v1/services/{name}/online"
KEYS = {"keys": {"user_id": "ada"}}
NESTED: Any = []
for _ in range(500):
    NESTED = [NESTED]


class TestBadInput:
    def test_the_form_of_a_body_is_that_of_the_route(self, server: Server) -> None:
        """Who names no features is told that they are named."""
        status, answer = server.post("/v1/features/online", KEYS)
        assert status == 422
        assert '{"features": [' in answer["remedy"]

    @pytest.mark.parametrize(
        ("body", "status", "detail"),
        [
            (b"", 400, "The body is not JSON"),
            (b"{", 400, "The body is not JSON"),
            (b"\xff\xfe", 400, "The body is not JSON"),
            (b'{"keys": {"user_id": "\xff"}}', 400, "The body is not JSON"),
            (b'{"keys": {"user_id": "\\ud800"}}', 400, "The body is not JSON"),
            (b'{"keys": {"user_id": NaN}}', 400, "The body is not JSON"),
            (b"[" * 100_000, 422, "The body does not fit"),
            (b'{"keys": {"user_id": ' + b"[" * 100_000, 400, "The body is nested too deeply"),
            (b"[]", 422, "The body does not fit: Expected `object`, got `array`"),
            (b"{}", 422, "The body does not fit: Object missing required field `keys`"),
            ({"keys": 1}, 422, "The body does not fit"),
            ({"keys": {}}, 422, "The key 'user_id' is missing."),
            ({"keys": {"user": "ada"}}, 422, "The key 'user_id' is missing."),
            ({"keys": {"user_id": None}}, 422, "The key 'user_id' is null."),
            ({"keys": {"user_id": 1}}, 422, "The key 'user_id' is 1 (int); it must be string."),
            ({"keys": {"user_id": {"a": 1}}}, 422, "The key 'user_id' is {'a': 1} (dict)"),
            ({"keys": {"user_id": ["ada", 1]}}, 422, "The key 'user_id' is 1 (int)"),
            ({"keys": [{"user_id": "a"}, {}]}, 422, "The key 'user_id' is missing."),
            ({"keys": {"user_id": ["a"] * 1_001}}, 413, "There are 1,001 sets of keys"),
            ({"keys": {"user_id": ["a"] * 100_000}}, 413, "There are 100,000 sets of keys"),
            ({"keys": [{"user_id": "a"}] * 50_000}, 413, "There are 50,000 sets of keys"),
            ({"keys": {f"k{n}": 1 for n in range(50_000)}}, 422, "The key 'user_id' is missing."),
            (b'{"keys": {"user_id": 1' + b"0" * 900_000 + b"}}", 422, "Integer value out of range"),
            ({**KEYS, "request": {"a": NESTED}}, 422, "There is no request field"),
            ({**KEYS, "at": "yesterday"}, 422, "yesterday"),
            ({**KEYS, "at": "2026-03-03T12:00:00"}, 422, "2026-03-03T12:00:00"),
            ({**KEYS, "at": "9999-12-31T23:59:59-14:00"}, 422, "outside the years 1 to 9999"),
            ({**KEYS, "more": 1}, 422, "Object contains unknown field `more`"),
            ({**KEYS, "request": [1]}, 422, "The body does not fit"),
            ({**KEYS, "request": [{}]}, 422, "one set of keys and a list of request values"),
        ],
    )
    def test_what_cannot_be_read(
        self, server: Server, body: object, status: int, detail: str
    ) -> None:
        """The caller is told what is wrong with the body."""
        found, answer = server.post(READ, body)
        assert (found, answer["status"], answer["slug"]) == (status, status, "request-invalid")
        assert detail in answer["detail"]

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("amount", '"abc"'),
            ("amount", "true"),
            ("amount", "1e999"),
            ("amount", "1" + "0" * 400),
            ("amount", "1" + "0" * 5_000),
            ("count", "9223372036854775808"),
            ("count", "1" + "0" * 400),
            ("count", "1.0"),
            ("count", '"1"'),
            ("price", "1.5"),
            ("price", '"1.555"'),
            ("price", '"NaN"'),
            ("price", '"1e-999999999"'),
            ("price", '"1e999999999"'),
            ("price", f'"{"1" * 5_000}"'),
            ("day", '"2026-02-30"'),
            ("day", '"2026-03-01T00:00:00Z"'),
            ("moment", '"2026-03-01T00:00:00"'),
            ("moment", '"99999-01-01T00:00:00Z"'),
            ("moment", "0"),
            ("blob", '"???"'),
            ("blob", '"é"'),
            ("blob", "[1]"),
        ],
    )
    def test_request_values_of_another_type(self, server: Server, name: str, text: str) -> None:
        """Nothing is rounded, cut or guessed."""
        values = json.dumps(NOTHING).replace(f'"{name}": null', f'"{name}": {text}')
        body = f'{{"keys": {{"user_id": "ada"}}, "request": {values}}}'.encode()
        status, answer = server.post("/v1/services/asked/online", body)
        assert (status, answer["slug"]) == (422, "request-invalid")

    def test_a_body_that_is_too_large(self, server: Server) -> None:
        """It is refused by its length, before it is read; or when it grows beyond."""
        body = json.dumps({"keys": {"user_id": "a" * 10_000_000}}).encode()
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=300)
        head = f"POST {READ} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(12) == b"HTTP/1.1 413"
        connection.close()
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=300)
        connection.sendall(
            f"POST {READ} HTTP/1.1\r\nHost: [::1]\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        chunk = b"%x\r\n%s\r\n" % (400_000, b" " * 400_000)
        connection.sendall(chunk * 3)
        assert connection.recv(12) == b"HTTP/1.1 413"
        connection.close()

    @pytest.mark.parametrize(
        "path",
        [
            "/v1/services/nothing/online",
            "/v1/services/activity:spend/online",
            "/v1/services/told/online",
            "/v1/services/../../etc/passwd/online",
            "/v1/services/%2e%2e%2f%2e%2e%2fetc%2fpasswd/online",
            "/v1/services/%00/online",
            "/v1/services/%F0%9F%8C%8A/online",
            "/v1/services//online",
            "/v1/services/online",
            "/v1/" + "a" * 5_000,
            "//",
        ],
    )
    def test_paths_that_lead_nowhere(self, server: Server, path: str) -> None:
        """A name is a name, whatever it looks like."""
        status, answer = server.post(path, KEYS)
        assert status in {404, 405}
        assert answer["slug"] in {"not-found", "request-invalid"}

    def test_the_nearest_name_is_suggested(self, server: Server) -> None:
        """As everywhere."""
        _, answer = server.post("/v1/services/everythin/online", KEYS)
        assert answer["remedy"] == "Did you mean 'everything'?"

    def test_a_problem_is_a_problem(self, server: Server) -> None:
        """RFC 9457, with all its members and the request id."""
        status, headers, answer = server.ask("GET", "/nowhere", X_Request_Id="r1")
        assert headers["content-type"] == "application/problem+json"
        assert (status, answer) == (
            404,
            {
                "type": "urn:tidemark:error:not-found",
                "title": "NotFound",
                "status": 404,
                "detail": "There is no such route.",
                "slug": "not-found",
                "remedy": "GET /openapi.json lists the routes.",
                "retryable": False,
                "request_id": "r1",
            },
        )

    def test_other_methods(self, server: Server) -> None:
        """What may be done is said."""
        status, headers, _ = server.ask("GET", READ)
        assert (status, headers["allow"]) == (405, "POST")
        status, headers, _ = server.ask("DELETE", "/v1/services")
        assert (status, headers["allow"]) == (405, "GET")

    @pytest.mark.parametrize("features", [[], [""], ["nothing"], ["activity:"], ["a:b@x"]])
    def test_features_that_are_not(self, server: Server, features: list[str]) -> None:
        """A list must name features."""
        status, _ = server.post("/v1/features/online", {"features": features, **KEYS})
        assert status in {404, 422}

    def test_what_was_sent_is_not_sent_back_at_length(self, server: Server) -> None:
        """A problem is for people to read."""
        body = {"features": ["a" * 900_000], **KEYS}
        status, answer = server.post("/v1/features/online", body)
        assert (status, len(answer["detail"])) == (404, 1_000)

    def test_too_many_features(self, server: Server) -> None:
        """Their number is bounded too."""
        status, _ = server.post("/v1/features/online", {"features": ["a:b"] * 1_001, **KEYS})
        assert status == 413

    @pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=" + "9" * 50, "q=%00%ff"])
    def test_parameters(self, server: Server, query: str) -> None:
        """A parameter of another type is a problem as well."""
        status, _, answer = server.ask("GET", f"/v1/search?{query}")
        assert status in {200, 422}
        assert status == 200 or answer["slug"] == "request-invalid"

    def test_every_bad_request_is_answered_by_the_same_server(self, server: Server) -> None:
        """Nothing of all this ended it, and nothing was unforeseen."""
        assert server.post(READ, KEYS)[0] == 200
        _, _, content = server.ask("GET", "/metrics")
        assert 'status="500"' not in content.decode()


def test_a_failure_inside_names_no_file() -> None:
    """What a database says of its files goes to the log only."""
    told = StoreUnavailable("The online store refused: /srv/tm/online: No such file.")
    status, body, headers = problem(told, "r1")
    assert (status, headers) == (503, [(b"retry-after", b"1")])
    assert json.loads(body)["detail"] == "The online store refused: ...: No such file."


class TestClient:
    @pytest.mark.parametrize("user", USERS)
    def test_a_vector_equals_that_of_the_store(
        self, client: Client, store: tm.Store, user: str
    ) -> None:
        """Values, types, statuses, ages."""
        ours = store.online("everything", {"user_id": user}, at=AT)
        theirs = client.online("everything", {"user_id": user}, at=AT)
        assert list(theirs) == list(ours)
        assert theirs.at == ours.at
        for name in ours:
            assert same(theirs[name], ours[name])
            assert theirs.status(name) == ours.status(name)
            assert theirs.age(name) == ours.age(name)

    def test_many_vectors_equal_those_of_the_store(self, client: Client, store: tm.Store) -> None:
        """By row, by column, and as Arrow."""
        ours = store.online_many("everything", {"user_id": USERS}, at=AT)
        for keys in ({"user_id": USERS}, [{"user_id": user} for user in USERS]):
            theirs = client.online_many("everything", keys, at=AT)
            assert len(theirs) == len(USERS)
            for name in ours.names:
                assert same(theirs.values(name), ours.values(name))
                assert theirs.statuses(name) == ours.statuses(name)
                assert theirs.ages(name) == ours.ages(name)
            assert theirs.to_arrow().schema == ours.to_arrow().schema
            assert theirs.to_pandas()["events"].tolist() == [2, 1, 1, 1, 0]

    def test_nobody_is_asked_for(self, client: Client) -> None:
        """No keys, no rows."""
        assert client.online_many("everything", []).to_dicts() == []

    def test_request_values_arrive_as_they_were_sent(self, client: Client, store: tm.Store) -> None:
        """Of every type, to the last bit; for one, for each of many, and shared by many."""
        one = client.online("asked", {"user_id": "ada"}, request=ASKED, at=AT)
        assert one["told"] == repr(tuple(ASKED.values()))
        keys = {"user_id": ["ada", "eve"]}
        for request in (
            ASKED,
            [ASKED, ASKED],
            {name: [value] * 2 for name, value in ASKED.items()},
        ):
            ours = store.online_many("asked", keys, request=request, at=AT)
            theirs = client.online_many("asked", keys, request=request, at=AT)
            assert theirs.values("told") == ours.values("told") == [one["told"]] * 2

    def test_features_by_name(self, client: Client) -> None:
        """One reference, or several."""
        assert dict(client.online("activity:events", {"user_id": "ada"}, at=AT)) == {"events": 2}
        several = client.online(["activity:events", "recent:items"], {"user_id": "ada"}, at=AT)
        assert dict(several) == {"events": 2, "items": 3}
        assert several.features == {"events": "activity:events@1", "items": "recent:items@1"}

    def test_errors_are_those_of_the_store(self, client: Client, store: tm.Store) -> None:
        """The same class with the same words."""
        cases: list[tuple[type[Exception], str, dict[str, Any]]] = [
            (RequestInvalid, "everything", {"user_id": 1}),
            (RequestInvalid, "everything", {}),
        ]
        for kind, service, keys in cases:
            with pytest.raises(kind) as theirs:
                client.online(service, keys)
            with pytest.raises(kind) as ours:
                store.online(service, keys)
            assert str(theirs.value) == str(ours.value)
        with pytest.raises(NotFound, match="'nothing'"):
            client.online("nothing", {"user_id": "ada"})

    def test_a_server_that_is_not_there(self) -> None:
        """An error that says that it may pass."""
        with (
            Client(f"http://127.0.0.1:{free_port()}", retries=1, timeout=300) as client,
            pytest.raises(StoreUnavailable, match="did not answer"),
        ):
            client.services()

    def test_what_may_pass_is_tried_again(self, server: Server) -> None:
        """A server that is busy at first is asked again, and what it says then is what counts."""
        refusal = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        content = b'{"revision": 1, "services": []}'
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(content), content)
        with socket.create_server(("127.0.0.1", 0)) as busy:

            def answers() -> None:
                for response in (refusal, refusal, answer):
                    connection, _ = busy.accept()
                    connection.recv(65_536)
                    connection.sendall(response)
                    connection.close()

            thread = threading.Thread(target=answers)
            thread.start()
            with Client(f"http://127.0.0.1:{busy.getsockname()[1]}", timeout=300) as client:
                assert client.services() == []
            thread.join()

    def test_a_connection_that_was_closed_meanwhile(self, client: Client) -> None:
        """It is replaced without a word."""
        client.services()
        client._idle[0].sock.shutdown(socket.SHUT_RDWR)
        assert client.services()

    def test_awaited(self, server: Server) -> None:
        """Several calls at once."""

        async def ask() -> list[int]:
            async with AsyncClient(server.address, timeout=300) as client:
                vectors = await asyncio.gather(
                    *(client.online("everything", {"user_id": user}, at=AT) for user in USERS)
                )
                return [vector["events"] for vector in vectors]

        assert asyncio.run(ask()) == [2, 1, 1, 1, 0]

    def test_it_imports_nothing_of_the_engine(self) -> None:
        """A service that only reads vectors installs and loads little."""
        code = "import sys, tidemark.client; print(*sys.modules)"
        loaded = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
        assert not {"numpy", "pyarrow", "duckdb", "numba", "fastapi", "lmdb"} & set(loaded)


class TestOperation:
    @pytest.mark.parametrize("host", ["", "::", "192.0.2.1", "example.com"])
    def test_only_loopback(self, store: tm.Store, host: str) -> None:
        """As long as nobody is asked for a key, nobody else may ask."""
        with pytest.raises(RequestInvalid, match="may be reached from other machines"):
            store.serve(host=host)

    def test_a_port_that_is_taken(self, store: tm.Store, server: Server) -> None:
        """One sentence, before anything starts."""
        with pytest.raises(RequestInvalid, match=f"Port {server.port} of 127.0.0.1"):
            store.serve(port=server.port)

    def test_a_store_in_memory_has_one_worker(self) -> None:
        """Another process would have a store of its own, with nothing in it."""
        with (
            tm.connect(":memory:") as store,
            pytest.raises(RequestInvalid, match="2 workers cannot serve this store"),
        ):
            store.serve(workers=2)

    @pytest.mark.parametrize("workers", ["1", "2"])
    def test_what_is_in_flight_is_finished(self, project: Path, workers: str) -> None:
        """A request whose body has half arrived is answered after the order to stop."""
        with serving(project, "--workers", workers) as server:
            assert server.ask("GET", "/healthz")[0] == 200
            body = json.dumps({**KEYS, "at": AT}).encode()
            connection = socket.create_connection(("127.0.0.1", server.port), timeout=300)
            head = f"POST {READ} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
            connection.sendall(head.encode() + b"Expect: 100-continue\r\n\r\n")
            assert connection.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"
            connection.sendall(body[:10])
            server.process.send_signal(signal.SIGTERM)
            with pytest.raises(OSError):
                while True:  # until nobody is let in
                    socket.create_connection(("127.0.0.1", server.port), timeout=300).close()
            connection.sendall(body[10:])
            answer = b""
            while part := connection.recv(65_536):
                answer += part
            connection.close()
            assert answer.startswith(b"HTTP/1.1 200")
            assert answer.endswith(b"}")

    @pytest.mark.parametrize("order", [signal.SIGTERM, signal.SIGINT])
    def test_an_order_to_stop_is_no_error(self, project: Path, order: signal.Signals) -> None:
        """It ends with 0 and says nothing, but that it compiled if it had to."""
        with serving(project) as server:
            assert server.ask("GET", "/healthz")[0] == 200
            server.process.send_signal(order)
            _, errors = server.process.communicate(timeout=300)
            assert server.process.returncode == 0
            assert [line for line in errors.splitlines() if "Compiling" not in line] == []

    def test_more_than_may_wait_is_told_to_come_again(self, project: Path) -> None:
        """503 and Retry-After at once, instead of a queue without end."""
        with serving(project, "--max-waiting", "0") as server:
            assert server.ask("GET", "/healthz")[0] == 200
            status, headers, answer = server.ask("POST", READ, KEYS)
            assert (status, headers["retry-after"]) == (503, "1")
            assert (answer["slug"], answer["retryable"]) == ("store-unavailable", True)
            with (
                Client(server.address, retries=0, timeout=300) as client,
                pytest.raises(StoreUnavailable),
            ):
                client.online("everything", {"user_id": "ada"})

    def test_workers_answer_for_each_other(self, project: Path) -> None:
        """Several processes behind one port, with sums that any of them tells."""
        with serving(project, "--workers", "2") as server:
            with Client(server.address, timeout=300) as client:
                for _ in range(20):
                    assert client.online("everything", {"user_id": "ada"}, at=AT)["events"] == 2
            _, _, content = server.ask("GET", "/metrics")
            counted = rf'route="{READ_ROUTE}",status="200"}} (\d+)\.0'
            assert int(re.search(counted, content.decode())[1]) >= 20

    @pytest.mark.parametrize("workers", ["1", "2"])
    def test_a_new_revision_is_served_without_a_pause(self, tmp_path: Path, workers: str) -> None:
        """No read fails while the registry changes, and soon all workers see the new features."""
        project = make_project(tmp_path)
        stop = threading.Event()
        failures: list[Exception] = []

        def go_on(address: str) -> None:
            with Client(address, timeout=300, retries=0) as client:
                while not stop.is_set():
                    try:
                        client.online("asked", {"user_id": "ada"}, request=NOTHING, at=AT)
                    except Exception as error:
                        failures.append(error)

        def names() -> list[str]:
            with Client(server.address, timeout=300, retries=0) as client:  # any of the workers
                return list(client.online("asked", {"user_id": "ada"}, request=NOTHING, at=AT))

        with serving(project, "--workers", workers) as server:
            assert names() == ["told", "events"]
            others = [threading.Thread(target=go_on, args=(server.address,)) for _ in range(4)]
            for each in others:
                each.start()
            define(project, DEFINITIONS + "    spend = Activity.spend\n")
            assert tidemark(project, "apply", "--yes").returncode == 0
            right, deadline = 0, time.monotonic() + 300
            while right < 20 and time.monotonic() < deadline:
                right = right + 1 if names() == ["told", "events", "spend"] else 0
            stop.set()
            for each in others:
                each.join()
            assert (right, failures) == (20, [])

    def test_what_is_not_materialized(self, tmp_path: Path) -> None:
        """The state cannot answer; the message names no file of the server."""
        project = make_project(tmp_path)
        text = DEFINITIONS.replace(
            "class Recent(",
            "class Fresh(tm.FeatureView, entity=User, source=Event):\n"
            '    """Not written yet."""\n\n    smallest = tm.min(Event.amount, over="3d")\n\n\n'
            "class Recent(",
        )
        define(project, text)
        assert tidemark(project, "apply", "--yes").returncode == 0
        with serving(project) as server, Client(server.address, timeout=300) as client:
            with pytest.raises(StaleSource, match="There is no online state yet") as caught:
                client.online("fresh:smallest", {"user_id": "ada"})
            assert str(project) not in str(caught.value)


def tidemark(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tidemark", *words, "--project", str(project)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
