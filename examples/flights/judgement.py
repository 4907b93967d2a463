"""What a model is worth: on features as they stood, and on a join that saw the future.

The naive way to train on delays is a table of daily figures for each airline and airport, joined
to each flight by its date.  It is a few lines of SQL, and it leaks: the figures of a day hold
flights that land after the prediction, among them the flight itself.  The model learns to read its
own answer, so it scores well wherever the answer is in the table.  In production it is not.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

NEW_YORK = "America/New_York"
AUTUMN = datetime(2013, 9, 1, tzinfo=ZoneInfo(NEW_YORK))

KEYS = ("carrier", "origin", "dest")
DAYS = (1, 7, 30)
FIGURES = tuple(f"{key}_{what}_{n}d" for key in KEYS for n in DAYS for what in ("late", "delay"))
"""The columns of the naive table: the service has the same figures, by the same names."""

SCHEDULE = ("departure_hour", "departure_weekday", "distance")
"""What is known of every flight long before; both models get it."""

# A day's figures include the whole day, whenever its flights landed.  This is the mistake.
ROLLING = """
    with daily as (
        select
            {key},
            timezone('{zone}', scheduled_departure)::date as day,
            count(*) as flights,
            count(*) filter (arr_delay > 15) as late,
            sum(arr_delay) as delay
        from arrivals
        group by all
    )
    select {key}, day, {figures}
    from daily
    window {windows}
"""
FIGURE = "sum({what}) over last_{n} / sum(flights) over last_{n} as {key}_{what}_{n}d"
WINDOW = """
    last_{n} as (
        partition by {key} order by day
        range between interval {before} days preceding and current row
    )
"""


class Scores(NamedTuple):
    """Areas under the ROC curve on the flights from September on.

    `promised` is what the naive join reports, `delivered` what the same model does with the figures
    that existed when it would have been asked; `honest` was trained on features as they stood.
    """

    promised: float
    delivered: float
    honest: float


def judge(training: pa.Table, features: Sequence[str], arrivals: pa.Table) -> Scores:
    """Train on predictions made before September, and score those made after."""
    seen = np.asarray(pc.less(training["predict_at"], pa.scalar(AUTUMN)))
    late = np.asarray(training["late"])
    columns = (*SCHEDULE, *FIGURES)
    naive = matrix(naive_join(training, arrivals), columns)
    served = matrix(training, columns)
    exact = matrix(training, features)
    model = fitted(naive[seen], late[seen])
    honest = fitted(exact[seen], late[seen])
    unseen = ~seen
    return Scores(
        promised=_auc(model, naive[unseen], late[unseen]),
        delivered=_auc(model, served[unseen], late[unseen]),
        honest=_auc(honest, exact[unseen], late[unseen]),
    )


def naive_join(training: pa.Table, arrivals: pa.Table) -> pa.Table:
    """The rows with `FIGURES` replaced by what the daily table says for the date of the flight."""
    rows = training.drop_columns(list(FIGURES)).append_column("row", pa.array(range(len(training))))
    with duckdb.connect() as con:
        con.execute("set TimeZone = 'UTC'")
        con.register("arrivals", arrivals)
        con.register("flights", rows)
        for key in KEYS:
            con.execute(f"create table by_{key} as {_rolling(key)}")
        joins = " ".join(
            f"left join by_{key} on by_{key}.{key} = flights.{key} and by_{key}.day = "
            f"timezone('{NEW_YORK}', flights.scheduled_departure)::date"
            for key in KEYS
        )
        query = f"select flights.*, {', '.join(FIGURES)} from flights {joins} order by row"
        return con.sql(query).to_arrow_table()


def _rolling(key: str) -> str:
    figures = [FIGURE.format(key=key, what=what, n=n) for n in DAYS for what in ("late", "delay")]
    windows = [WINDOW.format(key=key, n=n, before=n - 1) for n in DAYS]
    return ROLLING.format(
        key=key, zone=NEW_YORK, figures=", ".join(figures), windows=", ".join(windows)
    )


def matrix(table: pa.Table, columns: Sequence[str]) -> NDArray[np.float64]:
    """The columns as floats, null as NaN."""
    floats = [table[name].cast(pa.float64()).to_numpy() for name in columns]
    return np.column_stack(floats)


def fitted(values: NDArray[np.float64], late: NDArray[np.bool_]) -> Any:
    """A logistic regression on scaled values, a missing one taken as the mean."""
    model = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression(max_iter=200))
    return model.fit(values, late)


def _auc(model: Any, values: NDArray[np.float64], late: NDArray[np.bool_]) -> float:
    return float(roc_auc_score(late, model.predict_proba(values)[:, 1]))
