from harmonicio.transport.busy_poll cimport BusyPoll
from harmonicio.wire.connection cimport Connection

cdef class Link:
    cdef object __weakref__
    cdef public object channel
    cdef public Connection connection
    cdef public object _sending
    cdef public bint _is_cut
    cdef public bint _has_said_goodbye
    cdef public BusyPoll _polling
    cdef public bint _may_poll
    cdef public object received_bytes
    cpdef next_event(self)
    cpdef bint read_at_once(self) except -1
    cpdef rest(self)
