"""Certificates of authorities that only the tests know."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

import trustme

from harmonicio.transport import tls


@dataclass(frozen=True, slots=True)
class Pems:
    """The texts of a certificate, its key and its authority."""

    certificate: str
    key: str
    authority: str


def pems_of(authority: trustme.CA, *hosts: str, **options: object) -> Pems:
    """Return a certificate for these hosts."""
    issued = authority.issue_cert(*hosts, **options)  # type: ignore[arg-type]
    return Pems(
        "".join(each.bytes().decode() for each in issued.cert_chain_pems),
        issued.private_key_pem.bytes().decode(),
        authority.cert_pem.bytes().decode(),
    )


def contexts_of(authority: trustme.CA, *hosts: str, **options: object) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return how to dial such a host, and how it listens."""
    pems = pems_of(authority, *hosts, **options)
    return tls.dialling_context(pems.authority), tls.listening_context(pems.certificate, pems.key)
