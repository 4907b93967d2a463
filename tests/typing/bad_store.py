"""Misuses of the store and its registry that a type checker finds; each is marked `# wrong`."""

import tidemark as tm
from tidemark.registry import Plan


def wrong(store: tm.Store, plan: Plan) -> None:
    tm.connect(3)  # wrong
    store.plan(restate=[])  # wrong
    store.apply()  # wrong
    store.apply("plan.json")  # wrong
    store.apply(plan, because="x")  # wrong
    store.training_set("fraud")  # wrong
    store.training_set("fraud", [], save_to="march")  # wrong
    store.materialize(until=3)  # wrong
    store.push("purchase")  # wrong
    store.push("purchase", [], on_error="ignore")  # wrong
    store.online("fraud", ["u1"])  # wrong
    store.online("fraud", {"user_id": "u1"}, at=3)  # wrong
    store.online("fraud", {"user_id": "u1"}).stauts("total")  # wrong
    store.revert("r2")  # wrong
    store.registry.revert(2.5)  # wrong
    store.registry.retire("spend:total", unread_for=7)  # wrong
    store.registry.register_model("fraud", "3", service="fraud")  # wrong
    store.registry.register_model("fraud", 3)  # wrong
    store.registry.register_model("fraud", 3, service="fraud", stage="live")  # wrong
    store.registry.search(limit="3")  # wrong
    store.registry.lineage("spend", "sideways")  # wrong
    store.registry.lineage("spend").render("svg")  # wrong
    store.registry.value_twins(entities=0.5)  # wrong
    store.registry.verify_dataset()  # wrong
    store.registry.confirm(plan, by="risk")  # wrong
