cimport cython
@cython.final
cdef class Tally:
    cdef public long long sent
    cdef public long long via_engine
    cdef public long long via_backlog
    cdef public long long refused
    cdef public long long processed
    cdef public long long failed
    cdef public long long rejected
