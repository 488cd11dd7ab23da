"""A command that loses one of its threads, as by a bug that nobody has thought of.

python tests/benches/lost_thread.py THREAD master run       as `harmonicio master run`, until a line is read from stdin
"""

from __future__ import annotations

import ctypes
import sys
import threading

from harmonicio.cli.__main__ import main
from harmonicio.testing.waiting import wait_until


def end_thread(name: str) -> None:
    """End a thread of this process where it is; who waits for something ends when that comes."""
    (thread,) = [each for each in threading.enumerate() if each.name == name]
    assert thread.ident is not None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
    owner = getattr(getattr(thread, "_target", None), "__self__", None)
    if isinstance(condition := getattr(owner, "_gathered", None), threading.Condition):
        with condition:
            condition.notify_all()


def _lose(name: str) -> None:
    sys.stdin.readline()
    wait_until(lambda: any(each.name == name for each in threading.enumerate()))
    end_thread(name)


if __name__ == "__main__":
    threading.Thread(target=_lose, args=(sys.argv[1],), daemon=True).start()
    sys.exit(main(sys.argv[2:]))
