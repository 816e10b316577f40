"""The limit that decides whether a tensor changed, for those that compute it and those that only read it."""

FLOORS = 4.0
"""Changes below this multiple of the floor are rounding (METHODS 12)."""
