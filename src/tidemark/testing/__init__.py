"""For users' tests: `features_at`.  For authors of adapters: the contracts of the protocols.

The contracts are pytest classes, so they are imported on first use: `features_at` needs no pytest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tidemark.testing.features import features_at

if TYPE_CHECKING:
    from tidemark.testing.contracts import OnlineStoreContract
    from tidemark.testing.registry import RevisionsContract

__all__ = ["OnlineStoreContract", "RevisionsContract", "features_at"]


def __getattr__(name: str) -> Any:
    if name == "OnlineStoreContract":
        from tidemark.testing.contracts import OnlineStoreContract

        return OnlineStoreContract
    if name == "RevisionsContract":
        from tidemark.testing.registry import RevisionsContract

        return RevisionsContract
    raise AttributeError(f"module 'tidemark.testing' has no attribute {name!r}")
