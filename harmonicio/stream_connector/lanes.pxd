cimport cython
from harmonicio.stream_connector.delivery cimport Delivery
from harmonicio.wire.credit cimport SenderCredit

@cython.final
cdef class Parcel:
    cdef public Delivery delivery
    cdef public object payload
    cdef public bytes section
    cdef public long long priority
    cdef public long long size_bytes
    cdef public long long cost_bytes
    cdef public long long flags
    cdef public long long attempts
    cdef public long long rejections
    cdef public long long absences
    cdef public object refused_by
    cdef public object failure
    cdef public bint is_small
    cdef public bint is_large
    cdef public bint is_for_master
    cdef public bint is_away
    cdef public bint is_readable
    cdef public bint is_in_loop
    cdef public object raw_id
    cdef public double offered_at
    cdef public double sent_at
    cdef public double away_since
    cdef public object trouble
    cdef public object entry
    cdef public object slot
    cpdef let_go(self)

@cython.final
cdef class Lane:
    cdef public object name
    cdef public bint is_backlog
    cdef public long long max_message_bytes
    cdef public SenderCredit credit
    cdef public dict in_flight
    cdef public object outbox
    cdef public long long begun
    cdef public bint is_draining
    cdef public bint is_prompt
    cdef public bint is_quick
    cdef public bint has_arena
    cdef public double active_at
    cdef public double answered_at
    cdef public bint _is_soon_done
    cdef public long long _last_large
    cdef public long long _pace
    cdef public long long _pace_before
    cdef public double _pace_at
    @cython.locals(number=cython.longlong)
    cpdef take(self, Parcel parcel, double now)
    cpdef bint can_take(self, Parcel parcel) except -1
    cpdef bint _is_named_only(self, Parcel parcel) except -1
    @cython.locals(waiting=cython.Py_ssize_t, is_written=cython.bint)
    cpdef bint can_wait(self, Parcel parcel) except -1
    cpdef bint goes_on(self, Parcel parcel, double now, double window_s) except -1
    cpdef bint _is_soon_free(self, Parcel parcel, double now, double window_s) except -1
    cpdef bint _has_written_large(self) except -1
    cpdef bint is_awake(self, double now, double window_s) except -1
    @cython.locals(in_flight=cython.Py_ssize_t, pace=cython.longlong)
    cpdef bint is_full(self, double now) except -1
