"""All that the processes of a run need, for the server whose children they are.

Nothing here opens a file of a store or starts a thread: what a child is killed with is its own.
"""

# ruff: noqa: F401
import atexit
import gc

import duckdb
import pyarrow.dataset
import rich.console
import sqlalchemy.dialects.sqlite
import tests.torture.actors
import tests.torture.run
import uvicorn.lifespan.on
import uvicorn.loops.auto
import uvicorn.protocols.http.auto

import tidemark.apps.http.service
import tidemark.ingest.consume
import tidemark.ingest.materialize
import tidemark.ingest.push
import tidemark.ingest.streams.kafka
import tidemark.ingest.streams.lines
import tidemark.ingest.streams.redis
import tidemark.kernel.partials
import tidemark.kernel.tree
import tidemark.online.stores.lmdb
import tidemark.online.stores.redis
import tidemark.serve.log
import tidemark.serve.log.files
import tidemark.serve.log.form
import tidemark.store
import tidemark.store.schedule
from tidemark.kernel.compiled import FOR_ALL, FOR_PUSHES, FOR_TREES, ready

for modules in (FOR_ALL, FOR_TREES, FOR_PUSHES):
    ready(modules)
gc.collect()
atexit.register(gc.unfreeze)
gc.freeze()  # children do not look through it again, which would copy the pages that it is on
