"""What all tests share, those of the examples included: Hypothesis profiles, and cheap garbage collections.

Both profiles draw new examples in every run. Derandomized examples are the same ones each time, so that a defect
beside them is never found. A failure is reproduced from Hypothesis's local database, or, with the profile `ci`
(``CI=1`` or ``--hypothesis-profile=ci``), where there is none, by the blob that is printed. No profile has a clock:
how long an example takes says more about the machine than about the code.
"""

from __future__ import annotations

import gc
import os

from hypothesis import HealthCheck, settings

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), database=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_collection_finish() -> None:
    """Keep what was made until now out of garbage collections, which tests about lifetimes make by the hundred."""
    gc.collect()
    gc.freeze()
