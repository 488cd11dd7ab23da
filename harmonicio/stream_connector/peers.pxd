cimport cython
from harmonicio.stream_connector.lanes cimport Lane
from harmonicio.stream_connector.lanes cimport Parcel
from harmonicio.wire.connection cimport raw_prefix

cdef class Peer:
    cdef public object link
    cdef public Lane lane
    cdef public object transmissions
    cdef public bint is_blocked
    cdef public bint is_ended
    cdef public bint is_stuck
    cdef public bint is_flush_due
    cdef public long long _checksum_flag
    cdef public object _writing
    cdef public object _controls
    cdef public list _pending
    cdef public long long _pending_bytes
    cdef public long long _copied_bytes
    cdef public Parcel _large
    cdef public object _file
    cdef public object _piece
    cdef public long long _written_bytes
    cdef public double _judged_at
    cdef public long long _judged_bytes
    cpdef flush(self)
    cpdef _write(self)
    @cython.locals(size=cython.longlong, most=cython.longlong, parcel=Parcel, lane=Lane, prefix=bytes, placed=bytes)
    cpdef bint _gather(self) except -1
    cpdef _take_controls(self)
    cpdef _make_ready(self, list pending)
    cpdef bytes _placed(self, object transmissions, Parcel parcel, object payload)
    cpdef _copied(self, object transmissions, Parcel parcel, object payload)
    cpdef _payload(self, Parcel parcel)
    cpdef bytes _prefix(self, Parcel parcel, long long how)
    cpdef _note_sent(self)

cpdef _together(list joined)
