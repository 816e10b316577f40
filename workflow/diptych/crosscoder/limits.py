"""Limits that decide what a crosscoder's latent is, for those that compute it and those that only read it."""

EXCLUSIVE_NU = (0.2, 0.5)
"""Largest |nu_err| and |nu_rec| of an exclusive latent (METHODS 5)."""
