"""A policy and a critic go on from the same step, wherever the kill came."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.host.resume import level_checkpoints, newest_checkpoint


@pytest.fixture
def args(tmp_path):
    ckpt = SimpleNamespace(load_enable=True, path=str(tmp_path))
    return SimpleNamespace(ckpt=ckpt, critic=SimpleNamespace(model_name_or_path="critic"))


def tag_of(name):
    return name if isinstance(name, str) else f"global_step{name}"


def saved(folder, part, last, *whole, half=()):
    """Tags as the host leaves them: a metric in each that was finished, and the name of the last one in `latest` (None: no such file)."""
    for name in (*whole, *half):
        (folder / part / tag_of(name)).mkdir(parents=True)
    for name in whole:
        (folder / part / tag_of(name) / "metric.json").write_text("{}")
    if last is not None:
        (folder / part / "latest").write_text(tag_of(last))


def begins(args):
    """What `latest` of policy and critic names."""
    files = [Path(args.ckpt.path, part, "latest") for part in ("_actor", "_critic")]
    return [file.read_text() for file in files if file.is_file()]


BEST = "best_global_step8"


@pytest.mark.parametrize(
    ("actor", "critic", "both"),
    [
        ((10, 9, 10), (9, 8, 9), 9),
        ((9, 8, 9), (10, 9, 10), 9),
        ((7, 6, 7), (7, 6, 7), 7),
        ((10, 8, 10), (9, 8, 9), 8),
        ((BEST, 8, BEST), (8, 7, 8), 8),
        ((BEST, 8, BEST), (BEST, 8, BEST), BEST),
        ((10, 9), (9, 9), 9),
        (("", 8, 9), (9, 8, 9), 9),
    ],
    ids=[
        "the policy's came first",
        "the critic's came first",
        "both are there",
        "the newest of one was given up for its metric",
        "a best one of the policy alone",
        "a best one of both",
        "the folder that latest names was given up",
        "latest was cut off",
    ],
)
def test_both_begin_at_the_newest_step_that_both_have_finished(actor, critic, both, args, tmp_path):
    saved(tmp_path, "_actor", *actor)
    saved(tmp_path, "_critic", *critic)
    level_checkpoints(args)
    assert begins(args) == [tag_of(both)] * 2
    args.ckpt.load_enable = False
    (tmp_path / "_actor/latest").write_text("global_step99")
    level_checkpoints(args)
    assert (tmp_path / "_actor/latest").read_text() == "global_step99", "nothing is touched where nothing is resumed"


def test_half_a_checkpoint_is_never_gone_on_from(args, tmp_path):
    """One that is newer than `latest`, though an earlier run had finished it, and one that was still being written."""
    saved(tmp_path, "_actor", 9, 9, 10)
    saved(tmp_path, "_critic", 10, 9, 10)
    level_checkpoints(args)
    assert begins(args) == ["global_step9"] * 2
    (tmp_path / "_actor/latest").write_text("best_global_step8")
    saved(tmp_path, "_actor", None, "best_global_step8")
    saved(tmp_path, "_critic", 10, 8, half=["best_global_step8"])
    with pytest.raises(UserError, match="_actor has best_global_step8; .*_critic has global_step8, global_step9, global_step10"):
        level_checkpoints(args)


@pytest.mark.parametrize(("last", "whole", "begin"), [(10, (8, 9), 9), (10, (9, 10), 10), ("", (8, 9), 9)])
def test_a_policy_alone_goes_on_from_its_newest(last, whole, begin, args, tmp_path):
    args.critic.model_name_or_path = None
    saved(tmp_path, "_actor", last, *whole, half=[11])
    saved(tmp_path, "_critic", 5, 5)
    level_checkpoints(args)
    assert begins(args) == [tag_of(begin), "global_step5"]
    folders = [folder for folder in (tmp_path / "_actor").iterdir() if folder.is_dir()]
    youngest = max(folders, key=lambda folder: folder.stat().st_mtime_ns)
    assert youngest.name == tag_of(begin), "of several the host gives up the oldest"


def test_a_critic_that_was_never_saved_begins_anew_beside_its_policy(args, tmp_path):
    saved(tmp_path, "_actor", 4, 4)
    level_checkpoints(args)
    assert begins(args) == ["global_step4"]


@pytest.mark.parametrize("last", [None, "", 9], ids=["no latest", "an empty one", "one whose folder was given up"])
def test_a_policy_without_a_finished_checkpoint_begins_anew(last, args, tmp_path, caplog):
    for name in ("_actor.unfinished", "_actor.unfinished1"):
        saved(tmp_path, "_actor", last, half=[10])
        saved(tmp_path, "_critic", 10, 10)
        level_checkpoints(args)
        assert (tmp_path / name / "global_step10").is_dir() and not begins(args)
        assert not (tmp_path / "_actor").exists() and not (tmp_path / "_critic").exists()
    assert f"the run begins anew, and _actor is now {tmp_path}/_actor.unfinished1" in caplog.text


@pytest.mark.parametrize("critic", [(8, 8), (None,)], ids=["another step", "none yet"])
def test_policy_and_critic_without_a_common_step_are_refused(critic, args, tmp_path):
    saved(tmp_path, "_actor", 9, 9)
    saved(tmp_path, "_critic", *critic, half=[9])
    with pytest.raises(
        UserError, match="no finished checkpoint of the same step .*_actor has global_step9; .*_critic has .* move the critic's"
    ):
        level_checkpoints(args)
    assert begins(args)[0] == "global_step9", "nothing was touched"


def test_nothing_is_seen_where_nothing_is(args):
    level_checkpoints(args)
    assert newest_checkpoint(args) is None
