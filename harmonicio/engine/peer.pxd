cimport cython
from harmonicio.wire.credit cimport ReceiverCredit

@cython.final
cdef class Peer:
    cdef public object name
    cdef public bint is_backlog
    cdef public ReceiverCredit credit
    cdef public long long started_here
    cdef public long long started_elsewhere
    cdef public long long window
    cdef public long long window_bytes
    cdef public double active_at
    cdef public double deficit_bytes
    cdef public object _seen
