cimport cython
from harmonicio.stream_connector.delivery cimport Delivery
from harmonicio.stream_connector.dispatch cimport Dispatch
from harmonicio.stream_connector.figures cimport Tally
from harmonicio.stream_connector.lanes cimport Lane
from harmonicio.stream_connector.lanes cimport Parcel
from harmonicio.stream_connector.peers cimport Peer
from harmonicio.stream_connector.pump cimport Pump
from harmonicio.stream_connector.room_line cimport RoomLine
from harmonicio.stream_connector.settlement cimport Settlement

@cython.final
cdef class Exchange:
    cdef public object lock
    cdef public Pump pump
    cdef public object on_wanted
    cdef public bint is_closed
    cdef public Tally tally
    cdef public Dispatch _dispatch
    cdef public Settlement _settlement
    cdef public object _results
    cdef public dict _peers
    cdef public object _refusal
    cdef public RoomLine _room_line
    cdef public object _spool_line
    cdef public double _due_at
    cdef public object _was_wanted
    @cython.locals(lane=Lane, now=cython.double, can_wait=cython.bint, is_due_earlier=cython.bint, is_asked=cython.bint, touched=list)
    cpdef offer(self, Parcel parcel)
    cpdef _check_usable(self)
    cpdef peer_events(self, Peer peer, list events)
    @cython.locals(delivery=Delivery)
    cpdef _take(self, Lane lane, object event, double now)
    @cython.locals(lane=Lane)
    cpdef _advance(self, double now)
    cpdef tidy(self)
