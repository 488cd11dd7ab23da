"""The small authority of a cluster: what it signs is believed by TLS, and nothing else."""

from __future__ import annotations

import os
import ssl
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from benches.certificates import shake_hands
from harmonicio.cli.__main__ import main
from harmonicio.control.authority import Authority
from harmonicio.core.certificates import TlsIdentity
from harmonicio.core.errors import ConfigurationError, Conflict, InvalidInput
from harmonicio.transport.tls import dialling_context, listening_context


def identity_in(folder: Path, name: str) -> TlsIdentity:
    return TlsIdentity(*((folder / each).read_text() for each in (f"{name}.pem", f"{name}.key", "authority.pem")))


def test_hosts_believe_each_other_by_what_the_authority_has_signed(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path)
    made = authority.issue(["worker-1.example", "192.0.2.7"])
    assert (made.name, made.hosts) == ("worker-1.example", ("worker-1.example", "192.0.2.7"))
    Authority(tmp_path).issue(["source.example"])
    listening = listening_context(replace(identity_in(tmp_path, "worker-1.example"), is_mutual=True))
    dialling = dialling_context(identity_in(tmp_path, "source.example"))
    for host in ("worker-1.example", "192.0.2.7", "127.0.0.1", "localhost"):
        shake_hands(listening, dialling, host)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"not valid for .worker-2\.example"):
        shake_hands(listening, dialling, "worker-2.example")


def test_another_authority_of_the_same_name_is_not_believed(tmp_path: Path) -> None:
    for name in ("one", "other"):
        Authority.make(tmp_path / name).issue(["host.example"])
    listening = listening_context(identity_in(tmp_path / "one", "host.example"))
    dialling = dialling_context(identity_in(tmp_path / "other", "host.example"))
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(listening, dialling, "host.example")


@pytest.mark.row("S26")
def test_keys_can_be_read_by_nobody_else(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Authority.make(tmp_path / "certs").issue(["host.example"])
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "certs").iterdir()}
    assert modes == {
        "authority.pem": 0o644,
        "authority.key": 0o600,
        "host.example.pem": 0o644,
        "host.example.key": 0o600,
    }
    (tmp_path / "certs" / "authority.key").chmod(0o640)
    with pytest.raises(ConfigurationError, match="can be read by other users"):
        Authority(tmp_path / "certs")


def test_an_authority_is_not_replaced_by_another(tmp_path: Path) -> None:
    Authority.make(tmp_path)
    before = (tmp_path / "authority.pem").read_text()
    with pytest.raises(Conflict, match="already"):
        Authority.make(tmp_path)
    assert (tmp_path / "authority.pem").read_text() == before


@pytest.mark.parametrize("host", ["", "a b", "-x", "a..b", "../x", "*.example", "x" * 64, "ä.example", "authority"])
def test_what_no_certificate_can_name_is_refused_and_leaves_no_file(tmp_path: Path, host: str) -> None:
    authority = Authority.make(tmp_path)
    with pytest.raises(InvalidInput):
        authority.issue([host])
    with pytest.raises(InvalidInput):
        authority.issue(["good.example"], days=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["authority.key", "authority.pem"]


def test_a_folder_without_an_authority_or_with_half_of_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no authority") as caught:
        Authority(tmp_path)
    assert "harmonicio certs init" in caught.value.hint
    Authority.make(tmp_path / "one")
    Authority.make(tmp_path / "other")
    (tmp_path / "one" / "authority.key").replace(tmp_path / "other" / "authority.key")
    with pytest.raises(ConfigurationError, match="is not the key of"):
        Authority(tmp_path / "other")


def test_a_certificate_is_kept_while_it_lasts_long_enough_and_names_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Authority.make(tmp_path)

    def issue(*words: str) -> bytes:
        assert main(["certs", "issue", *words, "--folder", str(tmp_path), "--days", "40"]) == 0
        return (tmp_path / "host.example.pem").read_bytes()

    first = issue("host.example", "192.0.2.7", "--unless-it-lasts", "30")
    assert issue("host.example", "192.0.2.7", "--unless-it-lasts", "30") == first
    assert "is kept" in capsys.readouterr().out
    assert (second := issue("host.example", "192.0.2.7", "--unless-it-lasts", "50")) != first
    assert (third := issue("host.example", "192.0.2.8", "--unless-it-lasts", "30")) != second
    (tmp_path / "host.example.key").unlink()
    assert issue("host.example", "192.0.2.8", "--unless-it-lasts", "30") != third


def test_the_command_makes_lists_and_renews_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "certs")
    for words in (["init"], ["issue", "host.example", "2001:db8::7"], ["issue", "host.example", "--days", "7"], ["ls"]):
        assert main(["certs", *words, "--folder", folder]) == 0
    printed = capsys.readouterr().out
    assert "authority.pem (tls.authority)" in printed and "for host.example, 2001:db8::7, until" in printed
    row = next(line for line in printed.splitlines() if line.split()[:1] == ["host.example"])
    assert row.split()[-1] == "6"
