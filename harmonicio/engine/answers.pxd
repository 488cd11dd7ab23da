cimport cython
from harmonicio.engine.peer cimport Peer
from harmonicio.wire.credit cimport ReceiverCredit
from harmonicio.wire.events cimport IncomingMessage
from harmonicio.wire.outcomes cimport OutcomeBatch

@cython.final
cdef class Answers:
    cdef public object _link
    cdef public Peer _peer
    cdef public ReceiverCredit _credit
    cdef public object _arena
    cdef public object _lock
    cdef public OutcomeBatch _outcomes
    cdef public object _told
    cdef public long long _unsent
    cdef public long long _unsent_bytes
    cdef public bint _is_over
    cdef public bint is_full
    cdef public object oldest_at
    cdef public long long handled
    cdef public long long failed
    cdef public long long received_bytes
    @cython.locals(size_bytes=cython.longlong)
    cpdef message_handled(self, IncomingMessage message, object outcome, object detail=*)
    cpdef flush(self)
