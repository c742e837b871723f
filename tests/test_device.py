"""Memory that a process on a CPU keeps for its next allocation."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

FREED_AND_TAKEN_AGAIN = """
import resource, sys
import torch
from graphnn_unet.device import keep_freed_memory

if sys.argv[1] != "no":
    keep_freed_memory(torch.device(sys.argv[1]))

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for _ in range(10):  # holes of the heap settle
    torch.ones(25_000_000)
before = faults()
for _ in range(10):
    torch.ones(25_000_000)
print(faults() - before)
"""
PAGES = 10 * 100_000_000 // os.sysconf("SC_PAGE_SIZE")


def page_faults(how: str, **environment: str) -> int:
    """Pages that the system had to give for ten blocks of 100 MB, one after the other."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    result = subprocess.run(
        [sys.executable, "-c", FREED_AND_TAKEN_AGAIN, how],
        env=kept | environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(result.stdout)


@pytest.fixture(scope="module", autouse=True)
def _pages_are_counted():
    """Only where glibc asks for pages one by one: not with huge pages, nor another C library."""
    if platform.libc_ver()[0] != "glibc" or page_faults("no") < 0.9 * PAGES:
        pytest.skip("pages cannot be counted here")


def test_freed_memory_is_used_again_on_a_cpu_alone():
    assert page_faults("cpu") < 0.02 * PAGES
    assert page_faults("mps") > 0.9 * PAGES


def test_the_variables_of_glibc_come_first():
    assert page_faults("cpu", MALLOC_MMAP_MAX_="1000") > 0.9 * PAGES
