"""The memory that a process may use is the least of what machine, container and limits allow."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyrovae import InputError
from pyrovae.data.memory import available_memory, check_fits_memory, check_num_parameters

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, MACHINE),
        ({"proc/self/cgroup": "0::/a/b\n"}, MACHINE),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "max\n"}, MACHINE),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "1000\n"}, 1000),
        # The limit of the group around it.
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/memory.max": "max\n",
                "sys/fs/cgroup/a/memory.max": "2000\n",
            },
            2000,
        ),
        # In a container, the path is that of the host and the files lie in the base.
        ({"proc/self/cgroup": "0::/x/y\n", "sys/fs/cgroup/memory.max": "3000\n"}, 3000),
        (
            {
                "proc/self/cgroup": "3:cpu:/a\n2:memory,hugetlb:/a\n0::/\n",
                "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "4000\n",
            },
            4000,
        ),
        (
            {
                "proc/self/cgroup": "2:memory:/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            MACHINE,
        ),
        # Files outside of the base are not read.
        (
            {
                "proc/self/cgroup": "0::/../../..\n",
                "memory.max": "1\n",
                "sys/fs/cgroup/memory.max": "5000\n",
            },
            5000,
        ),
    ],
)
def test_limits_of_containers_count(tmp_path: Path, files: dict[str, str], limit: int) -> None:
    assert available_memory(write(tmp_path, files)) == limit


def test_limits_of_the_process_count() -> None:
    script = (
        "import resource; from pyrovae.data.memory import available_memory;"
        "resource.setrlimit(resource.RLIMIT_AS, (10**9, 10**9)); print(available_memory())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == min(10**9, MACHINE)


def test_what_is_larger_is_refused() -> None:
    check_fits_memory(2**20, "it", "have less")
    with pytest.raises(InputError, match=r"more than the .* GiB of memory of this machine"):
        check_fits_memory(2**60, "it", "have less")
    with pytest.raises(
        InputError, match=r"a network of 1,152,921,504,606,846,976 parameters takes"
    ):
        check_num_parameters(2**60, "a network")
