cimport cython
@cython.final
cdef class IncomingMessage:
    cdef public long long sequence
    cdef public object id
    cdef public long long size_bytes
    cdef public object payload
    cdef public long long flags
    cdef public long long attempts
    cdef public long long crashes
    cdef public long long priority
    cdef public bytes section
    cdef public object failure
    cdef public bint is_intact
    cdef public bint is_suspect
    cdef public bint is_dead
    cdef public long long place
