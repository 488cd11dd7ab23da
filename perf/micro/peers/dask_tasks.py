"""Dask distributed: a task for each message, on worker processes of a local cluster."""

from __future__ import annotations

from typing import Any

from micro.peers.base import Peer, Work, keep_window, touch
from micro.sizes import payload_of


def take(payload: bytes) -> bytes:
    """The task."""
    touch(payload)
    return b"\1"


def submit(work: Work) -> float:
    """The source: it starts the cluster; how many workers follows from the addresses."""
    from dask.distributed import Client, LocalCluster, as_completed

    payload = payload_of(work.size_bytes)
    with (
        LocalCluster(n_workers=len(work.workers), threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        finished: Any = as_completed()

        def receive() -> int:
            next(finished)
            return 1

        return keep_window(work, lambda: finished.add(client.submit(take, payload, pure=False)), receive)


TASKS = Peer("Dask distributed", submit, modules=("distributed",), is_usual=False)
