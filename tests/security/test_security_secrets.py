"""Secrets are looked for wherever a cluster shows, logs or leaves something, also when things go wrong."""

from __future__ import annotations

import json
import logging
import os
import signal
import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import psutil
import pytest
import requests
import trustme

from benches.certificates import identity_of, write_files
from harmonicio.cli.__main__ import main
from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.control import paths
from harmonicio.control.client import MasterClient
from harmonicio.control.json_codec import dumps
from harmonicio.control.messages import LeaseRequest
from harmonicio.control.settings_files import TlsFiles, load_settings
from harmonicio.core.errors import HandlerFailed, HarmonicIOError
from harmonicio.core.roles import Role
from harmonicio.core.stream import StreamDeclaration
from harmonicio.stream_connector import StreamConnector
from harmonicio.testing.waiting import wait_until
from harmonicio.transport.credentials import TlsCredentials

HANDLER = """
    from harmonicio.engine import handler

    @handler
    def fail(message):
        raise ValueError("on purpose")
"""
CANARY = "hio_admin_canary-that-nobody-may-see-0123456789"


#: A handler whose own store is away, and says where that would be.
STORING = """
    import logging
    from harmonicio.engine import handler

    @handler
    def store(message, *, database, secret_key):
        logging.getLogger("store").warning("trying %s", database)
        try:
            raise ConnectionRefusedError(f"cannot connect to {database}")
        except OSError as error:
            raise ValueError(f"nothing was stored: {error}, password={secret_key}") from error
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalCluster]:
    (tmp_path / "fail.py").write_text(dedent(HANDLER))
    write_files(tmp_path, identity_of(trustme.CA(), "127.0.0.1"))
    (tmp_path / "harmonicio.toml").write_text(
        "[master]\nport = 0\ndata_port = 0\n[tls]\ncertificate = 'certificate'\nkey = 'key'\nauthority = 'authority'\n"
    )
    monkeypatch.setenv("HARMONICIO_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with LocalCluster.of(load_settings()) as running:
        running.declare(StreamDeclaration("plates", handler=str(tmp_path / "fail.py"), max_attempts=1))
        running.wait_for_engines("plates", 1)
        yield running


def believed() -> TlsCredentials:
    return TlsCredentials(TlsFiles(load_settings().tls).read)


def secrets_of(cluster: LocalCluster, home: Path) -> dict[str, str]:
    """Return all that nobody may see, by what it is."""
    found = {file.stem: file.read_text().strip() for file in home.rglob("*.token")}
    assert {"admin", "source", "worker", "viewer"} <= found.keys()
    with sqlite3.connect(home / "master" / "master.sqlite") as database:
        (found["ticket key"],) = database.execute("SELECT value FROM facts WHERE name = 'ticket_key'").fetchone()
    database.close()
    found["TLS key"] = "".join((home / "key").read_text().splitlines()[1:3])
    with MasterClient(cluster.url, found["source"], tls=believed()) as source:
        grant = source.request_leases(LeaseRequest("plates", "canary", 1))
    found["ticket of the backlog"] = grant.backlog.ticket
    found |= {f"ticket of lease {each.lease}": each.ticket for each in grant.leases}
    return found


def go_wrong(cluster: LocalCluster) -> None:
    """A handler raises, a token and a body are refused, plain text comes to a TLS port, and an engine is aborted."""
    with StreamConnector("plates", master=cluster.url, patience_s=60.0) as connector, pytest.raises(HandlerFailed):
        connector.send(b"payload").result(30)
    with MasterClient(cluster.url, CANARY, tls=believed()) as stranger, pytest.raises(HarmonicIOError):
        stranger.streams()
    with requests.Session() as session:
        session.trust_env = False
        headers = {"Authorization": f"Bearer {cluster.token(Role.ADMIN)}"}
        url, authority = cluster.url + paths.TOKENS, load_settings().tls.authority
        body = json.dumps({"name": CANARY, "role": {}, "secret": CANARY})
        json_headers = {**headers, "Content-Type": "application/json"}
        assert session.post(url, data=body, headers=json_headers, verify=str(authority), timeout=10).status_code == 422
        plain = url.replace("https:", "http:")
        assert session.get(plain, headers=headers, timeout=10).status_code == 400
    (engine,) = engines(cluster)
    engine.send_signal(signal.SIGABRT)
    wait_until(lambda: [each for each in engines(cluster) if each.pid != engine.pid], 30, what="another engine")
    cluster.wait_for_engines("plates", 1)


def engines(cluster: LocalCluster) -> list[psutil.Process]:
    ours = {each.pid for each in cluster.client.engines()}
    children = [each for each in psutil.Process().children(recursive=True) if each.pid in ours]
    return [each for each in children if "harmonicio.engine" in " ".join(cmdline(each))]


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def shown_by(cluster: LocalCluster, home: Path) -> Iterator[tuple[str, str]]:
    """Yield where something is shown or left, and what it says."""
    client = cluster.client
    yield "status", dumps(client.status()).decode()
    yield "streams", dumps(client.streams()).decode()
    yield "engines", dumps(client.engines()).decode()
    yield "workers", dumps(client.workers()).decode()
    yield "tokens", dumps(client.tokens()).decode()
    yield "audit log", dumps(client.audit(100)).decode()
    yield "backlog", dumps(client.backlog()).decode()
    yield "dead letters", dumps(client.dead_letters("plates")).decode()
    yield "document", json.dumps(client.openapi())
    for engine in engines(cluster):
        yield f"command line of {engine.pid}", " ".join(engine.cmdline())
        yield f"environment of {engine.pid}", json.dumps(engine.environ())
    for file in home.rglob("*"):
        if file.is_file() and not file.is_symlink() and is_for_others_or_a_log(file):
            yield str(file.relative_to(home)), file.read_bytes().decode(errors="replace")


def is_for_others_or_a_log(file: Path) -> bool:
    mode = file.stat().st_mode
    folders = [each.stat().st_mode for each in file.parents if each.stat().st_uid == os.getuid()]
    can_be_read = bool(mode & (stat.S_IRGRP | stat.S_IROTH)) and all(each & stat.S_IXOTH for each in folders)
    return can_be_read or "log" in file.name or "core" in file.name or file.suffix in (".jsonl", ".txt")


@pytest.mark.row("S20")
def test_no_secret_is_shown_logged_or_left_when_things_go_wrong(
    cluster: LocalCluster, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    secrets = {**secrets_of(cluster, tmp_path), "somebody's own": CANARY}
    go_wrong(cluster)
    places = dict(shown_by(cluster, tmp_path))
    os.environ["HARMONICIO_CLIENT_TOKEN"] = CANARY
    try:
        assert main(["config"]) == 0 and main(["config", "--json"]) == 0
    finally:
        del os.environ["HARMONICIO_CLIENT_TOKEN"]
    output = capsys.readouterr()
    places |= {"log": caplog.text, "output": output.out + output.err}
    assert "on purpose" in places["dead letters"] and "client.token" in places["output"]
    assert any(name.startswith("environment") for name in places) and any("log" in name for name in places)
    found = [f"{what} in {name}" for name, text in places.items() for what, secret in secrets.items() if secret in text]
    assert not found


@pytest.mark.row("S20")
def test_a_store_that_cannot_be_reached_shows_no_password_to_who_may_only_look(
    cluster: LocalCluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "store.py").write_text(dedent(STORING))
    url = f"postgresql://haste:{CANARY}@127.0.0.1:9/features"
    tiers = {"unscored": {"driver": "s3-of-somebody", "access_key": CANARY, "bucket": "b"}}
    declared = StreamDeclaration(
        "store",
        handler=str(tmp_path / "store.py"),
        max_attempts=1,
        parameters={"database": url, "secret_key": CANARY},
        plugins={"of-somebody": {"tiers": tiers, "feature_db": {"url": url}}},
    )
    with pytest.raises(HarmonicIOError, match="of-somebody"):
        cluster.declare(replace(declared, engines=1))
        cluster.wait_for_engines("store", 1, timeout_s=3)
    cluster.declare(replace(declared, plugins={}))
    cluster.wait_for_engines("store", 1)
    connector = StreamConnector("store", master=cluster.url, token=cluster.source_token, patience_s=60.0)
    with connector, pytest.raises(HandlerFailed, match="nothing was stored") as failed:
        connector.send(b"").result(30)
    places = {"what its source is told": str(failed.value), "log": caplog.text}
    with MasterClient(cluster.url, cluster.token(Role.VIEWER), tls=believed()) as viewer:
        (letter,) = viewer.dead_letters("store").letters
        places["dead letter"] = dumps(viewer.dead_letter("store", letter.message)).decode()
        shown = (viewer.streams(), viewer.stream("store"), viewer.status(), viewer.workers(), viewer.engines())
        places["what a viewer sees"] = dumps(shown).decode()
    places |= {str(file): file.read_text(errors="replace") for file in tmp_path.rglob("*log*") if file.is_file()}
    assert "nothing was stored" in places["dead letter"] and "haste:(hidden)@127.0.0.1" in places["dead letter"]
    assert any("trying" in text for name, text in places.items() if "engine" in name), "its log is looked at, too"
    assert not [name for name, text in places.items() if CANARY in text]
    assert cluster.client.stream("store").declaration.parameters["database"] == url, "an administrator sees it"
