"""The public checker passes good environments and names what is broken in bad ones."""

import mmap

import pytest
from envs.broken_envs import BROKEN, Counter, Leaks

from openrlhf_agentprm.envs.checker import CHECKS, check_env, name_of, run_check
from openrlhf_agentprm.envs.subject import Subject


def test_a_correct_environment_passes_and_is_measured():
    results = {r.name: r for r in check_env(Counter)}
    assert [r for r in results.values() if r.problem] == []
    assert results["memory stays flat"].told.endswith("MiB more after 450 further episodes")
    assert results["reset and step take"].told.startswith("reset 0.0")


@pytest.mark.parametrize("broken, check, message", BROKEN, ids=lambda x: getattr(x, "__name__", None))
def test_each_fault_is_found_and_named(broken, check, message):
    [found] = [each for each in CHECKS if name_of(each) == check]
    assert message in run_check(found, Subject(broken, time_limit=0.3)).problem
    Leaks.kept.clear()


def test_a_leak_is_found_though_the_kernel_drops_files_meanwhile(tmp_path):
    with (tmp_path / "file").open("w+b") as file:
        file.truncate(1 << 29)
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        assert not any(mapped[:: mmap.PAGESIZE])  # every page is in memory now

        class Meanwhile(Leaks):
            def reset(self, **kw):
                if len(self.kept) == 100:
                    mapped.madvise(mmap.MADV_DONTNEED)
                return super().reset(**kw)

        [found] = [each for each in CHECKS if name_of(each) == "memory stays flat"]
        assert "more after 450 further episodes" in run_check(found, Subject(Meanwhile)).problem
    Leaks.kept.clear()


def test_a_leak_is_found_though_it_fills_what_was_freed_before():
    bytearray(30 << 20)  # from now on glibc keeps what is freed of blocks up to this size
    kept = [bytearray(b"x" * (1 << 19)) for _ in range(600)][::20]  # and what lies between these
    [found] = [each for each in CHECKS if name_of(each) == "memory stays flat"]
    assert "more after 450 further episodes" in run_check(found, Subject(Leaks)).problem
    Leaks.kept.clear()
    del kept
