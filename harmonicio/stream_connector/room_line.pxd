cimport cython
@cython.final
cdef class RoomLine:
    cdef public object _pump
    cdef public object _is_over
    cdef public object _tickets
    cdef public long long waiting
