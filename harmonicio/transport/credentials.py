"""From what a part shows and believes to how it shakes hands, also when certificates are renewed meanwhile.

      read ──► identity ──► contexts of TLS ──► connections that begin from now on
        ▲                        │
        └── at most every second, when somebody asks; what cannot be used is told once, and the contexts stay

Connections that are open keep what they were opened with. Only who speaks TLS loads OpenSSL.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from harmonicio.core.certificates import NO_TLS, TlsIdentity
from harmonicio.core.errors import ConfigurationError, HarmonicIOError
from harmonicio.core.lease import is_loopback

if TYPE_CHECKING:
    import ssl

_log = logging.getLogger(__name__)

#: How often it is looked whether there are other certificates.
LOOK_EVERY_S = 1.0


class TlsCredentials:
    """What this process shows and believes over TLS just now. Safe to use from several threads.

    Args:
        read: Returns what is to be shown and believed.

    Raises:
        ConfigurationError: it cannot be used.
    """

    def __init__(self, read: Callable[[], TlsIdentity]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._refused = ""
        self._looked_at = time.monotonic()
        self._identity = read()
        self._listening, self._dialling = _contexts(self._identity)

    @classmethod
    def of(cls, identity: TlsIdentity) -> TlsCredentials:
        """Return credentials that nobody renews."""
        return cls(lambda: identity)

    def __repr__(self) -> str:
        shown, believed = bool(self._identity.certificate), bool(self._identity.authority)
        return f"<TlsCredentials: {'a' if shown else 'no'} certificate, {'an' if believed else 'no'} authority>"

    @property
    def identity(self) -> TlsIdentity:
        """What is in force."""
        self._look()
        return self._identity

    def listening(self) -> ssl.SSLContext | None:
        """Return how ports shake hands from now on; None when they speak no TLS."""
        self._look()
        return self._listening

    def dialling(self) -> ssl.SSLContext | None:
        """Return how ports that speak TLS are dialled from now on; None when that is a matter of the host."""
        self._look()
        return self._dialling

    def check_bind(self, who: str, host: str, *, is_insecure: bool) -> None:
        """Refuse to listen beyond this machine in plain text.

        Args:
            who: Who would listen there, for the error.
            is_insecure: The person who runs this host has allowed it.

        Raises:
            ConfigurationError: others could reach the address, and what they send would not be encrypted.
        """
        if is_insecure or is_loopback(host) or self._identity.certificate:
            return
        raise ConfigurationError(
            f"{who} would listen on {host or 'every address'}, beyond this machine, without TLS.",
            hint="Set tls.certificate and tls.key (docs/tls.md), or allow it with --insecure in a network you trust.",
        )

    def _look(self) -> None:
        """Take over what has been renewed, if that is to be looked at again."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_EVERY_S or not self._lock.acquire(blocking=False):
            return
        try:
            self._looked_at = now
            self._renew(self._read())
        except HarmonicIOError as error:
            if self._refused != str(error):
                _log.warning("%s What was there before is used until it can be.", error)
            self._refused = str(error)
        finally:
            self._lock.release()

    def _renew(self, identity: TlsIdentity) -> None:
        if identity == self._identity:
            return
        if bool(identity.certificate) != bool(self._identity.certificate):
            raise ConfigurationError("A port that listens cannot begin or cease to speak TLS.", hint="Start it again.")
        self._listening, self._dialling = _contexts(identity)
        self._identity, self._refused = identity, ""
        _log.info("The TLS certificates were renewed.")


def _contexts(identity: TlsIdentity) -> tuple[ssl.SSLContext | None, ssl.SSLContext | None]:
    if identity.is_mutual and not (identity.certificate and identity.authority):
        raise ConfigurationError(
            "Without a certificate and an authority there is no mutual TLS.",
            hint="Set tls.certificate, tls.key and tls.authority, or leave tls.mutual out.",
        )
    if not (identity.certificate or identity.authority):
        return None, None
    from harmonicio.transport import tls

    return tls.listening_context(identity) if identity.certificate else None, tls.dialling_context(identity)


#: Of who speaks no TLS, and believes others as the host does.
NO_CREDENTIALS = TlsCredentials.of(NO_TLS)
