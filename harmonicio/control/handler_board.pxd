cimport cython

@cython.final
cdef class HandlerBoard:
    cdef public object _rows
    cdef public object _inode
    cdef public object _path
    cpdef begin(self, long long row, str message_id, double since)
    cpdef returned(self, long long row, str message_id, double since)
    cpdef end(self, long long row)
