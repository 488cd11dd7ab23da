cimport cython
from harmonicio.core.message cimport MessageIds
from harmonicio.stream_connector.delivery cimport Delivery
from harmonicio.stream_connector.exchange cimport Exchange
from harmonicio.stream_connector.lanes cimport Parcel
from harmonicio.wire.sections cimport source_section

@cython.final
cdef class Outgoing:
    cdef public object _owner
    cdef public Exchange _exchange
    cdef public object _spool
    cdef public MessageIds _ids
    cdef public object _known
    cdef public object _lock
    cdef public object _changed
    cdef public object _sending
    @cython.locals(parcel=Parcel, delivery=Delivery)
    cpdef send(self, object payload, object metadata, object priority, object message_id, object slot=*)
