from harmonicio.stream_connector.exchange cimport Exchange
from harmonicio.stream_connector.outgoing cimport Outgoing

cdef class StreamConnector:
    cdef object __weakref__
    cdef public object stream
    cdef public object source
    cdef public object _process
    cdef public object _opening
    cdef public bint _is_open
    cdef public bint _asks_first
    cdef public object _spool
    cdef public object _slots
    cdef public Exchange _exchange
    cdef public Outgoing _outgoing
    cdef public object _leasing
    cpdef _check_process(self)
