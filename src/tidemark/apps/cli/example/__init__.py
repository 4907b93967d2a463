"""The project that `tidemark init` makes: card purchases, and labels that say which were fraud."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pyarrow as pa
from pyarrow import parquet

from tidemark.errors import RequestInvalid

_FILES = {
    "tidemark.toml": "tidemark.toml",
    "features.py": "features.py",
    "test_features.py": "test_features.py.txt",
    ".gitignore": "gitignore",
}
_COMMANDS = (
    "tidemark plan",
    "tidemark apply --yes",
    "tidemark train fraud --labels data/labels.parquet --out training.parquet",
    "tidemark materialize",
    "tidemark online fraud --key user_id=u1 --request amount=42",
    "tidemark describe fraud",
)
_DAYS = 60
_USERS = 50
_MERCHANTS = ("bakery", "bookshop", "cinema", "garage", "grocer")


class Made(NamedTuple):
    """The files that were written, and the commands to try next."""

    files: tuple[str, ...]
    commands: tuple[str, ...]


def _exists(file: Path) -> bool:
    """Whether a file is there, as far as we may look; writing it tells of the rest."""
    try:
        return file.exists()
    except PermissionError:
        return False


def create(path: Path) -> Made:
    """Write the example project; raises `RequestInvalid` rather than overwrite a file."""
    data = ("data/purchases/part-0.parquet", "data/labels.parquet")
    present = [name for name in (*_FILES, *data) if _exists(path / name)]
    if present:
        raise RequestInvalid(
            f"{path} already has {', '.join(present)}.",
            remedy="Choose another directory: tidemark init my-features",
        )
    random = Random(2026)  # noqa: S311 - the same users and amounts everywhere
    purchases = _purchases(random)
    tables = {data[0]: purchases, data[1]: _labels(purchases, random)}
    try:
        for name, template in _FILES.items():
            text = resources.files(__name__).joinpath(template).read_text("utf-8")
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(text, "utf-8")
        for name, rows in tables.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            columns = {column: [row[column] for row in rows] for column in rows[0]}
            parquet.write_table(pa.table(columns), path / name)
    except OSError as error:
        raise RequestInvalid(
            f"{path} cannot be written: {error.strerror}.",
            remedy="Choose a directory that you may write to.",
        ) from error
    return Made((*_FILES, *data), _COMMANDS)


def _purchases(random: Random) -> list[dict[str, Any]]:
    """Purchases of the last weeks, so that windows that end now have something in them."""
    end = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    moments = sorted(
        end - timedelta(seconds=random.randrange(_DAYS * 86_400)) for _ in range(3_000)
    )
    return [
        {
            "order_id": f"o{number}",
            "user_id": f"u{random.randrange(_USERS)}",
            "amount": round(random.lognormvariate(3.3, 0.8), 2),
            "merchant": random.choice(_MERCHANTS),
            "status": "settled" if random.random() < 0.9 else "declined",
            "purchased_at": moment,
        }
        for number, moment in enumerate(moments, 1)
    ]


def _labels(purchases: list[dict[str, Any]], random: Random) -> list[dict[str, Any]]:
    """Every tenth purchase, one second before it happened, and whether it was fraud."""
    return [
        {
            "user_id": purchase["user_id"],
            "at": purchase["purchased_at"] - timedelta(seconds=1),
            "amount": purchase["amount"],
            "is_fraud": random.random() < min(0.9, purchase["amount"] / 400),
        }
        for purchase in purchases[::10]
    ]
