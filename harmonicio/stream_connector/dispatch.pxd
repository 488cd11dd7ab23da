cimport cython
from harmonicio.stream_connector.lanes cimport Lane
from harmonicio.stream_connector.lanes cimport Parcel

@cython.final
cdef class Dispatch:
    cdef public long long budget_bytes
    cdef public object handler_timeout_s
    cdef public double window_s
    cdef public double engines_from
    cdef public double _offered_at
    cdef public object _patience
    cdef public object _waiting
    cdef public object _for_master
    cdef public object _held_back
    cdef public object pause
    cdef public list _engines
    cdef public Lane _latest
    cdef public Lane backlog
    cdef public list _settled
    cdef public long long used_bytes
    cdef public long long waiting_bytes
    cdef public long long resent
    @cython.locals(before=cython.double, able=Lane)
    cpdef offer(self, Parcel parcel, double now)
    @cython.locals(lane=Lane, latest=Lane)
    cpdef _engine_at_once(self, Parcel parcel, double now)
    cpdef bint has_room(self, long long cost_bytes) except -1
    cpdef credit_received(self, Lane lane, object messages, object size_bytes, double now)
    @cython.locals(parcels=list, settled=list, in_flight=dict, is_done=cython.bint)
    cpdef outcomes_received(self, Lane lane, long long first, long long last, object outcome, double now)
    cpdef take_settled(self)
    @cython.locals(parcel=Parcel, lane=Lane, able=Lane)
    cpdef assign(self, double now)
    @cython.locals(parcel=Parcel)
    cpdef _settle(self, object parcels, object outcome, bint is_backlog)
