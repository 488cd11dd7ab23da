cimport cython
from harmonicio.engine.slots cimport Slot

@cython.final
cdef class Work:
    cdef public object _handler
    cdef public bint is_streaming
    cdef public object _deliver
    cdef public object _plugins
    cdef public bint _is_closed
    cdef public object _state
    cdef public object _call
    cpdef run(self, object message, Slot slot)
