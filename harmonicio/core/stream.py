"""A stream's declaration: what its engines run and how its messages are treated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harmonicio.core.errors import InvalidInput
from harmonicio.core.message import MAX_MESSAGE_BYTES, MEMORY_PAYLOAD_MAX_BYTES
from harmonicio.core.names import check_name

#: Integers from here on are not shown: Python refuses to write the longest.
UNSHOWN_FROM = 1 << 256

#: Of a handler or an image: no file system takes a longer path.
MAX_PATH_LENGTH = 4_096

#: What comes after a handler has at least so long: ``timeout_s`` is the handler's, and a client of a store wants to say
#: in time that it failed. A reservation lasts ``timeout_s`` and 30 s from the return, so it always outlasts keeping.
KEEPING_AT_LEAST_S = 30.0


def keeping_timeout_s(timeout_s: float) -> float:
    """Return how long a message may take to be kept, from when its handler has returned."""
    return max(timeout_s, KEEPING_AT_LEAST_S)


def check_ranges(stream: str, *rows: tuple[str, float, float, float]) -> None:
    """Check values of a declaration: rows of label, value, smallest and largest.

    Raises:
        InvalidInput: a value is outside; names it.
    """
    for label, value, smallest, largest in rows:
        if not smallest <= value <= largest:
            shown = (
                f"a number of {value.bit_length()} bits"
                if isinstance(value, int) and abs(value) >= UNSHOWN_FROM
                else repr(value)
            )
            raise InvalidInput(f"Stream {stream!r} has {label} = {shown}.", hint=f"Use {smallest} to {largest}.")


@dataclass(frozen=True, slots=True)
class ContainerNeeds:
    """What the engines of a stream need beside their image; 0 or empty: what the worker gives every engine.

    What goes beyond a worker's safe defaults runs only where the configuration of that worker allows it (the section
    ``docker``).

    Attributes:
        cpus, memory_bytes, pids: Limits of one engine.
        network: The network that it joins.
        folders: Absolute paths of folders on the worker's host, which it sees at the same paths and may change.
        reference_folders: Likewise, to read only.
        devices: Devices of the host, like ``/dev/nvidia0``.
        capabilities: Linux capabilities, like ``SYS_NICE``.
        namespaces: Namespaces that it shares with the host: ``pid``, ``ipc``.
        privileged: Nothing is kept from it.
    """

    cpus: float = 0.0
    memory_bytes: int = 0
    pids: int = 0
    network: str = ""
    folders: tuple[str, ...] = ()
    reference_folders: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    privileged: bool = False

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  as below

    def check(self, stream: str) -> None:
        """Raise InvalidInput where a value cannot be used."""
        check_ranges(
            stream,
            ("container.cpus", self.cpus, 0.0, 4096.0),
            ("container.memory_bytes", self.memory_bytes, 0, 2**50),
            ("container.pids", self.pids, 0, 2**22),
        )
        for label, texts in (
            ("network", (self.network or "-",)),
            ("folders", self.folders),
            ("reference_folders", self.reference_folders),
            ("devices", self.devices),
            ("capabilities", self.capabilities),
            ("namespaces", self.namespaces),
        ):
            for text in texts:
                is_path = label in ("folders", "reference_folders", "devices")
                is_straight = text.startswith("/") and ".." not in text.split("/")
                if not text or not text.isprintable() or (is_path and not is_straight):
                    hint = "Use absolute paths of the worker's host, without '..'." if is_path else "Use names."
                    raise InvalidInput(f"Stream {stream!r} has {text[:80]!r} in container.{label}.", hint=hint)


#: What a full backlog does with a stream's messages.
REFUSE, SHED = "refuse", "shed"


@dataclass(frozen=True, slots=True)
class StreamDeclaration:
    """One stream, as the administrator declares it in ``streams.toml`` or by REST.

    Attributes:
        name: The stream's name.
        handler: Python file (absolute path) or importable module that holds the handler; for the process runtime.
        image: Container image; for the docker runtime. Exactly one of ``handler`` and ``image`` is given.
        container: What the containers need beside the image.
        engines: How many engines shall run.
        concurrency: Messages that one engine handles at the same time.
        timeout_s: Seconds after which an engine that is still handling one message is killed.
        max_attempts: Executions after which a failing message becomes a dead letter.
        max_crashes: Engine crashes after which a message becomes a dead letter.
        max_message_bytes: Larger payloads are rejected before they are read.
        memory_payload_max_bytes: Larger payloads are received into a file on the scratch volume.
        prefetch_s: Seconds of measured handler time that may wait at one engine.
        ordered: Backlog only, one engine, one message at a time: larger priorities first, and within a priority in the
            order in which the master has stored the messages. A message that fails, or whose engine crashes, is tried
            again before those behind it, which wait until it is processed or a dead letter.
        when_full: What happens to a message for which the backlog has no room: ``refuse`` leaves it with its source,
            which is slowed; ``shed`` gives up the waiting message of the lowest priority, the oldest of these, instead.
        parameters: Given by name to the keyword-only arguments of the handler and its setup.
        plugins: Engine plugins by name, each with its options (for example ``haste``).
        version: Counts the declarations of this name; set by the master.
    """

    name: str
    handler: str = ""
    image: str = ""
    engines: int = 1
    concurrency: int = 1
    timeout_s: float = 600.0
    max_attempts: int = 3
    max_crashes: int = 3
    max_message_bytes: int = MAX_MESSAGE_BYTES
    memory_payload_max_bytes: int = MEMORY_PAYLOAD_MAX_BYTES
    prefetch_s: float = 0.1
    ordered: bool = False
    when_full: str = REFUSE
    parameters: Mapping[str, Any] = field(default_factory=dict)
    plugins: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    container: ContainerNeeds = ContainerNeeds()
    version: int = 0

    #: Where the master reads one, unknown keys are refused: they are misspelt settings.
    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  a field of the class for pydantic, not of its instances

    @property
    def kind(self) -> str:
        """What its engines are made of: ``image`` or ``handler``; not every worker can start both."""
        return "image" if self.image else "handler"

    def checked(self) -> StreamDeclaration:
        """Return this declaration when every value can be used.

        Raises:
            InvalidInput: names the field that cannot be used and says what it may be.
        """
        check_name("stream", self.name)
        for plugin in self.plugins:
            check_name("plugin", plugin)
        if bool(self.handler) == bool(self.image):
            raise InvalidInput(f"Stream {self.name!r} needs either a handler or an image.")
        for label, text in (("handler", self.handler), ("image", self.image)):
            if not text.isprintable() or len(text) > MAX_PATH_LENGTH:
                raise InvalidInput(
                    f"Stream {self.name!r} has {label} = {text[:80]!r}.",
                    hint=f"Use at most {MAX_PATH_LENGTH} printable characters.",
                )
        self.container.check(self.name)
        check_ranges(
            self.name,
            ("engines", self.engines, 0, 10_000),
            ("concurrency", self.concurrency, 1, 1_024),
            ("timeout_s", self.timeout_s, 0.1, 30 * 24 * 3600.0),
            ("max_attempts", self.max_attempts, 1, 1_000),
            ("max_crashes", self.max_crashes, 1, 1_000),
            ("max_message_bytes", self.max_message_bytes, 1, 2**62),
            ("memory_payload_max_bytes", self.memory_payload_max_bytes, 0, 2**40),
            ("prefetch_s", self.prefetch_s, 0.0, 3600.0),
        )
        if self.when_full not in (REFUSE, SHED):
            raise InvalidInput(
                f"Stream {self.name!r} has when_full = {self.when_full[:80]!r}.", hint=f"Use {REFUSE!r} or {SHED!r}."
            )
        if self.ordered and (self.engines > 1 or self.concurrency > 1):
            raise InvalidInput(f"Stream {self.name!r} is ordered.", hint="Use engines = 1 and concurrency = 1.")
        return self
