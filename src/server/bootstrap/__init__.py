"""The composition root of a worker: the one place where all parts meet, a module for each group of them.

`serving` puts together what answers calls, `run` is the life of a process that has it.
"""

from server.bootstrap.base import GOODBYE_S
from server.bootstrap.run import run_worker
from server.bootstrap.serving import worker
from server.bootstrap.stores import RecordsLost

__all__ = ["GOODBYE_S", "RecordsLost", "run_worker", "worker"]
