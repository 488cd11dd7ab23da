"""Whether the worker of this host does its work, as another process on the same host finds out.

    it runs        its data folder is in use
    it can work    its Docker engine answers, where it starts containers
    it is heard    the master has had a report from it within the last seconds

While the master is away a worker is unwell, too: it is told of no changes. Its engines go on all the same, so that is
no reason to restart it.
"""

from __future__ import annotations

import socket
from contextlib import closing

from harmonicio.control.client import MasterClient
from harmonicio.control.locked_folder import is_in_use
from harmonicio.control.messages import WorkerView
from harmonicio.core.errors import Conflict, NotFound, Unavailable
from harmonicio.worker.options import WorkerOptions


def check_worker(options: WorkerOptions, master: MasterClient) -> WorkerView:
    """Return what the master knows of a worker that does its work.

    Args:
        options: Those with which the worker runs.

    Raises:
        HarmonicIOError: it does not; says what is wrong, and nothing else is looked at.
    """
    if not is_in_use(options.data_folder, "worker"):
        raise NotFound(f"No worker uses the data folder {options.data_folder}.", hint="Start it: harmonicio worker run")
    if options.runtime == "docker":
        from harmonicio.worker.containers.docker_host import (
            DockerHost,  # Who needs no containers needs no such package.
        )

        with closing(DockerHost(options.docker.url)) as host:
            host.check()
    view = master.worker(options.name)
    if view.state != "present":
        raise Unavailable(
            f"The master has not heard worker {options.name!r} for {view.last_report_age_s:.0f} s.",
            hint="Its log says why.",
        )
    if view.host != socket.gethostname():
        raise Conflict(
            f"The master hears another worker {options.name!r}, of host {view.host}.",
            hint="Give each worker a name of its own: worker.name.",
        )
    return view
