"""Events from other programs: over HTTP, with the client, and on the command line."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from pyarrow import ipc
from tests.spec.http_server import Server, serving

import tidemark as tm
from tidemark.apps.cli import main
from tidemark.client import AsyncClient, Client
from tidemark.errors import EventsRefused, NotFound

NOON = "2026-03-02T12:00:00Z"
PATH = "/v1/sources/purchase/events"
DEFINITIONS = """
from datetime import datetime

import tidemark as tm


class User(tm.Entity):
    user_id: tm.Key[str]


class Purchase(tm.Source, time="at", unique=("order",)):
    order: tm.Col[str]
    user_id: tm.Col[str]
    amount: tm.Col[float | None]
    at: tm.Col[datetime]


class Spend(tm.FeatureView, entity=User, source=Purchase):
    purchases = tm.count()


class Buyer(tm.FeatureService):
    purchases = Spend.purchases
"""


def make_project(folder: Path) -> Path:
    (folder / f"pushed_{folder.name}.py").write_text(DEFINITIONS, "utf-8")
    settings = f'name = "pushed"\ndefinitions = "pushed_{folder.name}.py"\n'
    (folder / "tidemark.toml").write_text(settings, "utf-8")
    with tm.connect(folder) as store:
        store.apply(store.plan())
        store.materialize()
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("pushed"))


@pytest.fixture(scope="module")
def server(project: Path) -> Iterator[Server]:
    with serving(project) as found:
        yield found


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.address, retries=0, timeout=300) as found:
        yield found


def bought(order: str, user: str, **more: Any) -> dict[str, Any]:
    return {"order": order, "user_id": user, "at": NOON, **more}


class TestHttp:
    def test_the_next_read_counts_it(self, server: Server) -> None:
        """An object, an array, and lines; the content type may say so."""
        told: list[Any] = []
        for body in (
            json.dumps(bought("a1", "ada")),
            json.dumps([bought("a2", "ada"), bought("a2", "ada")]),
            "\n".join(json.dumps(bought(order, "ada")) for order in ("a3", "a4")),
        ):
            status, answer = server.post(PATH, body.encode(), Content_Type="application/x-ndjson")
            assert status == 200
            told.append((answer["accepted"], answer["duplicates"], answer["quarantined"]))
        assert told == [(1, 0, 0), (1, 1, 0), (2, 0, 0)]
        assert set(answer) == {
            "request_id", "source", "accepted", "duplicates", "quarantined", "position", "seen",
        }  # fmt: skip
        read = "/v1/services/buyer/online"
        _, answer = server.post(read, {"keys": {"user_id": "ada"}})
        assert answer["values"] == {"purchases": 4}

    def test_an_arrow_stream(self, server: Server) -> None:
        """By its content type."""
        at = pa.array([datetime(2026, 3, 2, tzinfo=UTC)], pa.timestamp("us", "UTC"))
        table = pa.table({"order": ["b1"], "user_id": ["bob"], "at": at})
        sink = io.BytesIO()
        with ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        kind = "application/vnd.apache.arrow.stream"
        assert server.post(PATH, sink.getvalue(), Content_Type=kind)[1]["accepted"] == 1
        status, answer = server.post(PATH, b"no stream", Content_Type=kind)
        assert (status, answer["slug"]) == (400, "request-invalid")

    def test_bad_rows_are_in_the_problem(self, server: Server) -> None:
        """Each with its number, column, value and reason."""
        rows = [bought("c1", "cyd"), bought("c2", "cyd", amount="42")]
        status, answer = server.post(PATH, rows)
        assert (status, answer["slug"], answer["bad_rows"]) == (422, "events-refused", 1)
        assert answer["bad"] == [
            {"row": 1, "column": "amount", "value": '"42"', "reason": "must be float64"}
        ]
        status, answer = server.post(f"{PATH}?on_error=quarantine", rows)
        assert (status, answer["accepted"], answer["quarantined"]) == (200, 1, 1)

    def test_a_large_push(self, server: Server) -> None:
        """A push may have more bytes than a read, so that 10,000 events need no other settings."""
        events = [bought(f"many-{number}" + "x" * 12_000, f"m{number}") for number in range(100)]
        status, answer = server.post(PATH, events)
        assert (status, answer["accepted"]) == (200, 100)
        status, answer = server.post(PATH, events * 4)
        assert (status, answer["detail"]) == (413, "The body is larger than 4,000,000 bytes.")

    def test_an_idempotency_key(self, server: Server) -> None:
        """What is sent again under it is the first push; anything else is refused."""
        key, event = {"Idempotency_Key": "k1"}, bought("d1", "dan")
        first = server.post(PATH, event, **key)[1]
        again = server.post(PATH, event, **key)[1]
        assert again["position"] == first["position"]
        status, answer = server.post(PATH, bought("d2", "dan"), **key)
        assert (status, answer["slug"]) == (422, "request-invalid")
        assert "under the key 'k1'" in answer["detail"]

    @pytest.mark.parametrize(
        ("method", "path", "status", "what"),
        [
            ("GET", PATH, 405, "POST"),
            ("POST", "/v1/sources/purchases/events", 404, "purchase"),
            ("POST", f"{PATH}?on_eror=refuse", 422, "on_eror"),
            ("POST", f"{PATH}?on_error=drop", 422, "drop"),
        ],
    )
    def test_what_is_refused(
        self, server: Server, method: str, path: str, status: int, what: str
    ) -> None:
        """A problem says why."""
        found, _, answer = server.ask(method, path, b"{}" if method == "POST" else None)
        assert found == status
        assert what in json.dumps(answer)


class TestClient:
    def test_rows_of_any_kind(self, client: Client) -> None:
        """Dicts with Python values, lines, frames."""
        at = datetime(2026, 3, 2, tzinfo=UTC)
        assert client.push("purchase", [bought("e1", "eve", at=at)]).accepted == 1
        assert client.push("purchase", json.dumps(bought("e2", "eve")).encode()).accepted == 1
        times = pa.array([at], pa.timestamp("us", "UTC"))
        frame = pa.table({"order": ["e3"], "user_id": ["eve"], "at": times})
        done = client.push("purchase", frame)
        assert (done.accepted, done.duplicates, done.seen.tzinfo) == (1, 0, UTC)
        assert client.online("buyer", {"user_id": "eve"})["purchases"] == 3

    def test_errors_are_those_of_the_store(self, client: Client) -> None:
        """With every bad row."""
        with pytest.raises(EventsRefused) as refused:
            client.push("purchase", {"order": "f1"})
        assert [each.reason for each in refused.value.bad] == ["an event needs a time"]
        with pytest.raises(NotFound, match="nothing"):
            client.push("nothing", {})

    def test_awaited(self, server: Server) -> None:
        """Many at a time."""

        async def pushed() -> list[int]:
            async with AsyncClient(server.address, timeout=300) as client:
                rows = [bought(f"g{n}", "gil") for n in range(20)]
                done = await asyncio.gather(*(client.push("purchase", row) for row in rows))
                return [each.accepted for each in done]

        assert asyncio.run(pushed()) == [1] * 20


def test_a_server_counts_what_a_crash_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the log and not in the state is counted when it starts."""
    with tm.connect(make_project(tmp_path)) as store:

        def away(*_: Any, **__: Any) -> None:
            raise tm.errors.StoreUnavailable("Nobody is there.")

        with monkeypatch.context() as broken:
            broken.setattr(store._online, "put_many", away)
            with pytest.raises(tm.errors.StoreUnavailable):
                store.push("purchase", bought("o1", "ada"))
    with serving(tmp_path) as server, Client(server.address, timeout=300) as client:
        assert client.online("buyer", {"user_id": "ada"})["purchases"] == 1


STARTED = """
import asyncio, sys

import tidemark as tm
from tests.spec.http_server import living
from tidemark.apps.http import Limits
from tidemark.apps.http.service import Service


async def start():
    with tm.connect(sys.argv[1]) as store:
        async with living(Service(store, Limits())):
            print("tidemark.kernel.splice" in sys.modules)


asyncio.run(start())
"""


def test_a_server_has_loaded_what_takes_events_when_it_answers(tmp_path: Path) -> None:
    """So that the first push of a machine does not wait for a compiler."""
    words = [sys.executable, "-c", STARTED, str(make_project(tmp_path))]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    make_project(tmp_path)

    def command(*words: str, sent: str = "") -> Result:
        return CliRunner().invoke(main, [*words, "--project", str(tmp_path)], input=sent)

    return command


class TestCommandLine:
    def test_lines_from_a_pipe(self, run: Run) -> None:
        """In batches; the numbers are those of all."""
        lines = [json.dumps(bought(f"o{n % 5}", "ada")) for n in range(7)]
        result = run("push", "purchase", "-", "--batch", "3", "--json", sent="\n".join(lines))
        assert json.loads(result.stdout) == {
            "source": "purchase", "lines": 7, "accepted": 5, "duplicates": 2, "quarantined": 0,
            "position": 5,
        }  # fmt: skip
        assert "purchases" in run("online", "buyer", "--key", "user_id=ada").stdout

    def test_a_bad_line_is_named_by_its_number(self, run: Run, tmp_path: Path) -> None:
        """And what was taken before it is said."""
        file = tmp_path / "events.ndjson"
        good = [json.dumps(bought(f"o{n}", "ada")) for n in range(3)]
        file.write_text("\n\n".join([*good, '{"order": 1}']), "utf-8")
        result = run("push", "purchase", str(file), "--batch", "2")
        assert result.exit_code == 1
        assert "line 7: order 1 must be string\n  line 7: at null" in result.stderr
        assert "Before this batch 2 lines went in." in result.stderr

    def test_a_disk_that_is_full_on_the_way(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is told how many lines went in before."""
        push, left = tm.Store.push, [2]

        def until_full(store: tm.Store, *what: Any, **how: Any) -> Any:
            if not left[0]:
                raise tm.errors.StoreUnavailable("The disk is full.", remedy="Free space.")
            left[0] -= 1
            return push(store, *what, **how)

        monkeypatch.setattr(tm.Store, "push", until_full)
        lines = "\n".join(json.dumps(bought(f"o{n}", "ada")) for n in range(9))
        result = run("push", "purchase", "-", "--batch", "3", sent=lines)
        assert result.exit_code == 1
        assert "Free space. Before this batch 6 lines went in." in result.stderr

    def test_bad_lines_for_programs(self, run: Run) -> None:
        """Every one, with what is wrong with it, also where people are shown the first."""
        lines = "\n".join(['{"order": 1, "at": "2026-03-01T00:00:00Z"}'] * 30)
        answer = json.loads(run("push", "purchase", "-", "--json", sent=lines).stderr)
        assert (answer["bad_rows"], len(answer["bad"])) == (30, 30)
        reason = {"column": "order", "value": "1", "reason": "must be string"}
        assert answer["bad"][29] == {"row": 30, **reason}
        assert answer["where"].endswith("and 10 more")

    def test_dead_letters_are_shown_as_plain_text(self, run: Run) -> None:
        """What anybody may have sent is no command to the terminal."""
        run("push", "purchase", "-", "--on-error", "quarantine", sent='\x1b[2J{"order": "\u00e9"\n')
        assert "  \\x1b[2J{" in run("dead-letters", "list", "purchase").stdout
        (letter,) = json.loads(run("dead-letters", "list", "purchase", "--json").stdout)
        assert letter["row"] == '\x1b[2J{"order": "\u00e9"'

    def test_dead_letters(self, run: Run) -> None:
        """What was left out can be looked at."""
        assert "no dead letters" in run("dead-letters", "list", "purchase").stdout
        lines = '{"order": "o1"}\nno json\n'
        result = run("push", "purchase", "-", "--on-error", "quarantine", sent=lines)
        assert result.stdout == ("0 events of purchase taken, 0 there already, 2 dead letters.\n")
        found = json.loads(run("dead-letters", "list", "purchase", "--json").stdout)
        assert [each["row"] for each in found] == ['{"order": "o1"}', "no json"]
        assert (
            "an event needs a time"
            in run("dead-letters", "list", "purchase", "--limit", "1").stdout
        )
        assert run("dead-letters", "replay", "purchase").stdout == (
            "0 events of purchase taken, 0 there already, 2 dead letters left.\n"
        )
        facts = json.loads(run("dead-letters", "replay", "purchase", "--id", "1", "--json").stdout)
        assert facts == {"accepted": 0, "duplicates": 0, "refused": 1}
        listed = run("dead-letters", "list", "purchase", "--replayed").stdout
        assert listed == "There are no replayed dead letters of purchase.\n"

    def test_a_key_for_a_file(self, run: Run) -> None:
        """What was cut off is pushed again as a whole."""
        lines = "\n".join(json.dumps(bought(f"o{n}", "ada")) for n in range(4))
        run("push", "purchase", "-", "--key", "monday", "--batch", "2", sent=lines)
        result = run("push", "purchase", "-", "--key", "monday", "--batch", "2", sent=lines)
        assert result.stdout.startswith("4 events of purchase taken")
        assert '"value": 4' in run("online", "buyer", "--key", "user_id=ada", "--json").stdout
