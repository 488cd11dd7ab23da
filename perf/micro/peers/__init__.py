"""Other systems on the same work: each message is answered after a function that does nothing has had it.

    base      what a peer is, and the loop of a source that keeps a window
    rounds    runs all of them in turn, beside raw TCP
    table     which there are

One module for each system. What a system needs is an extra of its own (``make peers``); one that is not here is told as
missing. A round is one run of each, so what else the machine does meets all of them.
"""

from micro.peers.rounds import measure

__all__ = ["measure"]
