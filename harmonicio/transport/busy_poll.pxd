cimport cython
@cython.final
cdef class BusyPoll:
    cdef public bint _is_disturbed
    cdef public long long _left_alone
    cdef public long long _moments
    cdef public long long _strain
    cpdef waited(self, double seconds)
