"""For users' tests: `features_at`.  For authors of adapters: the contracts of the protocols.

The contracts are pytest classes, so they are imported on first use: `features_at` needs no pytest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tidemark.testing.features import features_at

if TYPE_CHECKING:
    from tidemark.testing.contracts import OnlineStoreContract

__all__ = ["OnlineStoreContract", "features_at"]


def __getattr__(name: str) -> Any:
    if name == "OnlineStoreContract":
        from tidemark.testing.contracts import OnlineStoreContract

        return OnlineStoreContract
    raise AttributeError(f"module 'tidemark.testing' has no attribute {name!r}")
