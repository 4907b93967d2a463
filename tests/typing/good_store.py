"""The store and its registry as users call them; every line must please strict type checkers.

Nothing here is run: the calls stand in functions that take what they need.
"""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, assert_type

import tidemark as tm
from tidemark.engines.dataset import Dataset
from tidemark.engines.log import Letter
from tidemark.engines.result import Split, TrainingSet
from tidemark.ingest.apply import CaughtUp
from tidemark.ingest.materialize import Materialized
from tidemark.ingest.push import Pushed
from tidemark.model.diff import Change
from tidemark.model.graph import Definitions
from tidemark.model.lineage import Lineage
from tidemark.model.records import DatasetRecord, Model, Records
from tidemark.model.search import Results
from tidemark.model.twins import Twin
from tidemark.monitor.agreement import ValueTwin
from tidemark.monitor.audit import Audit
from tidemark.monitor.freshness import Freshness
from tidemark.registry import Applied, Backfill, Plan, Snapshot
from tidemark.registry.protocol import Jobs
from tidemark.serve import Reader, Status, Vector, Vectors
from tidemark.serve.log import ServingLog
from tidemark.store.describe import Description
from tidemark.store.schedule import Schedule, Standing
from tidemark.store.verification import Verification

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


class User(tm.Entity):
    user_id: tm.Key[str]


class Purchase(tm.Source, time="at"):
    user_id: tm.Col[str]
    amount: tm.Col[float]
    at: tm.Col[datetime]


class Spend(tm.FeatureView, entity=User, source=Purchase):
    total = tm.sum(Purchase.amount, over="7d")


class Fraud(tm.FeatureService):
    total = Spend.total


def opened() -> None:
    assert_type(tm.connect(), tm.Store)
    assert_type(tm.connect(":memory:"), tm.Store)
    with tm.connect(Path("shop")) as store:
        assert_type(store, tm.Store)
        assert_type(store.config.name, str)
        store.close()


def planned(store: tm.Store) -> None:
    plan = store.plan()
    assert_type(plan, Plan)
    assert_type(store.plan([Spend, Fraud], restated=[Purchase, "other"]), Plan)
    assert_type(plan.empty, bool)
    assert_type(plan.changes, tuple[Change, ...])
    assert_type(plan.backfill, tuple[Backfill, ...])
    assert_type(plan.backfill[0].seconds, float | None)
    assert_type(store.registry.estimate([Spend]), tuple[Backfill, ...])
    assert_type(plan.to_markdown(), str)
    assert_type(plan.to_dict(), dict[str, Any])
    plan.write("plan.json")
    plan.check(["spend:total"])
    applied = store.apply(Plan.read(Path("plan.json")), reason="first", draft=True)
    assert_type(applied, Applied)
    assert_type(applied.revision, int)
    store.apply(plan, allow_duplicates=["spend:total"])


def trained(store: tm.Store, labels: object) -> None:
    training = store.training_set(
        Fraud,
        labels,
        time="at",
        timezone="UTC",
        hindsight=True,
        full_names=True,
        save_as="march",
        split={"time": "2026-03-01T00:00:00Z", "gap": "1d"},
    )
    assert_type(training, TrainingSet)
    assert_type(len(training), int)
    assert_type(training.split(0.2), Split)
    assert_type(training.split((0.1, 0.2), by="entity", seed=7, entity="user"), Split)
    assert_type(training.split(time=NOON, gap=timedelta(days=1)).report.leaks, tuple[str, ...])
    store.training_set([Spend.total, "spend:total"], labels)


def pushed(store: tm.Store) -> None:
    row = {"user_id": "u1", "amount": 1.0, "at": NOON}
    taken = store.push(Purchase, [row], on_error="quarantine", key="batch-7")
    assert_type(taken, Pushed)
    assert_type(taken.accepted, int)
    store.push("purchase", row)
    assert_type(store.events.dead_letters(Purchase, after=3, most=10), list[Letter])
    assert_type(store.events.catch_up(), dict[str, CaughtUp])
    store.events.catch_up(Purchase)


def served(store: tm.Store) -> None:
    assert_type(store.materialize(), Materialized)
    assert_type(store.materialize([Spend, "other"], until=NOON).gone, tuple[str, ...])
    vector = store.online(Fraud, {"user_id": "u1"}, request={"amount": 3.0}, at=NOON)
    assert_type(vector, Vector)
    assert_type(vector["total"], Any)
    assert_type(vector.status("total"), Status)
    assert_type(vector.age("total"), timedelta | None)
    vectors = store.online_many("fraud", [{"user_id": "u1"}], at="2026-03-02T12:00:00Z")
    assert_type(vectors, Vectors)
    assert_type(vectors.to_dicts(), list[dict[str, Any]])
    assert_type(store.reader([Spend.total]), Reader)
    assert_type(store.readers.snapshot(), Snapshot)
    assert_type(store.freshness(), Freshness)
    assert_type(store.audit(since="1h", service="fraud", sample=0.5), Audit)
    assert_type(store.audit(probe=10), Audit)
    assert_type(store.audits(), list[dict[str, Any]])
    assert_type(store.schedule, Schedule)
    assert_type(store.schedule.standing(), list[Standing])
    assert_type(store.log, ServingLog)
    assert_type(store.log.recent_features(NOON), dict[str, datetime])


def serving(store: tm.Store) -> None:
    store.serve(host="127.0.0.1", port=0, workers=2, started=print)


def described(store: tm.Store) -> None:
    assert_type(store.describe(), Description)
    assert_type(store.describe(Spend, as_of=1), Description)
    assert_type(store.describe("spend:total@1", as_of=NOON)["name"], Any)


def lived(store: tm.Store) -> None:
    registry = store.registry
    registry.deprecate("spend:total", replacement="spend:sum", sunset=date(2027, 1, 1), reason="")
    registry.deprecate("spend:total", sunset="2027-01-01", author="ada")
    registry.retire("spend:total", replacement="spend:sum", reason="costly", unread_for="3d")
    registry.retire("spend:total", unread_for=timedelta(days=1), author="ada")
    registry.retire("spend:total", unread_for=None)
    registry.publish("spend:total", reason="needed", author="ada")

    def recently_read(since: datetime) -> Mapping[str, datetime]:
        return {"spend:total@1": since}

    registry.recently_read = recently_read


def consumed(store: tm.Store, plan: Plan, record: DatasetRecord) -> None:
    registry = store.registry
    model = registry.register_model(
        "fraud", 3, service=Fraud, dataset="march", owner="risk", stage="production", author="ada"
    )
    assert_type(model, Model)
    assert_type(registry.model("fraud"), Model)
    assert_type(registry.model("fraud", 3).reference, str)
    registry.confirm(plan, model="fraud@3", by="risk")
    registry.register_dataset(record, author="ada")
    assert_type(registry.dataset("march"), Dataset)
    assert_type(registry.datasets(as_of="r3"), list[Dataset])
    found = registry.verify_dataset("march")
    assert_type(found, Verification)
    assert_type(found.changed, tuple[str, ...])


def found(store: tm.Store) -> None:
    registry = store.registry
    assert_type(registry.search("purchases 7 days", entity="user", limit=3), Results)
    registry.search(owner="risk", tag="pii", type="int64", source="purchase", kind="feature")
    assert_type(registry.duplicates(as_of=NOON), tuple[Twin, ...])
    assert_type(registry.value_twins(entities=20, least=0.9), tuple[ValueTwin, ...])
    assert_type(registry.lineage("spend:total", "upstream", as_of=3), Lineage)
    assert_type(registry.lineage("purchase.amount").render("mermaid"), str)


def remembered(store: tm.Store, definitions: Definitions) -> None:
    registry = store.registry
    assert_type(registry.snapshot(), Snapshot)
    assert_type(registry.snapshot("r12").definitions, Definitions)
    assert_type(registry.history(), list[Snapshot])
    assert_type(registry.log(limit=3), list[Snapshot])
    assert_type(registry.diff(1, NOON), tuple[Change, ...])
    assert_type(registry.verify(), int)
    assert_type(registry.identity, str)
    assert_type(registry.jobs, Jobs)
    assert_type(registry.revert("r2"), Plan)
    plan = registry.plan(definitions, restated=["purchase"])
    assert_type(registry.apply(plan, reason="as it was", author="ada"), Applied)
    assert_type(registry.published().registry, str)

    def edit(now: Snapshot) -> Records:
        return now.records

    assert_type(registry.record(edit, reason="nothing", author="ada"), Snapshot)
    registry.close()
