cimport cython
from harmonicio.engine.answers cimport Answers
from harmonicio.engine.peer cimport Peer
from harmonicio.engine.slots cimport Slot
from harmonicio.engine.slots cimport Slots
from harmonicio.engine.work cimport Work
from harmonicio.wire.credit cimport ReceiverCredit
from harmonicio.wire.events cimport IncomingMessage

@cython.final
cdef class Session:
    cdef public Peer peer
    cdef public Answers answers
    cdef public object arena
    cdef public bint is_closed
    cdef public Work _work
    cdef public Slots _slots
    cdef public object _payloads
    cdef public object _stream
    cdef public long long _max_message_bytes
    cdef public object _link
    cdef public ReceiverCredit _credit
    cdef public bint _is_backlog
    cdef public object _route
    cdef public Slot _slot
    cdef public double _held_since
    cdef public long long _held_messages
    cdef public object _overdue_since
    cdef public object _payload
    cdef public object _arrival
    cdef public object _on_closed
    cdef public bint _has_said_goodbye
    cpdef handle(self, object event)
    cpdef pause(self)
    cpdef checkpoint(self)
    @cython.locals(message=IncomingMessage, slot=Slot)
    cpdef _small_received(self, list messages)
    cpdef _refusal(self, IncomingMessage message)
    @cython.locals(slot=Slot)
    cpdef _run_here(self, IncomingMessage message, object payload, object placed=*)
    cpdef _run_in(self, Slot slot, IncomingMessage message, object payload, double now, object placed)
    cpdef bint _may_hold_on(self, double now) except -1
    cpdef _give_slot_back(self)
    cpdef double _waits_since(self) except? -1
    @cython.locals(slot=Slot)
    cpdef _end_hold(self)
    cpdef _content_of(self, IncomingMessage message, object payload)
