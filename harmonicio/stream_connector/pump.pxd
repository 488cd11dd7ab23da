cimport cython
from harmonicio.stream_connector.peers cimport Peer
from harmonicio.transport.busy_poll cimport BusyPoll

@cython.final
cdef class Pump:
    cdef public object _owner
    cdef public object _lock
    cdef public object _changed
    cdef public object _parked
    cdef public object _requests
    cdef public dict _errors
    cdef public dict _peers
    cdef public long long _waiters
    cdef public long long _turns
    cdef public bint _is_turning
    cdef public bint _is_background
    cdef public bint _is_woken
    cdef public bint _is_closing
    cdef public double _tick_at
    cdef public double _sent_at
    cdef public double _turned_at
    cdef public bint _is_source_busy
    cdef public bint _is_left_to_io
    cdef public double _due_at
    cdef public BusyPoll _polling
    cdef public object _thread
    cdef public object _selector
    cdef public object _wake_reader
    cdef public object _wake_writer
    cpdef sent(self, double now)
    cpdef flush_soon(self, Peer peer)
    cpdef _request(self, object action, Peer peer)
    cpdef _wake(self)
    cpdef _take_turn(self, double at_most_s)
    cpdef bint _take_requests(self) except -1
    cpdef _serve(self, object action, Peer peer)
    cpdef _flush_due(self, Peer peer)
    cpdef _flush(self, Peer peer)
    cpdef _read(self, Peer peer)
    cpdef _take_events(self, Peer peer)
