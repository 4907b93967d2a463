"""For users' tests: `features_at`.  For authors of adapters: the contracts of the protocols.

The contracts are pytest classes, so they are imported on first use: `features_at` needs no pytest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tidemark.testing.features import features_at

if TYPE_CHECKING:
    from tidemark.testing.contracts import OnlineStoreContract
    from tidemark.testing.registry import RevisionsContract
    from tidemark.testing.streams import StreamSourceContract

__all__ = ["OnlineStoreContract", "RevisionsContract", "StreamSourceContract", "features_at"]


def __getattr__(name: str) -> Any:
    if name == "OnlineStoreContract":
        from tidemark.testing.contracts import OnlineStoreContract

        return OnlineStoreContract
    if name == "RevisionsContract":
        from tidemark.testing.registry import RevisionsContract

        return RevisionsContract
    if name == "StreamSourceContract":
        from tidemark.testing.streams import StreamSourceContract

        return StreamSourceContract
    raise AttributeError(f"module 'tidemark.testing' has no attribute {name!r}")
