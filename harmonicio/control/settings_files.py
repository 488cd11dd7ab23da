"""The files around the settings: the TOML file itself, and the files that hold bearer tokens."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harmonicio.control.private_files import check_private, write_private_file
from harmonicio.core.certificates import NO_TLS, TlsIdentity
from harmonicio.core.errors import ConfigurationError, NotAllowed
from harmonicio.core.roles import Role
from harmonicio.core.settings import HOME_VARIABLE, Settings, TlsSettings, resolve

SETTINGS_FILE = "harmonicio.toml"
MAX_FILE_BYTES = 1024**2


def load_settings(
    file: Path | str | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Settings:
    """Read this host's settings.

    Args:
        file: The settings file; by default ``harmonicio.toml`` in the working directory, else in ``HARMONICIO_HOME``
            (``~/.harmonicio``), else none.
        environ: Environment variables; by default those of this process.
        flags: ``section.name`` to the value of a flag, ``None`` where it was not given.

    Raises:
        ConfigurationError: the file cannot be read, a name is unknown or a value cannot be used.
    """
    variables = os.environ if environ is None else environ
    path = _find_file(variables) if file is None else Path(file)
    text = "" if path is None else read_text(path, "settings file")
    return resolve(text, variables, flags or {}, file="" if path is None else str(path.absolute()))


def read_token(settings: Settings, roles: Sequence[Role]) -> str:
    """Return the bearer token to show the master.

    It is ``client.token``, else the content of ``client.token_file``, else that of the first file that exists, in the
    order of ``roles``: ``<home>/tokens/<role>.token``, which somebody put there, or
    ``<master.data_folder>/tokens/<role>.token``, which a master on this host wrote.

    Raises:
        NotAllowed: there is none; names where it was looked for.
        ConfigurationError: a token file cannot be read, is empty, or can be read by other users.
    """
    if settings.client.token:
        origin = Path(settings.origins.get("client.token", ""))
        if origin.is_file():
            check_private(origin, "settings file with a token")
        return settings.client.token
    if settings.client.token_file is not None:
        return _read_token_file(settings.client.token_file)
    for role in roles:
        for path in (token_file(settings, role), settings.master.data_folder / "tokens" / f"{role}.token"):
            if os.path.exists(path):  # false as well where this user may not look
                return _read_token_file(path)
    raise NotAllowed(
        f"There is no token for the master at {settings.master.url}.",
        hint=f"Put one into {token_file(settings, roles[0])}, or set client.token_file or HARMONICIO_CLIENT_TOKEN.",
    )


class TlsFiles:
    """What this host shows over TLS, and whom it believes: files, which are read again when they have changed.

    Args:
        named: Where they are.
    """

    def __init__(self, named: TlsSettings) -> None:
        self._named = named
        self._paths = {"certificate": named.certificate, "key": named.key, "authority": named.authority}
        self._seen: tuple[object, ...] = ()
        self._identity = NO_TLS

    def __repr__(self) -> str:
        return f"<TlsFiles {', '.join(str(path) for path in self._paths.values() if path) or 'none'}>"

    def read(self) -> TlsIdentity:
        """Return what is in the files now.

        Raises:
            ConfigurationError: one cannot be read, the key by others as well, or there is one without the other.
        """
        seen = tuple(_state_of(path) for path in self._paths.values())
        if seen != self._seen:
            self._identity = self._read()
            self._seen = seen
        return self._identity

    def _read(self) -> TlsIdentity:
        named = self._named
        if (named.certificate is None) != (named.key is None):
            raise ConfigurationError(
                "A certificate and its key belong together.", hint="Set both tls.certificate and tls.key, or neither."
            )
        texts = {
            name: "" if path is None else read_text(path, f"file of tls.{name}") for name, path in self._paths.items()
        }
        if named.key is not None:
            check_private(named.key, "TLS key")
        return TlsIdentity(**texts, is_mutual=named.mutual)


def token_file(settings: Settings, role: Role) -> Path:
    """Return where a token of this role is put on this host."""
    return settings.home / "tokens" / f"{role}.token"


def write_token_file(path: Path, secret: str) -> None:
    """Write a token that only this user can read.

    Raises:
        ConfigurationError: it cannot be written there.
    """
    write_private_file(path, secret + "\n")


def _find_file(environ: Mapping[str, str]) -> Path | None:
    home = environ.get(HOME_VARIABLE) or os.path.join(environ.get("HOME", ""), ".harmonicio")
    for path in (Path(SETTINGS_FILE), Path(home, SETTINGS_FILE)):
        if os.path.isfile(path):
            return path
    return None


def read_text(path: Path, what: str) -> str:
    """Return the text of a small file of ours; ``what`` it is goes into the error."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        text = content.decode("utf-8")
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "it is not UTF-8 text"
        raise ConfigurationError(f"The {what} {path} cannot be read: {reason}.") from None
    if len(content) > MAX_FILE_BYTES:
        raise ConfigurationError(f"The {what} {path} is larger than 1 MiB.")
    return text


def _read_token_file(path: Path) -> str:
    secret = read_text(path, "token file").strip()
    check_private(path, "token file")
    if not secret or not secret.isascii() or not secret.isprintable():
        raise ConfigurationError(f"The token file {path} does not hold a token.", hint="It is one line of text.")
    return secret


def _state_of(path: Path | None) -> object:
    """Return what changes with a file."""
    if path is None:
        return None
    try:
        now = path.stat()
    except OSError as error:
        return error.errno
    return now.st_dev, now.st_ino, now.st_mtime_ns, now.st_size, now.st_mode
