"""Settings of the whole test suite."""

from __future__ import annotations

from hypothesis import settings

# A busy machine is not a failed law: no deadline for one example.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")
