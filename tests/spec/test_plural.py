"""Numbers of things are said as people say them."""

from tidemark.model.plural import counted


def test_one_is_not_several() -> None:
    """And several thousand are readable."""
    assert counted(0, "event") == "0 events"
    assert counted(1, "event") == "1 event"
    assert counted(1_204, "dead letter") == "1,204 dead letters"
    assert counted(1, "entity", "entities") == "1 entity"
    assert counted(2, "entity", "entities") == "2 entities"
