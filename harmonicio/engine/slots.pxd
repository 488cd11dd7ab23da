cimport cython
from harmonicio.engine.loop cimport EngineLoop

@cython.final
cdef class Slot:
    cdef public object message_id
    cdef public double since
    cdef public bint has_returned
    cdef public long long turn
    cdef public long long _row
    cdef public object _board
    cpdef begin(self, object message_id, double now)
    cpdef end(self)

@cython.final
cdef class Slots:
    cdef public EngineLoop _loop
    cdef public object _lock
    cdef public object _idle_slots
    cdef public object _slots
    cdef public long long _concurrency
    cdef public dict _sessions
    cdef public object _on_busy
    cdef public object _on_alone
    cdef public bint _is_told_idle
    cdef public long long _taken
    cdef public long long _taken_before
    cdef public object _executor
    cdef public object flusher
    cdef public bint is_draining
    cdef public object is_wanted
    @cython.locals(slot=Slot)
    cpdef _take_free_slot(self)
    cpdef _take_idle_slot(self)
    cpdef release(self, Slot slot, object messages, double seconds)
