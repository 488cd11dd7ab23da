"""What a part of the cluster shows those who dial it over TLS, and whom it believes when it dials."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TlsIdentity:
    """Texts in PEM.

    Attributes:
        certificate: The certificate, followed by those up to its authority; empty: data ports speak no TLS.
        key: The certificate's key.
        authority: Certificates of the authorities that are believed; empty: those that the host believes.
    """

    certificate: str = ""
    key: str = field(default="", repr=False)
    authority: str = ""


#: Data ports without a certificate; those of others are believed as the host does.
NO_TLS = TlsIdentity()
