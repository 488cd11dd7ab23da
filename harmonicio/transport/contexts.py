"""From what a part shows and believes to how it shakes hands; only who speaks TLS loads OpenSSL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harmonicio.core.certificates import TlsIdentity

if TYPE_CHECKING:
    import ssl


def listening(identity: TlsIdentity) -> ssl.SSLContext | None:
    """Return how data ports shake hands; None when they speak no TLS.

    Raises:
        ConfigurationError: certificate and key cannot be used.
    """
    if not identity.certificate:
        return None
    from harmonicio.transport.tls import listening_context

    return listening_context(identity.certificate, identity.key)


def dialling(identity: TlsIdentity) -> ssl.SSLContext | None:
    """Return how data ports that speak TLS are dialled; None when that is a matter of the host.

    Raises:
        ConfigurationError: the authority cannot be used.
    """
    if not identity.authority:
        return None
    from harmonicio.transport.tls import dialling_context

    return dialling_context(identity.authority)
