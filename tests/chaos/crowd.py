"""A crowd at the master's data port: connections that have nothing to send, and come back all at once when they end.

    python -m chaos.crowd JOURNAL COUNT

Writes a line whenever all of them were greeted: ``{"came": count, "seconds": …}``.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path

from chaos.journals import Journal
from chaos.load import NOTES
from harmonicio.control import open_file_limit
from harmonicio.control.client import MasterClient
from harmonicio.control.messages import LeaseRequest
from harmonicio.control.settings_files import load_settings, read_token
from harmonicio.core.errors import HarmonicIOError
from harmonicio.core.roles import Role
from harmonicio.testing.crowd import Crowd
from harmonicio.wire.events import Hello
from harmonicio.wire.events import Role as Peer
from harmonicio.wire.frames import VERSION

#: They are not patient: as many knock at once as can, whenever the master can be reached.
PAUSE_S = 0.1
NAME = "crowd"


def come_once(client: MasterClient, journal: Journal, count: int) -> None:
    """Let the crowd come, and stay until the first of them has lost its connection."""
    access = client.request_leases(LeaseRequest(NOTES, NAME, 0)).backlog
    hello = Hello(Peer.CONNECTOR, stream=NOTES, source=NAME, ticket=access.ticket, versions=(VERSION,))
    with Crowd(access.address, hello) as crowd:
        journal.write(came=count, seconds=round(crowd.come(count), 3))
        crowd.stay()


def main() -> None:
    open_file_limit.raise_own()
    settings = load_settings()
    client = MasterClient(settings.master.url, read_token(settings, (Role.SOURCE,)))
    with Journal(Path(sys.argv[1])) as journal, client:
        while True:
            with suppress(HarmonicIOError, OSError):  # The master is away: that is what this is about.
                come_once(client, journal, int(sys.argv[2]))
            time.sleep(PAUSE_S)


if __name__ == "__main__":
    main()
