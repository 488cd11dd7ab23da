"""A small authority for one cluster: it signs the certificates that its hosts show each other (``docs/tls.md``).

    <folder>/authority.pem    whom all believe
    <folder>/authority.key    signs; it stays on the host where certificates are made (mode 0600)
    <folder>/<host>.pem       what a host shows
    <folder>/<host>.key       its key (mode 0600)

Keys are of the curve P-256. Certificates serve both ends of a connection, begin an hour before they are made, because
clocks differ, and name the loopback addresses as well, because a host dials itself there.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from harmonicio.control.private_files import check_private, write_private_file, write_public_file
from harmonicio.control.settings_files import read_text
from harmonicio.core.errors import ConfigurationError, Conflict, InvalidInput

AUTHORITY = "authority"
AUTHORITY_DAYS, HOST_DAYS = 3650, 365
OWN_NAMES = ("localhost", "127.0.0.1", "::1")
_EARLIER = timedelta(hours=1)
_CURVE = ec.SECP256R1()
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")


@dataclass(frozen=True, slots=True)
class CertificateView:
    """A certificate for people.

    Attributes:
        name: Its file is ``<name>.pem``.
        hosts: Names and addresses that it is for; empty for the authority.
        not_after: When it expires, in seconds since 1970.
    """

    name: str
    hosts: tuple[str, ...]
    not_after: float


class Authority:
    """The authority of one folder.

    Raises:
        ConfigurationError: there is none yet, or its files cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        certificate, key = folder / f"{AUTHORITY}.pem", folder / f"{AUTHORITY}.key"
        if not certificate.exists():
            raise ConfigurationError(f"There is no authority in {folder}.", hint="Make it: harmonicio certs init")
        self._certificate = _certificate_in(certificate)
        text = read_text(key, "key of the authority")
        check_private(key, "key of the authority")
        self._key = _key_of(text, key)
        if self._key.public_key() != self._certificate.public_key():
            raise ConfigurationError(f"{key} is not the key of {certificate}.")

    def __repr__(self) -> str:
        return f"<Authority in {self._folder}>"

    @classmethod
    def make(cls, folder: Path, *, days: int = AUTHORITY_DAYS) -> Authority:
        """Make an authority.

        Raises:
            Conflict: there is one.
            ConfigurationError: its files cannot be written.
        """
        certificate, key = folder / f"{AUTHORITY}.pem", folder / f"{AUTHORITY}.key"
        if certificate.exists() or key.exists():
            raise Conflict(
                f"There is an authority in {folder} already.",
                hint="Its certificates would be believed by nobody any more; choose another folder.",
            )
        own_key = ec.generate_private_key(_CURVE)
        name = _name("HarmonicIO cluster authority")
        usage = {"digital_signature": False, "key_cert_sign": True, "crl_sign": True}
        builder = (
            _builder(name, name, own_key.public_key(), days)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(**usage), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(own_key.public_key()), critical=False)
        )
        write_private_file(key, _pem_of_key(own_key), "key of the authority")
        write_public_file(certificate, _pem_of(builder.sign(own_key, hashes.SHA256())), "certificate")
        return cls(folder)

    def issue(self, hosts: Sequence[str], *, days: int = HOST_DAYS) -> CertificateView:
        """Make a certificate for a host, or a new one in place of that which there is.

        Args:
            hosts: Its names and addresses as others dial them; the first names the files.

        Raises:
            InvalidInput: there is no such host name.
            ConfigurationError: the files cannot be written.
        """
        stem = _stem(hosts[0])
        if stem == AUTHORITY:
            raise InvalidInput(f"The files of a host cannot be called {AUTHORITY}.", hint="Give another name first.")
        names = [_general_name(host) for host in dict.fromkeys([*hosts, *OWN_NAMES])]
        key, own = ec.generate_private_key(_CURVE), self._certificate
        builder = (
            _builder(_name(hosts[0]), own.subject, key.public_key(), days)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        certificate = builder.sign(self._key, hashes.SHA256())
        write_private_file(self._folder / f"{stem}.key", _pem_of_key(key), "key")
        write_public_file(self._folder / f"{stem}.pem", _pem_of(certificate), "certificate")
        return _view(stem, certificate)

    def find(self, hosts: Sequence[str], *, lasting_days: int) -> CertificateView | None:
        """Return the certificate that a host has, with its key, if it is for just these names and lasts that long."""
        stem = _stem(hosts[0])
        if not (self._folder / f"{stem}.key").exists():
            return None
        until = datetime.now(UTC) + timedelta(days=lasting_days)
        for view in self.views():
            if view.name == stem and set(view.hosts) == set(hosts) and view.not_after > until.timestamp():
                return view
        return None

    def views(self) -> Iterator[CertificateView]:
        """Yield the authority, and what it has signed in its folder."""
        yield _view(AUTHORITY, self._certificate)
        for path in sorted(self._folder.glob("*.pem")):
            certificate = _certificate_in(path)
            if path.stem != AUTHORITY and self._has_signed(certificate):
                yield _view(path.stem, certificate)

    def _has_signed(self, certificate: x509.Certificate) -> bool:
        try:
            certificate.verify_directly_issued_by(self._certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True


def _stem(host: str) -> str:
    """Return what the files of a host are called."""
    return host.replace(":", "-")


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    if not 1 <= days <= 36_500:
        raise InvalidInput(f"A certificate cannot last {days} days.", hint="Use 1 to 36500.")
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass  # It is a name, then.
    if len(host) > 253 or not _HOST_NAME.fullmatch(host):
        raise InvalidInput(f"{host[:80]!r} is neither a host name nor an address.", hint="Write it as it is dialled.")
    return x509.DNSName(host)


def _view(name: str, certificate: x509.Certificate) -> CertificateView:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        hosts: tuple[str, ...] = ()
    else:
        hosts = tuple(str(each.value) for each in names if str(each.value) not in OWN_NAMES)
    return CertificateView(name, hosts, certificate.not_valid_after_utc.timestamp())


def _certificate_in(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(read_text(path, "certificate").encode())
    except ValueError:
        raise ConfigurationError(f"{path} does not hold a certificate in PEM.") from None


def _key_of(text: str, path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(text.encode(), password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigurationError(f"{path} does not hold a key of an authority that harmonicio certs has made.")
    return key


def _pem_of(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _pem_of_key(key: ec.EllipticCurvePrivateKey) -> str:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption()).decode()
