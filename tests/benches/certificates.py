"""Certificates of authorities that only the tests know."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import trustme

from harmonicio.core.certificates import TlsIdentity
from harmonicio.transport import tls
from harmonicio.transport.credentials import TlsCredentials


def identity_of(authority: trustme.CA, *hosts: str, is_mutual: bool = False, **options: object) -> TlsIdentity:
    """Return a certificate for these hosts, with its key and authority."""
    issued = authority.issue_cert(*hosts, **options)  # type: ignore[arg-type]
    return TlsIdentity(
        "".join(each.bytes().decode() for each in issued.cert_chain_pems),
        issued.private_key_pem.bytes().decode(),
        authority.cert_pem.bytes().decode(),
        is_mutual,
    )


def believing(authority: trustme.CA) -> TlsIdentity:
    """Return what those have that only dial."""
    return TlsIdentity(authority=authority.cert_pem.bytes().decode())


def showing(authority: trustme.CA, *hosts: str, **options: object) -> TlsCredentials:
    """Return the credentials of such a host."""
    return TlsCredentials.of(identity_of(authority, *hosts, **options))


def contexts_of(authority: trustme.CA, *hosts: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return how to dial such a host, and how it listens."""
    identity = identity_of(authority, *hosts)
    return tls.dialling_context(identity), tls.listening_context(identity)


def write_files(folder: Path, identity: TlsIdentity) -> dict[str, str]:
    """Write the three files, each whole at once, and return the variables that name them."""
    texts = {"certificate": identity.certificate, "key": identity.key, "authority": identity.authority}
    for name, text in texts.items():
        draft = folder / f".{name}"
        draft.touch(0o600)
        draft.write_text(text)
        os.replace(draft, folder / name)
    return {f"HARMONICIO_TLS_{name.upper()}": str(folder / name) for name in texts}


def shake_hands(listening: ssl.SSLContext, dialling: ssl.SSLContext, host: str) -> None:
    """Let both ends shake hands in memory; raises what the end that refuses raises."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    dialler = dialling.wrap_bio(down, up, server_hostname=host)
    listener = listening.wrap_bio(up, down, server_side=True)
    ends = [dialler, listener]
    while ends:
        for end in list(ends):
            try:
                end.do_handshake()
                ends.remove(end)
            except ssl.SSLWantReadError:
                pass  # The other end is next.
