"""Messages that wait at the master: a pure ledger over a store.

``entry`` draws the states, ``ledger`` decides, ``base`` says what a store does, ``backlog`` joins them.
"""
