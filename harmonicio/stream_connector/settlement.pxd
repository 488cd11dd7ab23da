cimport cython
from harmonicio.stream_connector.delivery cimport Delivery
from harmonicio.stream_connector.figures cimport Tally
from harmonicio.stream_connector.lanes cimport Parcel

@cython.final
cdef class Settlement:
    cdef public object _spool
    cdef public bint _keeps_outcomes
    cdef public object _leaving
    cdef public Tally tally
    cdef public object results
    cdef public object failures
    cdef public object on_rejected
    @cython.locals(parcel=Parcel)
    cpdef settle(self, object settled)

cpdef _tell(Delivery delivery, object state, object outcome, object route)
