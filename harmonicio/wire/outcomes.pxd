cimport cython

@cython.final
cdef class OutcomeBatch:
    cdef public list _ranges
    cdef public object _newest
    cdef public long long _size_bytes
    cdef public bint is_full
    @cython.locals(newest=_Range)
    cpdef add(self, long long sequence, object outcome, object detail=*)
    cpdef take_frame(self)

@cython.final
cdef class _Range:
    cdef public long long first
    cdef public long long last
    cdef public object kind
    cdef public object detail
