cimport cython
from harmonicio.wire.decoder cimport Decoder
from harmonicio.wire.decoder cimport Frame

@cython.final
cdef class Connection:
    cdef public Decoder _decoder
    cdef public bint _is_listener
    cdef public object state
    cdef public object part
    cdef public object _handshake_bytes
    cdef public bint _is_hello_sent
    cdef public bint _is_hello_received
    cpdef receive_buffer(self)
    cpdef bytes_received(self, long long count)
    cpdef next_event(self)
    cpdef _control_event(self, Frame frame, object state)

cpdef raw_prefix(object raw_id, object size_bytes, object section, object priority=*, object flags=*, object attempts=*, object crashes=*)
