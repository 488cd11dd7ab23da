"""Reports: what was sorted where, as tables (CSV) and as one page (HTML) that needs nothing but itself."""
