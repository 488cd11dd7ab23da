cimport cython
@cython.final
cdef class SenderCredit:
    cdef public long long messages_total
    cdef public long long bytes_total
    cdef public long long sent
    cdef public long long sent_bytes
    cdef public long long answered
    cdef public long long window
    cpdef bint can_send(self, long long size_bytes) except -1
    cpdef Py_ssize_t message_sent(self, long long size_bytes) except? -1
    cpdef outcomes_received(self, long long first, long long last)

@cython.final
cdef class ReceiverCredit:
    cdef public long long messages_total
    cdef public long long bytes_total
    cdef public long long received
    cdef public long long received_bytes
    cdef public long long answered
    cdef public long long answered_bytes
    cpdef bint message_received(self, long long size_bytes) except -1
    cpdef message_answered(self, long long size_bytes)
