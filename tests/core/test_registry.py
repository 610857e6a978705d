"""Registries: names to lazily imported objects, third parties by entry point, clashes and broken plug-ins named."""

import pytest

from openrlhf_agentprm.core import registry
from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.core.registry import ADVANTAGES, ENVS, LABELS, Registry


def test_ours_load():
    for each in (LABELS, ADVANTAGES, registry.REWARD_MODELS):
        for entry in each.entries():
            if entry.distribution == "openrlhf-agentprm":
                assert callable(each.load(entry.name))


def test_a_third_partys_entry_points_are_listed_and_load():
    assert {"thirdparty_count", "thirdparty_faulty"} <= set(ENVS.names())
    assert {e.distribution for e in ENVS.entries() if e.name == "thirdparty_count"} == {"thirdparty-agents"}
    assert ENVS.load("thirdparty_count").__name__ == "Count"
    assert callable(ADVANTAGES.load("thirdparty_constant"))


def test_unknown_names_and_broken_plugins():
    with pytest.raises(UserError, match=r"unknown environment 'babyia'; did you mean 'babyai'\?"):
        ENVS.load("babyia")
    with pytest.raises(UserError, match="'thirdparty_missing' of the distribution thirdparty-agents could not be loaded.*nowhere"):
        ENVS.load("thirdparty_missing")


def test_a_clash_names_both_distributions():
    clashing = Registry("environment", "openrlhf_agentprm.envs", {"thirdparty_count": "somewhere:Else"})
    with pytest.raises(UserError, match="more than once: openrlhf-agentprm .*thirdparty-agents"):
        clashing.load("thirdparty_count")
