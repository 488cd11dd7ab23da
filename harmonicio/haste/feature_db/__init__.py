"""Feature databases: one row per message, and the commit of that row decides which attempt counts."""
