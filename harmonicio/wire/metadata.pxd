cpdef read_metadata(object section)
