cimport cython
@cython.final
cdef class EngineLoop:
    cdef public long long _concurrency
    cdef public double _prefetch_s
    cdef public object _budget_bytes
    cdef public object _peers
    cdef public dict _resting
    cdef public double _look_at_resting_at
    cdef public object _waiting
    cdef public object _waiting_from_backlog
    cdef public object _suspects
    cdef public bint is_alone
    cdef public double _alone_at
    cdef public double _no_suspect_until
    cdef public long long free_slots
    cdef public long long depth
    cdef public object handler_s
    cdef public bint is_draining
    cdef public bint has_hungry_peers
    cdef public long long _emitting
    cdef public double _clogged_at
    cpdef bint take_slot(self) except -1
    cpdef bint free_unwanted_slot(self) except -1
    cpdef measured(self, object count, double seconds)
