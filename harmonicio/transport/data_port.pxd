cimport cython
from harmonicio.transport.link cimport Link

@cython.final
cdef class _Served:
    cdef public Link link
    cdef public object session
    cdef public object marked_bytes

cdef class DataPort:
    cdef object __weakref__
    cdef public object address
    cdef public object socket_path
    cdef public object _reception
    cdef public object _name
    cdef public object _max_connections
    cdef public object _greeting_within_s
    cdef public object _slow_after_s
    cdef public object _listeners
    cdef public object _selector
    cdef public object _wake_reader
    cdef public object _wake_writer
    cdef public object _files
    cdef public object _lock
    cdef public dict _served
    cdef public dict _ungreeted
    cdef public dict _unfinished
    cdef public object _returned
    cdef public object _ended_bytes
    cdef public bint _is_closing
    cdef public object _refused_log
    cdef public object _stranger_log
    cdef public object _pool
    cdef public object _thread
    @cython.locals(link=Link)
    cpdef bint _serve_events(self, _Served served) except -1
    cpdef _note_unfinished(self, _Served served)
    cpdef bint _handle(self, _Served served, object event) except -1
