"""What every process of the yard imports, once: they are forked from a process that has."""

from __future__ import annotations

import threading

import duckdb  # noqa: F401
import numpy as np  # noqa: F401
import pandas as pd  # noqa: F401
import polars as pl  # noqa: F401
import pyarrow.parquet as pq  # noqa: F401
from tqdm import tqdm

import maestro_dagster.costs.compact
import maestro_dagster.costs.cube
import maestro_dagster.manifest.read
import maestro_dagster.project.usage_check  # noqa: F401
from maestro_dagster.costs.expectation import _quiet

with _quiet():
    import great_expectations as gx
    from great_expectations.expectations.expectation_configuration import (
        ExpectationConfiguration,  # noqa: F401
    )

    gx.get_context  # noqa: B018 - imported lazily, so asked for

# Each process would make a semaphore for progress bars that nobody sees, and leave it when it is killed.
tqdm.set_lock(threading.RLock())
