"""What is freed is used again, instead of being mapped and cleared anew."""

import platform
import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource, sys
import numpy as np
from wmplatform.training.host_memory import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
np.ones(2**21)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(2**21)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    """Page faults of ten arrays of 16 MiB, one after the other."""
    run = [sys.executable, "-c", COUNT_FAULTS, how]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a switch of glibc")
def test_kept_memory_is_not_mapped_again() -> None:
    assert page_faults("keep") < page_faults("as it comes") / 10
