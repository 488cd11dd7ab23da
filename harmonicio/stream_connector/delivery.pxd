cimport cython
@cython.final
cdef class Delivery:
    cdef object __weakref__
    cdef public object _owner
    cdef public object _id
    cdef public object _outcome
    cdef public long long size_bytes
    cdef public object state
    cdef public object route
    cdef public bint released
    cdef public bint is_awaited
    cpdef settle(self, object state, object outcome, object route=*)
