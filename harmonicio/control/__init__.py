"""The REST contract between the roles: one copy for both ends."""
