"""Ray: an actor for each worker; a message goes through the object store of the host."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from tempfile import TemporaryDirectory
from typing import Any

from micro.peers.base import Peer, Work, keep_window, touch
from micro.sizes import payload_of

_STORE_BYTES = 2 * 2**30


class _Actor:
    def take(self, payload: Any) -> bytes:
        touch(payload)
        return b"\1"


def remote(work: Work) -> float:
    """The source: it starts Ray and the actors; how many follows from the addresses."""
    os.environ["RAY_AUTH_MODE"] = "disabled"  # Else it leaves a token in the user's home.
    import numpy
    import ray

    payload = numpy.frombuffer(payload_of(work.size_bytes), numpy.uint8)
    with TemporaryDirectory(prefix="ray-") as folder, _ray(ray, len(work.workers), folder):
        actors = cycle([ray.remote(num_cpus=1)(_Actor).remote() for _ in work.workers])
        under_way: list[Any] = []

        def receive() -> int:
            done, under_way[:] = ray.wait(under_way, num_returns=1)
            return len(ray.get(done))

        return keep_window(work, lambda: under_way.append(next(actors).take.remote(payload)), receive)


@contextmanager
def _ray(ray: Any, workers: int, folder: str) -> Iterator[None]:
    options = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error", "_temp_dir": folder}
    ray.init(num_cpus=workers, object_store_memory=_STORE_BYTES, **options)
    try:
        yield
    finally:
        ray.shutdown()


ACTORS = Peer("Ray actors (object store of the host)", remote, modules=("ray", "numpy"), is_usual=False)
