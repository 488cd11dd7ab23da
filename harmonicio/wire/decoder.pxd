cimport cython
from harmonicio.wire.events cimport IncomingMessage

@cython.final
cdef class Frame:
    cdef public object type
    cdef public object section

@cython.final
cdef class Decoder:
    cdef public long long _reach
    cdef public long long _start
    cdef public long long _end
    cdef public IncomingMessage _begun
    cdef public object _payload
    cdef public long long _filled
    cdef public long long _left_to_discard
    cdef public long long arena_bytes
    cdef public long long _unknown_flags
    cdef public long long messages
    cdef public long long abandoned_buffers
    cdef public object _kept
    cdef public object _view
    cdef public object _readable
    @cython.locals(end=cython.longlong)
    cpdef receive_buffer(self)
    @cython.locals(count=cython.longlong)
    cpdef bytes_received(self, long long count)
    cpdef next_frame(self)
    @cython.locals(start=cython.longlong, end=cython.longlong, body=cython.longlong, section_length=cython.longlong, counts=cython.longlong, priority=cython.longlong, number=cython.longlong, message=IncomingMessage)
    cpdef _small_messages(self)
    cpdef _read_section(self, IncomingMessage message, object start, object stop)
    cpdef _read_notes(self, IncomingMessage message, object counts, object body, object text_id)
    @cython.locals(message=IncomingMessage)
    cpdef _other_frame(self)
    cpdef _control(self, object kind, object section_length, object size)
