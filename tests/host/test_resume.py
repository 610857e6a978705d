"""A policy and a critic go on from the same step, wherever the kill came."""

from types import SimpleNamespace

import pytest

from openrlhf_agentprm.host.resume import level_checkpoints


def saved(folder, part, last, *steps):
    for step in steps:
        (folder / part / f"global_step{step}").mkdir(parents=True)
    (folder / part / "latest").write_text(f"global_step{last}")


@pytest.mark.parametrize(
    ("actor", "critic", "both"),
    [((10, 9, 10), (9, 8, 9), (9, 9)), ((9, 8, 9), (10, 9, 10), (9, 9)), ((7, 6, 7), (7, 6, 7), (7, 7)), ((9, 9), (8, 8), (9, 8))],
    ids=["the policy's came first", "the critic's came first", "both are there", "none that both have"],
)
def test_both_begin_at_the_newest_step_that_both_have(actor, critic, both, tmp_path):
    saved(tmp_path, "_actor", *actor)
    saved(tmp_path, "_critic", *critic)
    args = SimpleNamespace(ckpt=SimpleNamespace(load_enable=True, path=str(tmp_path)), critic=SimpleNamespace(model_name_or_path="critic"))
    level_checkpoints(args)
    assert tuple((tmp_path / part / "latest").read_text() for part in ("_actor", "_critic")) == tuple(f"global_step{n}" for n in both)
    args.ckpt.load_enable = False
    (tmp_path / "_actor/latest").write_text("global_step99")
    level_checkpoints(args)
    assert (tmp_path / "_actor/latest").read_text() == "global_step99", "nothing is touched where nothing is resumed"
