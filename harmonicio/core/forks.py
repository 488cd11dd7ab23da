"""Which process this is, told without a system call: asking the kernel costs more than a small message."""

from __future__ import annotations

import os

#: Stays the same in this process, and is another in what is forked from it; read it here each time.
this_process = object()


def _is_forked() -> None:
    global this_process
    this_process = object()


os.register_at_fork(after_in_child=_is_forked)
