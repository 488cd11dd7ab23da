"""The handler of the cluster's streams: takes as long as a message says, and writes down what it was given."""

import hashlib
import json
import socket
import time
from pathlib import Path

from harmonicio.engine import handler

HOME = Path("/var/lib/harmonicio")
#: The first one that is to linger makes the first, and returns when somebody has made the second.
LINGERING, LET_GO = HOME / "lingering", HOME / "let-go"


def note(**what):
    with open(HOME / "handled.jsonl", "ab", buffering=0) as journal:
        journal.write(json.dumps(what).encode() + b"\n")


def linger(message):
    """Return when a test says so, if this is the first one that lingers here."""
    try:
        with open(LINGERING, "x") as file:
            file.write(message.id)
    except FileExistsError:
        return
    while not LET_GO.exists():
        time.sleep(0.05)


@handler
def look(message):
    note(begun=message.id, attempt=message.attempt, route=message.route)
    if message.metadata.get("lingers_on") == socket.gethostname():
        linger(message)
    time.sleep(message.metadata.get("takes_s", 0.0))
    note(returned=message.id)
    # So many bits of a digest are a feature, too.
    return {"head": int(hashlib.sha256(message.payload).hexdigest()[:12], 16)}
