"""All processes of a cluster stand still for longer than every term, at the same time, and go on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from textwrap import dedent

import psutil
import pytest

from benches.roles import Roles
from harmonicio.core.stream import StreamDeclaration
from harmonicio.testing.waiting import wait_until

#: Ten minutes, divided by 60; terms of a minute and more are as much shorter, those of seconds as they are.
STANDS_STILL_S = 10.0
TERM_S, TIMEOUT_S = 1.0, 3.0
PROGRAM = f"""
import functools
from harmonicio.cli import master
from harmonicio.cli.__main__ import main
from harmonicio.master.backlog import entry

entry.RESERVATION_MARGIN_S = 0.5
master.MasterOptions = functools.partial(master.MasterOptions, lease_term_s={TERM_S})
raise SystemExit(main())
"""
HANDLER = """
    import time
    from pathlib import Path
    from harmonicio.engine import handler

    @handler
    def note(message):
        time.sleep(0.05)
        with open(Path(__file__).with_name("handled.txt"), "a") as file:
            file.write(message.id + "\\n")
"""
SOURCE = """
    import sys, time
    from pathlib import Path
    from harmonicio.stream_connector import StreamConnector

    url, token, stop, sent = sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
    ids = []
    with StreamConnector("note", master=url, token=token) as connector, sent.open("ab", buffering=0) as log:
        while not stop.exists():
            ids.append(connector.send(bytes(100_000)).message_id)
            log.write(b".")
            time.sleep(0.01)
        connector.flush("processed", timeout_s=60)
    print("\\n".join(ids))
"""


@contextmanager
def frozen(processes: list[psutil.Process]) -> Iterator[None]:
    for each in processes:
        each.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for each in processes:
            with suppress(psutil.NoSuchProcess):
                each.send_signal(signal.SIGCONT)


@contextmanager
def sending(roles: Roles, folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", dedent(SOURCE), roles.url, roles.token("source")]
    with subprocess.Popen(
        [*command, str(folder / "stop"), str(folder / "sent")], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.row("F26")
def test_a_cluster_that_stood_still_beyond_all_terms_goes_on_and_loses_nothing(
    tmp_path: Path, free_ports: tuple[int, int]
) -> None:
    roles = Roles(tmp_path / "home", *free_ports)
    (tmp_path / "note.py").write_text(dedent(HANDLER))
    (tmp_path / "program.py").write_text(PROGRAM)
    declared = StreamDeclaration(
        "note", handler=str(tmp_path / "note.py"), engines=2, timeout_s=TIMEOUT_S, max_attempts=3
    )
    handled, sent = tmp_path / "handled.txt", tmp_path / "sent"
    with roles.running("master", through=(str(tmp_path / "program.py"),)) as master:
        wait_until(roles.is_up, 20)
        with roles.running("worker") as worker, roles.client() as client:
            client.declare_stream(declared)
            wait_until(lambda: client.stream("note").running == 2, 30, what="two engines")
            with sending(roles, tmp_path) as source:
                wait_until(lambda: client.stream("note").backlog.ready and handled.exists(), 30, what="a backlog")
                engines = psutil.Process(worker.pid).children(recursive=True)
                assert len(engines) >= 2
                with frozen([*map(psutil.Process, (source.pid, master.pid, worker.pid)), *engines]):
                    before = handled.read_text()
                    time.sleep(STANDS_STILL_S)
                    assert handled.read_text() == before, "all of it stood still"
                count = sent.stat().st_size
                wait_until(lambda: sent.stat().st_size > count, 30, what="the source to go on")
                (tmp_path / "stop").touch()
                ids = source.communicate(timeout=90)[0].split()
                assert source.returncode == 0
            assert set(handled.read_text().split()) == set(ids)
            assert client.dead_letters("note").total == 0
            wait_until(lambda: client.stream("note").running == 2, 30, what="both engines again")
