"""Endings of motions, made by hand in the plant: which of them the judge calls achieved."""
