"""The images of this host, and those that it has to pull first; several engines wait for one pull."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait

from harmonicio.core.errors import HarmonicIOError, NotAllowed, NotFound
from harmonicio.worker.containers.docker_host import DockerHost
from harmonicio.worker.containers.docker_records import Image
from harmonicio.worker.containers.image_name import ImageName

#: How often those who wait are told how far a pull is.
PROGRESS_S = 1.0


class _Pull:
    """A pull that goes on in a thread of its own, which ends with it."""

    def __init__(self, host: DockerHost, name: str, within_s: float, on_end: Callable[[], None]) -> None:
        self.progress = "being pulled"
        self.outcome: Future[None] = Future()
        self._host, self._name, self._within_s, self._on_end = host, name, within_s, on_end

    def start(self) -> None:
        # A pull that is stuck in the Docker engine cannot be cut off, and must not hold up the end of the worker.
        threading.Thread(target=self._run, name="worker-pull", daemon=True).start()

    def _run(self) -> None:
        try:
            self._host.pull(self._name, self._within_s, self._hear)
            self.outcome.set_result(None)
        except Exception as error:  # noqa: BLE001  told to those who wait, who raise it
            self.outcome.set_exception(error)
        finally:
            self._on_end()

    def _hear(self, progress: str) -> None:
        self.progress = progress


class ImageShelf:
    """Finds images by name.

    Args:
        pull_timeout_s: How long a pull may take; 0 pulls nothing.
    """

    def __init__(self, host: DockerHost, pull_timeout_s: float) -> None:
        self._host = host
        self._pull_timeout_s = pull_timeout_s
        self._lock = threading.Lock()
        self._pulls: dict[str, _Pull] = {}

    def __repr__(self) -> str:
        return f"<ImageShelf of {self._host!r}, {len(self._pulls)} being pulled>"

    def get(self, name: ImageName, on_progress: Callable[[str], None]) -> Image:
        """Return an image, pulled if need be.

        Args:
            on_progress: Told in words how far the pull is, again and again; what it raises ends the waiting.

        Raises:
            NotFound, Unavailable: it cannot be had.
            NotAllowed: the image of this name is another than the digest says.
        """
        try:
            return self._local(name)
        except (NotFound, NotAllowed) as error:
            if not self._pull_timeout_s:
                raise
            return self._pulled(name, error, on_progress)

    def _local(self, name: ImageName) -> Image:
        if not name.digest:
            return self._host.image(name.tagged)
        try:
            return self._host.image(f"{name.repository}@{name.digest}")
        except NotFound:
            found = self._host.image(name.tagged)
        if found.id != name.digest:  # One that was built here has no digest of a registry; its id says as much.
            raise NotAllowed(
                f"Image {name.tagged} of this host is {found.digest_in(name.repository)}, declared was {name.digest}.",
                hint="It has changed; declare the stream with the digest that is meant.",
            )
        return found

    def _pulled(self, name: ImageName, missing: HarmonicIOError, on_progress: Callable[[str], None]) -> Image:
        wanted = f"{name.repository}@{name.digest}" if name.digest else name.tagged
        with self._lock:
            pull = self._pulls.get(wanted)
            if pull is None:
                pull = _Pull(self._host, wanted, self._pull_timeout_s, lambda: self._drop(wanted))
                self._pulls[wanted] = pull
                pull.start()
        while not pull.outcome.done():
            on_progress(f"Image {wanted} is {pull.progress}.")
            wait([pull.outcome], PROGRESS_S)
        try:
            pull.outcome.result()
        except HarmonicIOError as error:
            raise (missing if isinstance(missing, NotAllowed) else error) from None
        return self._local(name)

    def _drop(self, name: str) -> None:
        with self._lock:
            self._pulls.pop(name, None)
