"""The settings: what they are, what they default to, and how their sources are joined.

    defaults  <  one TOML file  <  HARMONICIO_<SECTION>_<NAME>  <  arguments of the command line or of a constructor

A setting is written ``section.name``. Unknown names are errors, because a misspelt setting that is silently ignored
costs somebody an afternoon. Each value remembers its origin, so that ``harmonicio config`` can show it.

Nothing here opens a file or looks at the process: :mod:`harmonicio.control.settings_files` does.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any

from harmonicio.core import setting_values as read
from harmonicio.core.errors import ConfigurationError, InvalidInput

ENVIRONMENT_PREFIX = "HARMONICIO_"
#: The folder for tokens and data, and the only variable with our prefix that is not a setting.
HOME_VARIABLE = "HARMONICIO_HOME"
MASK = "********"
MIB, GIB = 1024**2, 1024**3


class ChecksumMode(StrEnum):
    """When a connector sends checksums: ``AUTO`` means across hosts only."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


# ── the sections ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _setting(default: Any, reader: read.Reader, text: str, *, is_secret: bool = False) -> Any:
    """Declare a setting; ``{home}`` in a default path is the folder that ``HARMONICIO_HOME`` names."""
    metadata = {"reader": reader, "help": text, "is_secret": is_secret}
    return field(default=default, metadata=metadata, repr=not is_secret)


@dataclass(frozen=True, slots=True)
class MasterSettings:
    url: str = _setting("http://127.0.0.1:8710", read.url, "where the REST API is found; unset: at host and port")
    host: str = _setting("127.0.0.1", read.text, "address that the master binds; beyond loopback it needs TLS")
    port: int = _setting(8710, read.whole(at_most=65535), "port of the REST API; 0 takes a free one")
    data_port: int = _setting(8711, read.whole(at_most=65535), "port for the backlog's messages; 0 takes a free one")
    data_folder: Path = _setting(Path("{home}/master"), read.path, "streams, tokens, backlog and dead letters")
    bridge_host: str = _setting("", read.text, "this host's address on a bridge, for containers on it, like 172.17.0.1")
    insecure: bool = _setting(False, read.truth, "bind beyond loopback without TLS all the same")
    backlog_max_disk_bytes: int = _setting(100 * GIB, read.size(at_least=1), "payload bytes that may wait on disk")
    backlog_hot_cache_bytes: int = _setting(256 * MIB, read.size(), "payload bytes of the backlog kept in memory")
    dead_letter_max_bytes: int = _setting(10 * GIB, read.size(), "payload bytes of dead letters kept on disk")


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    name: str = _setting("", read.text, "name of this worker; empty takes the host's name")
    max_engines: int = _setting(0, read.whole(at_most=10_000), "engines on this host; 0 takes one per CPU core")
    runtime: str = _setting("process", read.text, "what starts engines, by name")
    host: str = _setting("127.0.0.1", read.text, "where engines listen and are reached; beyond loopback it needs TLS")
    insecure: bool = _setting(False, read.truth, "engines listen beyond loopback without TLS all the same")
    data_folder: Path = _setting(Path("{home}/worker"), read.path, "state, sockets and logs of running engines")
    scratch_folder: Path = _setting(Path("{home}/scratch"), read.path, "payloads that are too large for memory")
    payload_budget_bytes: int = _setting(512 * MIB, read.size(at_least=1), "payload bytes in memory of one engine")


@dataclass(frozen=True, slots=True)
class DockerSettings:
    """What engines in containers get on this host, and what the administrator lets a stream ask for beyond that."""

    url: str = _setting("", read.text, "the Docker engine; empty: DOCKER_HOST, else its usual socket")
    images: tuple[str, ...] = _setting((), read.texts, "images that may run, with * and ?; none by default")
    pin_digests: bool = _setting(False, read.truth, "run images only by digest (name@sha256:…), not by tag")
    pull_timeout_s: float = _setting(900.0, read.seconds, "how long pulling an image may take; 0 pulls none")
    user: str = _setting("", read.text, "uid:gid that engines run as; empty: the worker's, or 10001:10001 of root's")
    network: str = _setting("bridge", read.text, "network that engines join")
    master_host: str = _setting("", read.text, "where containers reach the master; empty: where this worker does")
    cpus: float = _setting(
        0.0, read.number(at_most=4096), "CPUs of one engine, at most; 0: the host's, divided by its places"
    )
    memory_bytes: int = _setting(
        0, read.size(), "memory of one engine, at most; 0: 9/10 of the host's, divided likewise"
    )
    pids: int = _setting(512, read.whole(at_least=1, at_most=2**22), "processes and threads of one engine, at most")
    scratch_max_bytes: int = _setting(20 * GIB, read.size(at_least=MIB), "scratch space of one engine")
    folders: tuple[str, ...] = _setting((), read.texts, "folders below which a stream's engines may have folders")
    networks: tuple[str, ...] = _setting((), read.texts, "other networks that a stream may choose; host is one")
    devices: tuple[str, ...] = _setting((), read.texts, "devices that a stream may ask for, like /dev/nvidia0")
    capabilities: tuple[str, ...] = _setting((), read.texts, "capabilities that a stream may ask for, like SYS_NICE")
    namespaces: tuple[str, ...] = _setting((), read.texts, "namespaces of the host that a stream may share: pid, ipc")
    privileged: bool = _setting(False, read.truth, "let a stream ask for privileged containers")


@dataclass(frozen=True, slots=True)
class ConnectorSettings:
    # A quarter more than the byte budget: slots are larger than payloads, and sources write ahead of sending.
    arena_max_bytes: int = _setting(
        320 * MIB, read.size(), "shared memory for payloads to engines of this host, at most; 0: all goes by TCP"
    )
    byte_budget_bytes: int = _setting(256 * MIB, read.size(at_least=1), "payload bytes that wait before send blocks")
    checksum: ChecksumMode = _setting(
        ChecksumMode.AUTO, read.choice(ChecksumMode), "auto (across hosts), always, never"
    )
    patience_s: float | None = _setting(None, read.seconds, "wait for an engine before the backlog; unset: measured")
    spool_folder: Path | None = _setting(None, read.path, "keeps messages on disk until they are safe; unset: none")
    spool_max_bytes: int = _setting(10 * GIB, read.size(at_least=1), "bytes in the spool before send blocks")
    spool_sync: bool = _setting(False, read.truth, "the spool survives a crash of the machine, too; slower")


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """What this host shows, and whom it believes; files in PEM, which may be renewed at any time."""

    certificate: Path | None = _setting(None, read.path, "certificate of this host, with its chain")
    key: Path | None = _setting(None, read.path, "its key (mode 0600, without a password)")
    authority: Path | None = _setting(None, read.path, "authorities to believe; unset: those that this host believes")
    mutual: bool = _setting(False, read.truth, "who dials this host must show a certificate of the authority, too")


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """What this host shows the master, whoever calls it: a command, a connector or a controller."""

    token: str = _setting("", read.text, "bearer token; better kept in a file", is_secret=True)
    token_file: Path | None = _setting(None, read.path, "file (mode 0600) that holds the bearer token")


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting of this host.

    Attributes:
        home: Folder for tokens and data.
        origins: ``section.name`` to where the value came from, for those that are not defaults.
    """

    master: MasterSettings = MasterSettings()
    worker: WorkerSettings = WorkerSettings()
    docker: DockerSettings = DockerSettings()
    connector: ConnectorSettings = ConnectorSettings()
    client: ClientSettings = ClientSettings()
    tls: TlsSettings = TlsSettings()
    home: Path = Path()
    origins: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SettingView:
    """One setting for people: ``value`` is masked when it is a secret."""

    name: str
    value: str
    origin: str
    help: str


_SECTIONS: dict[str, Any] = {
    "master": MasterSettings,
    "worker": WorkerSettings,
    "docker": DockerSettings,
    "connector": ConnectorSettings,
    "client": ClientSettings,
    "tls": TlsSettings,
}
_FIELDS = {f"{section}.{item.name}": item for section, kind in _SECTIONS.items() for item in dataclasses.fields(kind)}
_BY_VARIABLE = {ENVIRONMENT_PREFIX + name.replace(".", "_").upper(): name for name in _FIELDS}


# ── joining the sources ──────────────────────────────────────────────────────────────────────────────────────────────


def resolve(toml_text: str, environ: Mapping[str, str], flags: Mapping[str, Any], *, file: str = "") -> Settings:
    """Join the sources of settings.

    Args:
        toml_text: Content of the settings file, empty when there is none.
        environ: Environment variables; those without our prefix are ignored, apart from ``HOME``.
        flags: ``section.name`` to value; ``None`` means that the flag was not given.
        file: Path of the settings file, for origins; relative paths in it are relative to its folder.

    Raises:
        ConfigurationError: a name is unknown or a value cannot be used; names the origin and what is known.
    """
    user_home = environ.get("HOME", "")
    home = _located(Path(environ.get(HOME_VARIABLE) or "~/.harmonicio"), Path(), user_home)
    values: dict[str, Any] = {
        name: Path(str(item.default).replace("{home}", str(home))) if isinstance(item.default, Path) else item.default
        for name, item in _FIELDS.items()
    }
    origins: dict[str, str] = {}
    for name, raw, origin in _given(toml_text, environ, flags, file):
        value = _read(name, raw, origin)
        folder = Path(file).parent if origin == file else Path()
        values[name] = _located(value, folder, user_home) if isinstance(value, Path) else value
        origins[name] = origin
    if "master.url" not in origins and values["master.port"]:
        scheme = "http" if values["tls.certificate"] is None else "https"
        values["master.url"] = _url_of(scheme, values["master.host"], values["master.port"])
    sections = {
        section: kind(**{item.name: values[f"{section}.{item.name}"] for item in dataclasses.fields(kind)})
        for section, kind in _SECTIONS.items()
    }
    return Settings(**sections, home=home, origins=MappingProxyType(origins))


def _url_of(scheme: str, host: str, port: int) -> str:
    """Return where a master that binds this address is found on its own host."""
    reachable = "127.0.0.1" if host in ("", "0.0.0.0", "::") else host
    return f"{scheme}://[{reachable}]:{port}" if ":" in reachable else f"{scheme}://{reachable}:{port}"


def describe(settings: Settings) -> Iterator[SettingView]:
    """Yield every setting with its value and origin, in the order of their declaration; secrets are masked."""
    for name, item in _FIELDS.items():
        section, _, key = name.partition(".")
        value = getattr(getattr(settings, section), key)
        shown = _shown(value)
        if item.metadata["is_secret"] and shown:
            shown = MASK
        yield SettingView(name, shown, settings.origins.get(name, "default"), item.metadata["help"])


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(value) if isinstance(value, tuple) else "" if value is None else str(value)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint that names what a misspelt name probably meant."""
    names = sorted(known)
    prefix = len(ENVIRONMENT_PREFIX) if name.startswith(ENVIRONMENT_PREFIX) else 0  # It makes any two variables alike.
    close = difflib.get_close_matches(name[prefix:], [each[prefix:] for each in names], n=1, cutoff=0.6)
    return f"Did you mean {name[:prefix] + close[0]!r}?" if close else f"Known are {', '.join(names)}."


def _given(
    toml_text: str, environ: Mapping[str, str], flags: Mapping[str, Any], file: str
) -> Iterator[tuple[str, Any, str]]:
    """Yield name, raw value and origin of everything that was given; later ones win."""
    yield from _from_toml(toml_text, file)
    for variable in sorted(environ):
        if variable.startswith(ENVIRONMENT_PREFIX) and variable != HOME_VARIABLE:
            _expect(variable, _BY_VARIABLE, "in the environment")
            yield _BY_VARIABLE[variable], environ[variable], variable
    for name, raw in flags.items():
        _expect(name, _FIELDS, "given as an argument")
        if raw is not None:
            yield name, raw, "argument"


def _from_toml(toml_text: str, file: str) -> Iterator[tuple[str, Any, str]]:
    try:
        document = tomllib.loads(toml_text)
    except (ValueError, RecursionError) as error:  # Also of numbers and nesting that Python's reader gives up on.
        raise ConfigurationError(f"{file} is not TOML: {str(error)[:200]}.") from None
    for section, table in document.items():
        _expect(section, _SECTIONS, f"in {file}")
        if not isinstance(table, dict):
            raise ConfigurationError(f"{section!r} in {file} is a value.", hint=f"Write a section: [{section}].")
        for key, raw in table.items():
            _expect(f"{section}.{key}", _FIELDS, f"in {file}")
            yield f"{section}.{key}", raw, file


def _expect(name: str, known: Mapping[str, Any], where: str) -> None:
    if name not in known:
        raise ConfigurationError(f"There is no setting {name[:80]!r} ({where}).", hint=nearest(name[:80], known))


def _read(name: str, raw: Any, origin: str) -> Any:
    about = _FIELDS[name].metadata
    try:
        return about["reader"](raw)
    except InvalidInput as error:
        shown = "what was given" if about["is_secret"] else _quoted(raw)
        raise ConfigurationError(f"{name} cannot be {shown} ({origin}).", hint=error.hint) from None


def _quoted(raw: Any) -> str:
    try:
        return repr(raw)[:80]
    except ValueError:  # Python reads numbers of any length in hex, but writes none of thousands of digits.
        return "such a number"


def _located(path: Path, folder: Path, user_home: str) -> Path:
    """Return the path with ``~`` filled in, and relative to ``folder`` when it is relative."""
    if user_home and path.parts[:1] == ("~",):
        return Path(user_home, *path.parts[1:])
    return folder / path
