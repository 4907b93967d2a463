"""All that the processes of a run need, for the server whose children they are."""

# ruff: noqa: F401
import duckdb
import tests.torture.actors
import uvicorn

import tidemark.apps.http.service
import tidemark.ingest.consume
import tidemark.ingest.materialize
import tidemark.ingest.push
import tidemark.ingest.streams.kafka
import tidemark.ingest.streams.redis
import tidemark.kernel.partials
import tidemark.kernel.tree
import tidemark.online.lmdb
import tidemark.online.redis
import tidemark.store
from tidemark.kernel.compiled import FOR_ALL, FOR_PUSHES, FOR_TREES, ready

ready(FOR_ALL)
ready(FOR_TREES)
ready(FOR_PUSHES)
