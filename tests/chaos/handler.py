"""The engine of the load: writes down what it was given, behaves as told, and returns a feature for HASTE."""

import json
import os
import signal
import time
from hashlib import blake2b

from harmonicio.engine import handler


def note(journal, **what):
    with open(journal, "ab", buffering=0) as file:
        file.write(json.dumps(what).encode() + b"\n")


@handler
def look(message, *, journal: str):
    digest = blake2b(message.payload, digest_size=16).hexdigest()
    note(journal, handled=message.id, digest=digest, attempt=message.attempt, pid=os.getpid())
    behaviour = message.metadata.get("behaviour", "")
    if behaviour == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "endless":
        time.sleep(3600.0)
    if behaviour == "raise" or (behaviour == "raise once" and message.attempt == 1):
        raise ValueError("this one cannot be read")
    if behaviour == "emit":
        message.emit(f"emitted for {message.id}".encode(), stream="plates", metadata={"seconds": 0.01})
    time.sleep(message.metadata["seconds"])
    note(journal, returned=message.id)
    return {"focus": int(digest[:2], 16) / 255}
