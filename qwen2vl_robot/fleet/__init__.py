"""Seeded units of work → their results: in processes of this machine, or on a Ray cluster."""
