"""Every path of the control plane, in the form that the master's routes use, and how much may be sent to it.

``{name}`` parts are filled with :func:`fill`, which quotes them.
"""

from __future__ import annotations

from urllib.parse import quote

#: A longer body is refused, and not sent at all by a client that knows.
MAX_BODY_BYTES = 1024 * 1024

HEALTH = "/healthz"
READY = "/readyz"

BASE = "/api/v1"
STATUS = f"{BASE}/status"
OPENAPI = f"{BASE}/openapi.json"
WORKERS = f"{BASE}/workers"
WORKER = f"{BASE}/workers/{{worker}}"
WORKER_REPORT = f"{BASE}/workers/{{worker}}/report"
WORKER_DESIRED = f"{BASE}/workers/{{worker}}/desired"
WORKER_LOGS = f"{BASE}/workers/{{worker}}/logs"
ENGINES = f"{BASE}/engines"
ENGINE = f"{BASE}/engines/{{engine}}"
ENGINE_LOG = f"{BASE}/engines/{{engine}}/log"
STREAMS = f"{BASE}/streams"
STREAM = f"{BASE}/streams/{{stream}}"
STREAM_SCALE = f"{BASE}/streams/{{stream}}/scale"
STREAM_RESTART = f"{BASE}/streams/{{stream}}/restart"
STREAM_FEATURE_ROWS = f"{BASE}/streams/{{stream}}/feature-rows"
LEASES = f"{BASE}/leases"
LEASES_RENEW = f"{BASE}/leases/renew"
LEASES_RELEASE = f"{BASE}/leases/release"
BACKLOG = f"{BASE}/backlog"
STREAM_BACKLOG = f"{BASE}/streams/{{stream}}/backlog"
STREAM_BACKLOG_PRIORITY = f"{BASE}/streams/{{stream}}/backlog/priority"
DEAD_LETTERS = f"{BASE}/streams/{{stream}}/dead"
DEAD_LETTER = f"{BASE}/streams/{{stream}}/dead/{{message}}"
DEAD_REPLAY = f"{BASE}/streams/{{stream}}/dead/replay"
DEAD_PURGE = f"{BASE}/streams/{{stream}}/dead/purge"
OUTCOME = f"{BASE}/streams/{{stream}}/outcomes/{{message}}"
TOKENS = f"{BASE}/tokens"
TOKEN = f"{BASE}/tokens/{{token}}"
AUDIT = f"{BASE}/audit"


def fill(path: str, **names: str) -> str:
    """Return ``path`` with each ``{part}`` replaced by its quoted value."""
    return path.format(**{key: quote(value, safe="") for key, value in names.items()})
