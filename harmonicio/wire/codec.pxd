cpdef pack_flat(object fields)
cpdef pack_numbers(object rows)
cpdef _check_claims(object section)
