"""What a part of the cluster shows others over TLS, and whom it believes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class TlsIdentity:
    """Texts in PEM.

    Attributes:
        certificate: The certificate, followed by those up to its authority; empty: ports of this part speak no TLS.
        key: The certificate's key.
        authority: Certificates of the authorities that are believed; empty: those that the host believes.
        is_mutual: Who dials a port of this part must show a certificate of the authority, too.
    """

    certificate: str = ""
    key: str = field(default="", repr=False)
    authority: str = ""
    is_mutual: bool = False


#: Ports without a certificate; those of others are believed as the host does.
NO_TLS = TlsIdentity()

#: What a peer says to who shows no certificate, or none that it believes, by OpenSSL's name of it, and what to do.
NOT_SHOWN = ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "TLSV1_ALERT_UNKNOWN_CA", "SSLV3_ALERT_BAD_CERTIFICATE")
SHOW_ONE = "It asks for a certificate that it believes: set tls.certificate and tls.key here."

_UNKNOWN_AUTHORITY = "Set tls.authority to the file of the authority that signed it."
#: What to do about a certificate that is not believed, by OpenSSL's number of the reason.
WHAT_TO_DO: Mapping[int, str] = MappingProxyType(
    {
        9: "Compare the clocks of both hosts.",
        10: "Renew it, and compare the clocks of both hosts.",
        18: _UNKNOWN_AUTHORITY,
        19: _UNKNOWN_AUTHORITY,
        20: _UNKNOWN_AUTHORITY,
        21: _UNKNOWN_AUTHORITY,
        62: "Use a certificate that names the host as it is dialled.",
        64: "Use a certificate that names the address as it is dialled.",
    }
)
