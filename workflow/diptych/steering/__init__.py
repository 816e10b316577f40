"""Steering: what a direction means is what a model does when it is pushed along it (METHODS 7)."""
