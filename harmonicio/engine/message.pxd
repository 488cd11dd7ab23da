cdef class Parent:
    cdef public object _id
    cdef public object _stream
    cdef public object _metadata
    cdef public object _priority
    cdef public object _attempt
    cdef public bytes _section
    cdef public object _gathered

cdef class Message(Parent):
    cdef public object _payload
    cdef public object _route
