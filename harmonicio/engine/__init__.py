"""The processing engine: one process that runs a user's handler on the messages of one stream.

    handler     the decorator, and loading what it marked        loop      slots and credit: pure
    parameters  the stream's, by the names of its arguments      description  what a handler is, without running it
    message     what a handler gets, and what it emits
    streaming   payloads that are read while they arrive         slots     the loop under its lock, with its threads
    work        one message to one outcome, plugins included     session   one connection that brings messages
    emission    what handlers emit, until it is safe
    outputs     results and exceptions to outcomes               flusher   nothing waits unsent
    payloads    buffers, files and the byte budget               reception HELLO and tickets
    backlog_connection, control_connection   to the master, to the controller
    daemon      joins them                                       run       the process around it
    echo, command    handlers of our own: says what it got; runs a program, with program and scratch

A handler file needs what is exported here and no more; importing it starts nothing.
"""

from harmonicio.engine.handler import handler
from harmonicio.engine.message import Emission, Message
from harmonicio.engine.streaming import StreamingMessage

__all__ = ["Emission", "Message", "StreamingMessage", "handler"]
