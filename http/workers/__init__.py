"""Worker processes on one port: a supervisor that keeps the sockets, and those who serve."""

from runtime._http.workers.info import WorkerInfo, workers

__all__ = ["WorkerInfo", "workers"]
