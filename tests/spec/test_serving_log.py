"""The serving log: what was served can be read back, explained, and is in nobody's way."""

from __future__ import annotations

import json
import logging
import math
import re
import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner
from pyarrow import parquet
from tests.spec.served import ASKED, define, make_project

import tidemark as tm
from tidemark.apps.cli import main
from tidemark.errors import EngineError, NotFound, PlanConflict, RequestInvalid
from tidemark.model.window import clock
from tidemark.serve import log as serving_log
from tidemark.serve.log import files

AT = "2026-03-03T12:00:00Z"
USERS = ["ada", "nan", "inf", "low", "eve"]
KEYS = [{"user_id": user} for user in USERS]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return make_project(tmp_path_factory.mktemp("logged"))


@pytest.fixture
def logging_to(tmp_path, monkeypatch):
    """The settings under which reads of this process are logged to a folder of the test."""
    monkeypatch.setenv("TIDEMARK_SERVING_LOG_IN_PROCESS", "true")
    monkeypatch.setenv("TIDEMARK_SERVING_LOG", str(tmp_path / "served"))
    return tmp_path / "served"


def same(one: object, other: object) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other or (one != one and other != other)  # noqa: PLR0124 - NaN


def test_values_come_back_as_they_were_served(project, logging_to):
    """Doubles, whole numbers, decimals, bytes, dates, lists and nulls, each in its type."""
    with tm.connect(project) as store:
        vectors = store.online_many("everything", KEYS, at=AT)
        rows = store.log.read(service="everything")
        for name in vectors.names:
            logged = rows[f"value.{name}"].to_pylist()
            assert all(map(same, logged, vectors.values(name))), name
            assert rows[f"status.{name}"].to_pylist() == vectors.statuses(name)
            assert rows[f"age.{name}"].to_pylist() == vectors.ages(name)
    assert rows["key.user_id"].to_pylist() == USERS
    assert rows["row"].to_pylist() == [0, 1, 2, 3, 4]
    assert rows["at"].to_pylist() == [datetime(2026, 3, 3, 12, tzinfo=UTC)] * 5
    assert rows["revision"].to_pylist() == [1] * 5
    assert set(rows["request_id"].to_pylist()) == {vectors.request_id}
    assert rows.schema.field("value.paid").type == pa.decimal128(38, 2)
    assert rows.schema.field("value.amounts").type == pa.list_(pa.float64())


def test_request_values_and_what_on_demand_functions_read_are_kept(project, logging_to):
    """Everything that a function was given is there, exactly."""
    with tm.connect(project) as store:
        vector = store.online("asked", {"user_id": "ada"}, request=ASKED, at=AT)
        (row,) = store.log.read(request_id=vector.request_id).to_pylist()
        explained = store.log.explain(vector.request_id)
    assert all(same(row[f"request.{name}"], value) for name, value in ASKED.items())
    assert row["value.told"] == vector["told"]
    (told,) = (each for each in explained.rows[0].values if each.name == "told")
    assert told.reference == "told@1"
    assert all(same(told.inputs[name], value) for name, value in ASKED.items())
    assert "What the function was given" in told.definition


@pytest.mark.parametrize(
    "features",
    [["activity:blob"], ["activity:spend"], ["activity:events"], ["activity:good"], ["told"]],
)
@pytest.mark.parametrize("count", [0, 1, 3])
def test_reads_of_one_kind_of_values_are_logged(project, logging_to, features, count):
    """Text without a number, one number, a function that reads nothing but the request."""
    request = ASKED if features == ["told"] else {}
    keys = [{}] * count if features == ["told"] else KEYS[:count]
    with tm.connect(project) as store:
        vectors = store.online_many(features, keys, request=request, at=AT)
        (name,) = vectors.names
        if count:
            rows = store.log.read(request_id=vectors.request_id)
            assert all(map(same, rows[f"value.{name}"].to_pylist(), vectors.values(name)))
            assert rows[f"status.{name}"].to_pylist() == vectors.statuses(name)
        assert (store.log.dropped, store.log.failed) == (0, 0)


def test_an_explanation_says_what_each_value_means(project, logging_to):
    """Value, status, age and version, and the definition in English."""
    with tm.connect(project) as store:
        vector = store.online("everything", {"user_id": "ada"}, at=AT)
        explained = store.log.explain(vector.request_id)
    assert explained.service == "everything"
    assert explained.rows[0].keys == {"user_id": "ada"}
    spend = explained.rows[0].values[1]
    assert (spend.reference, spend.value, spend.status) == ("activity:spend@1", 20.35, "PRESENT")
    assert spend.age == timedelta(days=1) - timedelta(microseconds=7)
    assert spend.definition == (
        "Sum of amount over event, in the 7 days up to and including the moment asked for; "
        "null if there were none."
    )
    assert "spend = 20.35  PRESENT, 23:59:59.999993 old" in str(explained)


def test_explain_on_the_command_line(project, logging_to):
    """`tidemark explain` tells people and programs the same."""
    with tm.connect(project) as store:
        vector = store.online("everything", {"user_id": "ada"}, at=AT)
    asked = ["explain", vector.request_id, "--project", str(project)]
    text = CliRunner().invoke(main, asked)
    assert text.exit_code == 0, text.output
    assert "activity:spend@1" in text.output
    facts = json.loads(CliRunner().invoke(main, [*asked, "--json"]).output)
    assert facts["rows"][0]["values"][1]["value"] == 20.35
    unknown = CliRunner().invoke(main, ["explain", "nobody", "--project", str(project)])
    assert unknown.exit_code == 1


def test_served_on_the_command_line(project, logging_to, tmp_path):
    """`tidemark served --out` writes the rows for other tools."""
    with tm.connect(project) as store:
        store.online_many("everything", KEYS, at=AT)
    out = tmp_path / "rows.parquet"
    asked = ["served", "--project", str(project), "--service", "everything", "--since", "1h"]
    result = CliRunner().invoke(main, [*asked, "--out", str(out), "--json"])
    assert json.loads(result.output)["rows"] == 5
    assert parquet.read_table(out)["key.user_id"].to_pylist() == USERS


@pytest.mark.parametrize("service", ["everythin", "model:taster@1", "service=*"])
def test_a_service_that_nothing_was_served_as_is_refused(project, logging_to, service):
    """No rows would look as if nobody had read it."""
    with tm.connect(project) as store:
        store.online("everything", {"user_id": "ada"}, at=AT)
        for reading in (store.log.read, store.log.count, store.log.blocks):
            with pytest.raises(NotFound, match=re.escape(f"There is no service {service!r}.")):
                reading(service=service)
    told = CliRunner().invoke(main, ["served", "--service", "everythin", "--project", str(project)])
    assert told.exit_code == 1
    assert "Did you mean 'everything'?" in told.output


def test_what_may_be_served_and_what_was_served_is_asked_for(tmp_path, logging_to):
    """No rows of a service, a model or features is an answer, and rows outlast their service."""
    folder = make_project(tmp_path)
    with tm.connect(folder) as store:
        store.registry.register_model("taster", 1, service="asked", stage="development")
        for nothing in ("everything", "model:taster@1", "features"):
            assert store.log.count(service=nothing) == (0, 0)
        store.online("everything", {"user_id": "ada"}, at=AT)
        store.log.flush()
    (logging_to / "service=everything").rename(logging_to / "service=ended")
    with tm.connect(folder) as store:
        assert store.log.count(service="ended") == (1, 1)
        assert store.log.count(service="ended", until="1h") == (0, 0)


def test_what_was_served_of_one_entity_on_the_command_line(project, logging_to, tmp_path):
    """`--key` is read by the type of the key, and counts or writes what `keys` reads."""
    with tm.connect(project) as store:
        store.online_many("everything", KEYS, at=AT)
        store.online("everything", {"user_id": "ada"}, at=AT)
    asked = ["served", "--project", str(project), "--key"]
    facts = json.loads(CliRunner().invoke(main, [*asked, "user_id=ada", "--json"]).output)
    assert facts == {"rows": 2, "requests": 2, "out": None}
    out = tmp_path / "rows.parquet"
    assert CliRunner().invoke(main, [*asked, "user_id=ada", "--out", str(out)]).exit_code == 0
    assert parquet.read_table(out)["key.user_id"].to_pylist() == ["ada", "ada"]
    unknown = CliRunner().invoke(main, [*asked, "user=ada"])
    assert unknown.exit_code == 1
    assert "no key 'user'. Did you mean 'user_id'?" in " ".join(unknown.output.split())


def test_the_files_are_partitioned_by_service_and_time(project, logging_to):
    """Any reader of Parquet finds its way, and a file says what its columns are."""
    with tm.connect(project) as store:
        store.online("everything", {"user_id": "ada"}, at=AT)
    (file,) = logging_to.rglob("*.parquet")
    service, outputs, day, hour, _ = file.relative_to(logging_to).parts
    assert service == "service=everything"
    assert outputs.startswith("outputs=")
    now = datetime.now(UTC)
    assert day in {f"day={now:%Y-%m-%d}", f"day={now - timedelta(hours=1):%Y-%m-%d}"}
    assert hour.startswith("hour=")
    described = serving_log.Description
    assert isinstance(files.read_description(parquet.read_schema(file), file.parent), described)


def test_a_file_of_another_format_is_refused(project, logging_to):
    """Rather than misread: by whoever reads rows, counts them, or asks what was read last."""
    with tm.connect(project) as store:
        store.online("everything", {"user_id": "ada"}, at=AT)
        store.log.flush()
        (file,) = logging_to.rglob("*.parquet")
        table = parquet.read_table(file, partitioning=None)
        said = table.schema.metadata[b"tidemark"].replace(b'"format":1', b'"format":2')
        parquet.write_table(table.replace_schema_metadata({b"tidemark": said}), file)
        since = datetime.now(UTC) - timedelta(hours=1)
        for reading in (store.log.read, store.log.count, lambda: store.log.recent_features(since)):
            with pytest.raises(EngineError, match=r"has a file of format 2, .* knows format 1"):
                reading()


def test_rows_of_one_entity_and_of_one_time(project, logging_to):
    """`keys`, `since` and `until` narrow what is read."""
    with tm.connect(project) as store:
        store.online_many("everything", KEYS, at=AT)
        store.online("everything", {"user_id": "ada"}, at=AT)
        assert store.log.read(keys={"user_id": "ada"}).num_rows == 2
        assert store.log.read(since="1h").num_rows == 6
        assert store.log.read(until="1h").num_rows == 0
        assert store.log.read(service="asked").num_rows == 0


@pytest.mark.parametrize("keys", [{"user_id": 1}, {"user": "ada"}, {"user_id": None}])
def test_keys_that_no_row_can_have_are_refused(project, logging_to, keys):
    """A name or a type that the log has not; where it is empty, there is nothing to tell."""
    with tm.connect(project) as store:
        assert store.log.read(keys=keys).num_rows == 0
        store.online("everything", {"user_id": "ada"}, at=AT)
        with pytest.raises(RequestInvalid, match="No row of the log has such keys") as error:
            store.log.read(keys=keys)
    assert error.value.remedy == "Keys in the log: user_id: string."


def test_no_log_is_kept_where_none_is_asked_for(project, monkeypatch):
    """An empty folder switches it off; a store in memory has none."""
    monkeypatch.setenv("TIDEMARK_SERVING_LOG", "")
    with tm.connect(project) as store:
        assert store.online("everything", {"user_id": "ada"}, at=AT).request_id == ""
        with pytest.raises(NotFound, match="No serving log"):
            _ = store.log
    with tm.connect(":memory:") as store, pytest.raises(NotFound):
        _ = store.log


def test_a_sample_is_of_keys_and_always_the_same(project, logging_to, monkeypatch):
    """An entity is in the sample or is not, in every process and at every read."""
    monkeypatch.setenv("TIDEMARK_SERVING_LOG_SAMPLE", "0.3")
    many = [{"user_id": f"u{i}"} for i in range(1_000)]
    kept = []
    for _ in range(2):
        with tm.connect(project) as store:
            vectors = store.online_many("everything", many, at=AT)
            rows = store.log.read(request_id=vectors.request_id)
            kept.append(set(rows["key.user_id"].to_pylist()))
    assert kept[0] == kept[1]
    assert 200 < len(kept[0]) < 400


def test_a_sample_is_a_share(project, monkeypatch):
    """0 is refused: the way to keep no log is to say so."""
    monkeypatch.setenv("TIDEMARK_SERVING_LOG_SAMPLE", "0")
    with pytest.raises(RequestInvalid, match="serving_log_sample"):
        tm.connect(project)


def test_a_full_queue_drops_rows_and_counts_them(project, logging_to, monkeypatch):
    """Serving goes on as if nothing were."""
    monkeypatch.setattr(serving_log, "QUEUE_ROWS", 12)
    monkeypatch.setattr(serving_log, "TAKE_SECONDS", 3_600)
    with tm.connect(project) as store:
        for _ in range(4):
            store.online_many("everything", KEYS, at=AT)
        assert (store.log.waiting, store.log.dropped) == (10, 10)
        assert store.log.read().num_rows == 10


def test_what_cannot_be_written_is_counted_and_said_once(project, logging_to, caplog):
    """A folder that is a file: reads succeed, the log says so one time."""
    logging_to.write_text("in the way", "utf-8")
    with tm.connect(project) as store, caplog.at_level(logging.ERROR, "tidemark.log"):
        for _ in range(2):
            assert store.online("everything", {"user_id": "ada"}, at=AT)["events"] == 2
            store.log.flush()
        assert store.log.failed == 2
        assert len(caplog.records) == 1
        logging_to.unlink()
        store.online("everything", {"user_id": "ada"}, at=AT)
        store.log.flush()
        assert store.log.written == 1


def test_an_error_that_nobody_foresaw_costs_the_rows_it_met(project, logging_to, monkeypatch):
    """The thread goes on; the next answers are logged."""
    real = serving_log.Form.batch
    with tm.connect(project) as store:
        monkeypatch.setattr(serving_log.Form, "batch", lambda *_: {}["nothing"])
        store.online("everything", {"user_id": "ada"}, at=AT)
        store.log.flush()
        monkeypatch.setattr(serving_log.Form, "batch", real)
        store.online("everything", {"user_id": "ada"}, at=AT)
        store.log.flush()
        assert (store.log.failed, store.log.written) == (1, 1)


def test_hours_beyond_the_retention_are_removed(project, logging_to, monkeypatch):
    """An old hour goes with the next writing, a new one stays."""
    monkeypatch.setenv("TIDEMARK_SERVING_LOG_RETENTION", "7d")
    old = logging_to / "service=gone" / "outputs=0" / "day=2026-01-01" / "hour=03"
    old.mkdir(parents=True)
    (old / "0-1-2.parquet").write_bytes(b"")
    with tm.connect(project) as store:
        store.online("everything", {"user_id": "ada"}, at=AT)
        store.log.flush()
        assert not old.parent.exists()
        assert store.log.read().num_rows == 1


@pytest.mark.parametrize("part", ["rows", "footer", "end", "all"])
def test_a_damaged_file_costs_its_rows_only(project, logging_to, caplog, monkeypatch, part):
    """Wherever the disk lost some of it: all else is read, and the hour still becomes one file."""
    answered = clock()
    monkeypatch.setattr(serving_log, "clock", lambda: answered)  # so that it is one hour
    with tm.connect(project) as store:
        for user in ("ada", "nan", "inf"):
            store.online("everything", {"user_id": user}, at=AT)
            store.log.flush()
        file = max(logging_to.rglob("*.parquet"))
        lost = bytearray(file.read_bytes())
        footer = len(lost) - 8 - int.from_bytes(lost[-8:-4], "little")
        first, last = {
            "rows": (4, footer), "footer": (footer, len(lost) - 8),
            "end": (len(lost) - 8, len(lost)), "all": (0, len(lost)),
        }[part]  # fmt: skip
        lost[first:last] = bytes(last - first)
        file.write_bytes(lost)
        assert store.log.read().num_rows == 2
        assert "is damaged and is left out" in caplog.text
        damaged: set[str] = set()
        read = files.batches(logging_to, None, 0, 2**62, rows=10, damaged=damaged)
        assert sum(len(table) for _, table in read) == 2
        assert damaged == {file.name}
        assert store.log.recent_features(datetime(2026, 1, 1, tzinfo=UTC))
        assert files.merge(logging_to, 2**62) == 2
        assert store.log.read().num_rows == 2


def test_the_files_of_an_hour_that_is_over_become_one(project, logging_to, monkeypatch):
    """Rows count once, also where a crash left the files that were merged."""
    answered = clock()
    monkeypatch.setattr(serving_log, "clock", lambda: answered)  # so that it is one hour
    with tm.connect(project) as store:
        for user in USERS:
            store.online("everything", {"user_id": user}, at=AT)
            store.log.flush()
        before = str(store.log.read().to_pylist())
        names = list(logging_to.rglob("*.parquet"))
        assert len(names) == 5
        kept = {file: file.read_bytes() for file in names}
        assert files.merge(logging_to, 2**62) == 5
        (merged,) = logging_to.rglob("*.parquet")
        assert str(store.log.read().to_pylist()) == before
        for file, content in kept.items():
            file.write_bytes(content)
        assert str(store.log.read().to_pylist()) == before
        assert store.log.recent_features(datetime(2026, 1, 1, tzinfo=UTC))
        files.merge(logging_to, 2**62)
        assert list(logging_to.rglob("*.parquet")) == [merged]
        store.online("everything", {"user_id": "ada"}, at=AT)
        store.log.flush()
        files.merge(logging_to, 2**62)
        assert len(list(logging_to.rglob("*.parquet"))) == 1
        assert store.log.read().num_rows == 6


def test_several_processes_and_threads_write_to_one_log(project, logging_to):
    """Each writes files of its own; nothing is lost."""

    def serve():
        with tm.connect(project) as store:
            for _ in range(20):
                store.online("everything", {"user_id": "ada"}, at=AT)

    threads = [threading.Thread(target=serve) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    with tm.connect(project) as store:
        rows = store.log.read()
    assert rows.num_rows == 80
    assert len(set(rows["request_id"].to_pylist())) == 80


def test_a_feature_that_is_read_is_not_retired(project, logging_to):
    """The registry asks the log when a feature was read last."""
    with tm.connect(project) as store:
        store.online(["activity:most"], {"user_id": "ada"}, at=AT)
        read = store.log.recent_features(datetime(2026, 1, 1, tzinfo=UTC))
        assert list(read) == ["activity:most@1"]
        assert store.log.recent_features(datetime(2100, 1, 1, tzinfo=UTC)) == {}
        with pytest.raises(PlanConflict, match="still used"):
            store.registry.retire("activity:most@1")


PERSONAL = '''
from datetime import datetime

import tidemark as tm


class Person(tm.Entity, tags=("pii",)):
    """Somebody."""

    email: tm.Key[str]


class Visit(tm.Source, history=tm.parquet("events.parquet"), time="at"):
    """A visit."""

    user_id: tm.Col[str]
    amount: tm.Col[float | None] = tm.column(tags=("pii",))
    at: tm.Col[datetime]


class Seen(tm.FeatureView, entity=Person, source=Visit, by=Visit.user_id):
    """What is known of a person."""

    visits = tm.count()
    spent = tm.sum(Visit.amount)
    paid = tm.count(Visit.amount)


class About(tm.FeatureService):
    """Of a person."""

    visits = Seen.visits
    spent = Seen.spent
    paid = Seen.paid
'''


def test_what_is_tagged_pii_is_hashed(tmp_path, logging_to):
    """Keys and values of tagged columns are keyed hashes; counts stay, and one's rows are found."""
    folder = tmp_path / "personal"
    folder.mkdir()
    make_project(folder)
    define(folder, PERSONAL)
    with tm.connect(folder) as store:
        store.apply(store.plan(), reason="personal")
        store.materialize()
        store.online("about", {"email": "ada"}, at=AT)
        (row,) = store.log.read(service="about", keys={"email": "ada"}).to_pylist()
        assert store.log.read(service="about", keys={"email": "bob"}).num_rows == 0
    assert row["value.visits"] == 2
    assert row["value.paid"] == 2
    assert len(row["key.email"]) == len(row["value.spent"]) == 32
    plain = re.compile(rb"(?<![0-9a-f])ada(?![0-9a-f])")  # a hash may have these three digits
    for file in logging_to.rglob("*"):
        assert not file.is_file() or not plain.search(file.read_bytes())
    assert (logging_to / "mask.key").stat().st_mode & 0o777 == 0o600


def test_equal_values_have_equal_hashes(tmp_path):
    """In every process that shares the folder, whatever the spelling of the value."""
    one, other = serving_log.Mask(tmp_path), serving_log.Mask(tmp_path)
    money = tm.decimal(10, 2).type
    assert money is not None
    told = one.values([Decimal("1.5"), Decimal("1.50"), None], money)
    assert told[0] == told[1] == other.values([Decimal("1.50")], money)[0]
    assert told[2] is None


def test_a_nan_is_a_value(project, logging_to):
    """NaN is logged as NaN, and null as null."""
    with tm.connect(project) as store:
        store.online("everything", {"user_id": "nan"}, at=AT)
        (row,) = store.log.read().to_pylist()
    assert math.isnan(row["value.spend"])
    assert row["value.most"] is None


def test_files_that_other_processes_are_writing_are_not_read(project, logging_to: Path):
    """A part file is no part of the log."""
    with tm.connect(project) as store:
        store.online("everything", {"user_id": "ada"}, at=AT)
        store.log.flush()
        (file,) = logging_to.rglob("*.parquet")
        file.with_name(f".{file.name}").write_bytes(b"half")
        assert store.log.read().num_rows == 1
