"""A cluster whose data ports speak TLS: peer to peer, over the backlog, and from engine to engine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from benches.certificates import believing, identity_of, write_files
from harmonicio.cli.__main__ import main
from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.control.settings_files import TlsFiles, load_settings
from harmonicio.core.certificates import TlsIdentity
from harmonicio.core.errors import ConnectionEnded, OutcomeTimeout, UndeliveredError
from harmonicio.core.lease import Address
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.service import MasterOptions
from harmonicio.stream_connector import StreamConnector
from harmonicio.testing.waiting import wait_until
from harmonicio.transport import tcp
from harmonicio.transport.credentials import TlsCredentials
from harmonicio.worker.options import WorkerOptions

HANDLER = """
from harmonicio.engine import handler

@handler
def answer(message):
    if message.stream == "first":
        message.emit(message.payload, stream="second")
    return bytes(message.payload[:60_000])
"""


@pytest.fixture(scope="module")
def identity() -> TlsIdentity:
    return identity_of(trustme.CA(), "127.0.0.1")


@pytest.fixture
def cluster(tmp_path: Path, identity: TlsIdentity) -> Iterator[LocalCluster]:
    (tmp_path / "answer.py").write_text(HANDLER)
    master = MasterOptions(tmp_path / "master", port=0, data_port=0, settle_s=0.0, tls=TlsCredentials.of(identity))
    worker = WorkerOptions("local", tmp_path / "worker", tmp_path / "scratch", max_engines=2, tls=master.tls)
    with LocalCluster(tmp_path, master=master, worker=worker) as running:
        yield running


def declared(cluster: LocalCluster, tmp_path: Path, name: str, engines: int) -> str:
    cluster.declare(StreamDeclaration(name, handler=str(tmp_path / "answer.py"), engines=engines))
    cluster.wait_for_engines(name, engines)
    return name


def connected(cluster: LocalCluster, stream: str, tls: TlsIdentity, patience_s: float | None = 60.0) -> StreamConnector:
    """Return a connector that goes by TCP: on a UNIX socket of this host nothing is sealed."""
    return StreamConnector(
        stream, master=cluster.url, token=cluster.source_token, patience_s=patience_s, tls=tls, arena_max_bytes=0
    )


def test_messages_of_all_sizes_are_processed_peer_to_peer_over_tls(
    cluster: LocalCluster, tmp_path: Path, identity: TlsIdentity
) -> None:
    stream = declared(cluster, tmp_path, "direct", 1)
    addresses = [view.address for view in cluster.client.engines()]
    assert all(address is not None and address.speaks_tls for address in addresses)
    payloads = [os.urandom(size) for size in (0, 10, 20_000, 60_000, 300_000, 5_000_000)] * 4
    with connected(cluster, stream, TlsIdentity(authority=identity.authority)) as connector:
        for payload in payloads:  # A result of 60 KB is more than the connector reads at once.
            assert connector.send(payload).result(30) == payload[:60_000]
        deliveries = [connector.send(payload) for payload in payloads * 10]
        assert [each.result(30) for each in deliveries] == [payload[:60_000] for payload in payloads * 10]
        assert {each.route for each in deliveries} == {"engine"}


def test_the_backlog_is_filled_and_emptied_over_tls(
    cluster: LocalCluster, tmp_path: Path, identity: TlsIdentity
) -> None:
    stream = declared(cluster, tmp_path, "stored", 0)
    with connected(cluster, stream, identity, patience_s=0.0) as connector:
        deliveries = [connector.send(os.urandom(size)) for size in (10, 100_000, 2_000_000)]
        connector.flush("safe", 30)
        assert {each.route for each in deliveries} == {"backlog"}
        cluster.client.scale_stream(stream, 1)
        connector.flush("processed", 60)


def test_what_a_handler_emits_leaves_over_tls(cluster: LocalCluster, tmp_path: Path, identity: TlsIdentity) -> None:
    declared(cluster, tmp_path, "second", 1)
    stream = declared(cluster, tmp_path, "first", 1)
    with connected(cluster, stream, identity) as connector:
        assert connector.send(b"to be passed on").result(30) == b"to be passed on"
    handled = {view.stream: view.handled for view in cluster.client.engines()}
    assert handled.keys() == {"first", "second"}


def test_who_does_not_know_the_authority_is_told_and_sends_nothing(cluster: LocalCluster, tmp_path: Path) -> None:
    stream = declared(cluster, tmp_path, "believed", 1)
    stranger = believing(trustme.CA())
    with (
        pytest.raises(UndeliveredError, match=r"is not believed.*tls\.authority"),
        connected(cluster, stream, stranger, 0.0) as connector,
    ):
        delivery = connector.send(b"secret")
        wait_until(lambda: connector.stranded_s > 0, 20, what="the backlog to be dialled")
        with pytest.raises(OutcomeTimeout, match=r"is not believed.*tls\.authority"):
            connector.flush("safe", 0.5)
        connector.close(0.1)
    assert not delivery.is_safe


@pytest.mark.row("S19")
def test_engines_show_a_renewed_certificate_from_then_on_without_a_restart(tmp_path: Path) -> None:
    (tmp_path / "answer.py").write_text(HANDLER)
    before, after = trustme.CA(), trustme.CA()
    variables = write_files(tmp_path, identity_of(before, "127.0.0.1"))
    files = TlsFiles(load_settings(environ=variables | {"HARMONICIO_HOME": str(tmp_path)}).tls)
    own = TlsCredentials(files.read)
    master = MasterOptions(tmp_path / "master", port=0, data_port=0, settle_s=0.0, tls=own)
    worker = WorkerOptions("local", tmp_path / "worker", tmp_path / "scratch", max_engines=2, tls=own)
    with LocalCluster(tmp_path, master=master, worker=worker) as cluster:
        assert cluster.url.startswith("https://")
        stream = declared(cluster, tmp_path, "first", 1)
        declared(cluster, tmp_path, "second", 1)
        engines = {view.engine: view.address for view in cluster.client.engines()}
        with connected(cluster, stream, believing(before)) as connector:
            assert connector.send(b"before").result(30) == b"before"
            write_files(tmp_path, identity_of(after, "127.0.0.1"))
            for address in engines.values():
                assert address is not None
                wait_until(lambda at=address: is_believed(at, believing(after)), 20, what="the new certificate")
            assert connector.send(b"goes on").result(30) == b"goes on"
        with connected(cluster, stream, believing(after)) as connector:
            assert connector.send(b"after").result(30) == b"after"
        assert {view.engine for view in cluster.client.engines()} == engines.keys(), "the same engines run"


def is_believed(address: Address, tls: TlsIdentity) -> bool:
    try:
        tcp.dial(address, timeout_s=10, tls=TlsCredentials.of(tls).dialling()).close()
    except ConnectionEnded:
        return False
    return True


def test_the_settings_of_a_host_are_all_that_it_takes(
    tmp_path: Path, identity: TlsIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "answer.py").write_text(HANDLER)
    write_files(tmp_path, identity)
    (tmp_path / "harmonicio.toml").write_text(
        "[master]\nport = 0\ndata_port = 0\n[tls]\ncertificate = 'certificate'\nkey = 'key'\nauthority = 'authority'\n"
    )
    monkeypatch.setenv("HARMONICIO_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with LocalCluster.of(load_settings()) as cluster:
        stream = declared(cluster, tmp_path, "set", 1)
        assert all(view.address is not None and view.address.speaks_tls for view in cluster.client.engines())
        with StreamConnector(
            stream, master=cluster.url, token=cluster.source_token, patience_s=60.0, arena_max_bytes=0
        ) as connector:
            assert connector.send(b"as set").result(30) == b"as set"


def test_a_settings_file_elsewhere_is_all_that_a_source_and_a_command_take(
    cluster: LocalCluster, tmp_path: Path, identity: TlsIdentity, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = declared(cluster, tmp_path, "named", 1)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write_files(elsewhere, identity)
    (elsewhere / "source.token").write_text(cluster.source_token)
    (elsewhere / "source.token").chmod(0o600)
    file = elsewhere / "cluster.toml"
    file.write_text(
        f"master.url = '{cluster.url}'\nclient.token_file = 'source.token'\ntls.authority = 'authority'\n"
        "connector.arena_max_bytes = 0\n"
    )
    with StreamConnector(stream, settings=file, patience_s=60.0) as connector:
        assert connector.send(b"by name").result(30) == b"by name"
    sent = tmp_path / "sent.txt"
    sent.write_text("a file")
    assert main(["--settings", str(file), "send", stream, str(sent)]) == 0
    assert "a file" in capsys.readouterr().out
