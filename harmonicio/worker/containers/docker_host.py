"""The Docker engine of this host, in our words: nobody else knows its library, or how it fails.

Unavailable   it does not answer, or cannot do this now
NotFound      there is no such image or container
NotAllowed    this user may not talk to it
InvalidInput  it refuses what it was given
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from typing import Any

import docker
import psutil
import requests
from docker import auth, errors, utils
from docker.types.daemon import CancellableStream

from harmonicio.core.errors import ConfigurationError, HarmonicIOError, InvalidInput, NotAllowed, NotFound, Unavailable
from harmonicio.core.printable import one_line
from harmonicio.core.settings import DockerSettings
from harmonicio.worker.containers.docker_log import LogEntry, entries
from harmonicio.worker.containers.docker_records import BuildOrder, DockerEvent, Image, image_of
from harmonicio.worker.containers.docker_words import (
    OF_THE_BUILD,
    PullProgress,
    is_complaint,
    lines_of,
    message_in,
    root_of,
)

#: How long one request may take, apart from pulls and builds.
ANSWER_WITHIN_S = 60.0
#: The oldest API that has what we use; newer engines understand it.
API_VERSION = "1.41"
MAX_CONNECTIONS = 64
#: Nothing was heard for so long: the connection for events is made anew, and everything is looked at.
EVENTS_QUIET_S = 10.0
LOG_CHUNK_BYTES = 64 * 1024
#: A pull from which nothing is heard for so long has failed.
PULL_STALLS_AFTER_S = 120.0


class DockerHost:
    """Talks to one Docker engine; may be used by several threads.

    Args:
        url: Where it is; empty takes ``DOCKER_HOST``, else the usual socket.
    """

    def __init__(self, url: str = "") -> None:
        self.url = url or os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
        options = utils.kwargs_from_env()
        options["base_url"] = self.url
        try:
            self._api = docker.APIClient(
                version=API_VERSION, timeout=int(ANSWER_WITHIN_S), max_pool_size=MAX_CONNECTIONS, **options
            )
        except (errors.DockerException, ValueError) as error:
            raise ConfigurationError(f"docker.url is {self.url[:200]!r}: {error}.") from error

    def __repr__(self) -> str:
        return f"<DockerHost {self.url}>"

    @property
    def socket_path(self) -> str:
        """The path of its socket on this host; empty when it is reached otherwise."""
        kind, _, path = self.url.partition("://")
        return path if kind in ("unix", "http+unix") else ""

    def close(self) -> None:
        self._api.close()

    def check(self) -> None:
        """Raise Unavailable or NotAllowed when it does not answer."""
        with self._mapped():
            self._api.ping()

    # ── images ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def image(self, name: str) -> Image:
        """Return an image of this host.

        Raises:
            NotFound: it is not here.
        """
        with self._mapped():
            try:
                return image_of(self._api.inspect_image(name))
            except errors.ImageNotFound:
                raise NotFound(f"There is no image {name} on this host.") from None

    def images(self, label: str) -> tuple[Image, ...]:
        """Return the images of this host that have a label."""
        with self._mapped():
            found = self._api.images(filters={"label": label})
        return tuple(image_of(each) for each in found)

    def pull(self, name: str, within_s: float, on_progress: Callable[[str], None]) -> None:
        """Pull an image; ``name`` has a tag or a digest.

        Args:
            on_progress: Told how far it is, in words, with each news.

        Raises:
            Unavailable: it was not there in time; or NotFound, InvalidInput.
        """
        progress, deadline = PullProgress(), time.monotonic() + within_s
        too_late = Unavailable(f"Image {name} was not pulled within {within_s:g} s.", hint="See docker.pull_timeout_s.")
        try:
            with self._mapped(), self._ask_to_pull(name, min(within_s, PULL_STALLS_AFTER_S)) as answer:
                for line in map(json.loads, filter(None, answer.iter_lines())):
                    if "error" in line:
                        raise NotFound(f"Image {name} cannot be pulled: {one_line(str(line['error']))[:500]}.")
                    on_progress(progress.hear(line))
                    if time.monotonic() > deadline:
                        raise too_late
        except Unavailable as error:
            raise too_late if isinstance(error.__cause__, requests.Timeout) else error from None

    def _ask_to_pull(self, name: str, stalls_after_s: float) -> requests.Response:
        """Begin to pull. The library's own way to do it never gives up."""
        repository, _, version = name.partition("@") if "@" in name else name.rpartition(":")
        registry, _ = auth.resolve_repository_name(repository)
        proof = auth.get_config_header(self._api, registry)
        answer = self._api.post(
            f"{self._api.base_url}/v{API_VERSION}/images/create",
            params={"fromImage": repository, "tag": version},
            headers={"X-Registry-Auth": proof} if proof else {},
            stream=True,
            timeout=(ANSWER_WITHIN_S, stalls_after_s),
        )
        if answer.status_code >= 400:
            with answer:
                said = message_in(answer.text)
            raise NotFound(f"Image {name} cannot be pulled: {said}.")
        return answer

    def build(self, order: BuildOrder, on_line: Callable[[str], None]) -> str:
        """Build an image and return its id.

        Args:
            on_line: Told what the build says, line by line.

        Raises:
            InvalidInput: the build failed; says what the Docker engine says.
        """
        image_id = last_words = last_complaint = ""
        with self._mapped():
            for line in self._api.build(
                path=str(order.folder),
                dockerfile=str(order.dockerfile) if order.dockerfile else None,
                tag=order.tag or None,
                target=order.target or None,
                buildargs=dict(order.arguments),
                labels=dict(order.labels),
                network_mode=order.network or None,
                rm=True,
                forcerm=True,
                decode=True,
            ):
                if "error" in line:
                    name, said = order.tag or order.folder.name, one_line(str(line["error"]))[:500]
                    words = f" It said: {last_complaint or last_words}." if last_words else ""
                    raise InvalidInput(f"The image {name} cannot be built: {said}.{words}")
                stream = line.get("stream")
                for text in lines_of(stream):
                    on_line(text)
                    if not text.startswith(OF_THE_BUILD):
                        last_words = one_line(text)[:500]
                        if is_complaint(stream):
                            last_complaint = last_words
                image_id = (line.get("aux") or {}).get("ID", image_id)
        return image_id

    def remove_image(self, name: str) -> None:
        """Remove an image, unless something else is made of it."""
        with suppress(NotFound, InvalidInput), self._mapped():
            self._api.remove_image(name)

    def command_of(self, name: str) -> list[str]:
        """Return the arguments that an image gives its entry point."""
        with self._mapped():
            return list(self._api.inspect_image(name)["Config"].get("Cmd") or [])

    # ── containers ───────────────────────────────────────────────────────────────────────────────────────────────────

    def create(self, name: str, plan: Mapping[str, Any]) -> str:
        """Make a container by the words of the API and return its id."""
        with self._mapped():
            return str(self._api.create_container_from_config(dict(plan), name)["Id"])

    def start(self, container: str) -> None:
        with self._mapped():
            self._api.start(container)

    def signal(self, container: str, signal: str) -> bool:
        """Send a signal to a container's first process; return False when it has ended."""
        try:
            with self._mapped():
                self._api.kill(container, signal)
        except (NotFound, InvalidInput):
            return False
        return True

    def remove(self, container: str) -> None:
        """Remove a container, also a running one; does nothing when it is gone."""
        with suppress(NotFound), self._mapped():
            self._api.remove_container(container, force=True, v=True)

    def wait(self, container: str, within_s: int) -> int:
        """Wait for a container to end and return its exit code."""
        with self._mapped():
            return int(self._api.wait(container, timeout=within_s)["StatusCode"])

    def inspect(self, container: str) -> dict[str, Any]:
        """Return everything that is known of a container.

        Raises:
            NotFound: it is gone.
        """
        with self._mapped():
            found: dict[str, Any] = self._api.inspect_container(container)
        return found

    def containers(self, labels: Mapping[str, str]) -> tuple[dict[str, Any], ...]:
        """Return all containers with these labels, also those that have ended: ``Id``, ``State``, ``Labels`` …"""
        wanted = [f"{key}={value}" for key, value in labels.items()]
        with self._mapped():
            return tuple(self._api.containers(all=True, filters={"label": wanted}))

    def output(self, container: str) -> tuple[bytes, bytes]:
        """Return what a container wrote to its standard output, and to its standard error."""
        with self._mapped():
            said: bytes = self._api.logs(container, stdout=True, stderr=False)
            complaint: bytes = self._api.logs(container, stdout=False, stderr=True)
        return said, complaint

    def log(self, container: str, since: int = 0, last: int = 0) -> Iterator[LogEntry]:
        """Return what a container has written by now; the library's own way never gives up, and joins what was apart.

        Args:
            since: From this second since 1970 on.
            last: No more entries than this, of the end; 0 for all.

        Raises:
            NotFound: it is gone.
        """
        asked = {"stdout": 1, "stderr": 1, "timestamps": 1, "since": since, "tail": last or "all"}
        url = f"{self._api.base_url}/v{API_VERSION}/containers/{container}/logs"
        with self._mapped(), self._api.get(url, params=asked, stream=True, timeout=ANSWER_WITHIN_S) as answer:
            try:
                answer.raise_for_status()
            except requests.HTTPError as error:
                raise errors.create_api_error_from_http_exception(error) from error
            yield from entries(answer.iter_content(LOG_CHUNK_BYTES))

    def events(self, labels: Mapping[str, str]) -> DockerEvents:
        """Return what happens to containers with these labels from now on; the library's own way never gives up."""
        wanted = [f"{key}={value}" for key, value in labels.items()]
        filters = json.dumps({"type": ["container"], "label": wanted})
        with self._mapped():
            answer = self._api.get(
                f"{self._api.base_url}/v{API_VERSION}/events",
                params={"filters": filters},
                stream=True,
                timeout=(ANSWER_WITHIN_S, EVENTS_QUIET_S),
            )
            answer.raise_for_status()
        return DockerEvents(answer)

    # ── networks ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def bridge_device(self, network: str) -> str:
        """Return the network device of this host that carries a network of the driver ``bridge``.

        Raises:
            NotFound: there is no such network, or it is of another driver.
        """
        with self._mapped():
            found = self._api.inspect_network(network)
        if found.get("Driver") != "bridge":
            raise NotFound(f"The Docker network {network!r} is no bridge of this host.", hint="See docker.network.")
        named = (found.get("Options") or {}).get("com.docker.network.bridge.name")
        return str(named or f"br-{found['Id'][:12]}")

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        """Map what the library raises, once, here."""
        try:
            self._knock()
            yield
        except HarmonicIOError:
            raise
        except errors.APIError as error:
            raise _of_answer(error) from error
        except (errors.DockerException, requests.RequestException, OSError, ValueError) as error:
            raise self._of_silence(error) from error

    def _knock(self) -> None:
        """See whether anybody listens: the library leaves its socket open when nobody does."""
        if self.socket_path:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(ANSWER_WITHIN_S)
                probe.connect(self.socket_path)

    def _of_silence(self, error: Exception) -> HarmonicIOError:
        cause = root_of(error)
        if isinstance(cause, PermissionError):
            return NotAllowed(
                f"This user may not use the Docker engine at {self.url}.",
                hint="Its administrator can add the user to the group docker.",
            )
        said = one_line(getattr(cause, "strerror", None) or str(cause))[:200]
        return Unavailable(
            f"The Docker engine at {self.url} does not answer ({said}).",
            hint="Start it, or say where it is: docker.url.",
        )


class DockerEvents:
    """Events of containers: until the Docker engine goes away, nothing happens for a while, or :meth:`close` is called,
    from any thread."""

    def __init__(self, answer: requests.Response) -> None:
        self._answer = answer
        self._stream = CancellableStream(answer.iter_lines(), answer)

    def __iter__(self) -> Iterator[DockerEvent]:
        try:
            for line in self._stream:
                if line:
                    yield DockerEvent.of(json.loads(line))
        except (ValueError, requests.RequestException):
            return  # Quiet for too long, or cut off in the middle of a line.

    def close(self) -> None:
        with suppress(OSError, AttributeError):  # It has ended already.
            self._stream.close()
        self._answer.close()


def _of_answer(error: errors.APIError) -> HarmonicIOError:
    said = one_line(str(error.explanation or error))[:500]
    status = error.response.status_code if error.response is not None else 500
    if status == 404:
        return NotFound(f"The Docker engine says: {said}.")
    if 400 <= status < 500:
        return InvalidInput(f"The Docker engine refuses: {said}.")
    return Unavailable(f"The Docker engine says: {said}.")


def bridge_address(settings: DockerSettings) -> str:
    """Return this host's own address in the network that engines join.

    Raises:
        Unavailable, NotAllowed: the Docker engine cannot be asked.
        NotFound: the network is not on this host.
    """
    with closing(DockerHost(settings.url)) as host:
        device = host.bridge_device(settings.network)
    for each in psutil.net_if_addrs().get(device, ()):
        if each.family == socket.AF_INET:
            return str(each.address)
    raise NotFound(
        f"This host has no address in the Docker network {settings.network!r}.",
        hint="Its Docker engine runs elsewhere, or without root: set docker.master_host and master.host.",
    )
