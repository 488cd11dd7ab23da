cimport cython
@cython.final
cdef class MessageIds:
    cdef public object _prefix
    cdef public object _numbers
    cpdef draw_raw(self)
