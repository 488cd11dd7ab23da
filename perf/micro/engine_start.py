"""How long an engine in a container takes to come up, beside ``docker run`` of the same image in the same run.

    PYTHONPATH=perf python -m micro.engine_start --image harmonicio/echo --json

Interleaved: ``ready_s`` from the order to scale a stream from 0 to 1 until the master can name the engine to sources;
``docker_run_s`` for ``docker run`` of the image's Python with the same confinement, until it has imported the handler
and ended. ``added_s`` is the median over the pairs of the difference. Needs a Docker engine, its command line and
``make images``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.core.stream import StreamDeclaration
from harmonicio.testing.waiting import wait_until
from harmonicio.worker.options import WorkerOptions
from micro.machine import machine

STREAM = "bench"
CONFINED = ("--rm", "--network", "bridge", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
LIMITS = ("--user", "10001:10001", "--memory", "2g", "--cpus", "1", "--pids-limit", "512", "--env", "HOME=/tmp")


def docker_run_s(image: str) -> float:
    """Return how long Docker itself takes for the image's Python to start, import the handler and end."""
    begun = time.monotonic()
    command = ["docker", "run", *CONFINED, *LIMITS, image, "/engine/engine.py", "--describe"]
    subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - begun


def ready_s(cluster: LocalCluster) -> float:
    """Return how long it takes from the order until the engine can be named to sources; it is gone again then."""
    begun = time.monotonic()
    cluster.client.scale_stream(STREAM, 1)
    wait_until(lambda: cluster.client.stream(STREAM).running == 1, 60)
    took_s = time.monotonic() - begun
    cluster.client.scale_stream(STREAM, 0)
    wait_until(lambda: not cluster.client.engines(), 60)
    return took_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", default="harmonicio/echo")
    parser.add_argument("--pairs", type=int, default=11)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    ours, dockers = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        worker = WorkerOptions("bench", folder / "worker", folder / "scratch", max_engines=2, runtime="docker")
        with LocalCluster(folder, worker=worker) as cluster:
            cluster.declare(StreamDeclaration(STREAM, image=options.image, engines=0))
            for pair in range(options.pairs):
                runs = [lambda: dockers.append(docker_run_s(options.image))]
                runs.insert(pair % 2, lambda: ours.append(ready_s(cluster)))
                for run in runs:
                    run()
                print(f"ready {ours[-1]:.2f} s, docker run {dockers[-1]:.2f} s", file=sys.stderr, flush=True)
    added = sorted(mine - docker for mine, docker in zip(ours, dockers, strict=True))
    row = {
        "image": options.image,
        "ready_s": round(statistics.median(ours), 3),
        "docker_run_s": round(statistics.median(dockers), 3),
        "added_s": round(statistics.median(added), 3),
        "added_quartiles_s": [round(each, 3) for each in statistics.quantiles(added, n=4)[::2]],
        "pairs": options.pairs,
    }
    if options.json:
        print(json.dumps({"machine": machine(), "rows": [row]}, indent=1))


if __name__ == "__main__":
    main()
