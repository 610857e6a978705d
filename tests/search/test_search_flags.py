"""`cli.search`'s flags: what is refused, all at once, before anything heavy starts; what the page says of them."""

import re
from pathlib import Path

import pytest

from openrlhf_agentprm.cli.search import build_parser, main, read_results
from openrlhf_agentprm.cli.search_flags import as_now, entry_of, options_of
from openrlhf_agentprm.core.arguments import parse_nested
from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.search.budget import Budget
from openrlhf_agentprm.search.methods import parse_method

LINE = ["--env.name", "thirdparty_count", "--policy.model_name_or_path", "nowhere", "--search.output", "search.json"]


def problems(*flags):
    with pytest.raises(UserError) as told:
        main([*LINE, *map(str, flags)])
    return "\n".join(told.value.problems)


def test_everything_that_is_wrong_is_told_at_once():
    told = problems(
        "--search.methods", "mtcs:4", "2y2", "32x16", "bon:300", "--search.pav_alpha", 0.5, "--search.temperature", 0,
        "--search.random_disable",
    )  # fmt: skip
    for text in (
        "unknown search method 'mtcs:4'; did you mean 'mcts'?",
        "search method '2y2' is not N×M",
        "'32x16' samples 512 actions of one task at once, but the engine runs 256; raise --vllm.max_num_seqs",
        "'bon:300' samples 300 actions",
        "--search.pav_alpha needs one prover",
        "--search.pav_alpha needs a PRM",
        "all sampled actions would be alike",
        "nothing ranks the actions",
    ):
        assert text in told
    assert "samples 512" not in problems("--search.methods", "32x16", "2x", "--vllm.max_num_seqs", 512)


def test_flags_without_a_part_and_flags_that_contradict_are_refused():
    told = problems("--search.methods", "bon:4", "mcts:4", "--search.policy_margin", 0.1, "--search.lookahead_temperature", 1.0)
    assert "--search.policy_margin has no part in bon:4, mcts:4" in told and "--search.lookahead_temperature has no part" in told
    told = problems("--search.methods", "1x4", "--search.rollout_weight", 0.5, "--search.mcts_exploration", 2, "--search.prover", "nowhere")
    assert "--search.rollout_weight has no part in 1x4" in told and "--search.mcts_exploration has no part in 1x4" in told
    assert "no part without --search.pav_alpha" in told
    both = ["--search.pav_alpha", 0.5, "--search.prover", "x", "--search.pav_best_of_k", 4]
    assert "needs one prover" in problems(*both)
    assert "wanted a number from 0 to 1" in problems("--search.rollout_weight", 1.5)
    assert "did you mean 'puct'" in problems("--search.mcts_rule", "puckt")


def test_scores_that_are_no_probabilities_are_not_read_as_such(tmp_path):
    from openrlhf_agentprm.cli.search_flags import check_scale
    from openrlhf_agentprm.prm.record import Record

    def check(*flags, scale="order"):
        Record(method="pqm", scale=scale).save(tmp_path)
        check_scale(parse_nested(build_parser(), [*LINE, "--prm.name", "scalar", *map(str, flags)]), str(tmp_path))

    mixed = ["--search.methods", "mcts:4", "--search.rollout_weight", 0.5]
    with pytest.raises(UserError, match="rollout_weight reads scores as probabilities of success, and of .* only which of two"):
        check(*mixed)
    with pytest.raises(UserError, match="--search.pav_best_of_k reads scores"):
        check("--search.pav_alpha", 0.5, "--search.pav_best_of_k", 4, scale="share")
    check(*mixed, scale="probability")
    check("--search.methods", "mcts:4")


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"task": 1}]', '[{"prm": "P"'])
def test_a_file_that_is_no_search_is_not_written_over(tmp_path, text):
    file = tmp_path / "search.json"
    file.write_text(text)
    with pytest.raises(UserError, match="search.json is there already and is no .*; give another file"):
        read_results(file)
    file.write_text('[{"prm": "P", "beams": 1}]')
    assert read_results(file) == [{"prm": "P", "beams": 1}] and read_results(tmp_path / "none.json") == []


def test_a_reward_model_that_cannot_score_is_refused(monkeypatch):
    from openrlhf_agentprm.core.registry import REWARD_MODELS

    monkeypatch.setitem(REWARD_MODELS._builtin, "mute", "openrlhf_agentprm.prm.model:Record")  # it loads, and has no score()
    told = problems("--prm.name", "mute", "--prm.model_name_or_path", "nowhere", "--search.methods", "2y2")
    assert "reward model 'mute' has no score(), so it cannot score actions" in told and "2y2" in told


def test_an_entry_says_what_has_a_part_in_it():
    args = parse_nested(
        build_parser(), [*LINE, "--search.policy_margin", "0.1", "--search.mcts_actions", "6", "--search.budget_tokens", "90"]
    )
    assert options_of(args, parse_method("1x4"), 2).policy_margin == 0.1 and options_of(args, parse_method("bon:4"), 2).policy_margin == 0.0
    assert options_of(args, parse_method("mcts:4"), 2).budget == Budget(tokens=90)
    beam = entry_of(args, parse_method("2x4"), control=False)
    assert (beam["method"], beam["beams"], beam["actions"], beam["policy_margin"]) == ("2x4", 2, 4, 0.1) and "mcts_rule" not in beam
    tree = entry_of(args, parse_method("mcts:8"), control=False)
    assert (tree["method"], tree["beams"], tree["actions"], tree["mcts_actions"]) == ("mcts:8", None, 6, 6) and "policy_margin" not in tree
    best = entry_of(args, parse_method("bon:8"), control=True)
    assert (best["beams"], best["actions"]) == (None, None)


def test_an_entry_of_an_earlier_version_is_not_searched_again():
    args = parse_nested(build_parser(), LINE)
    old = {"prm": "Agent", "beams": 2, "actions": 2}
    assert entry_of(args, parse_method("2x2"), control=False).items() <= as_now(old).items()
    args.search.policy_margin = 0.1
    assert not entry_of(args, parse_method("2x2"), control=False).items() <= as_now(old).items()


def test_the_page_has_every_flag_with_its_default():
    page = (Path(__file__).parents[2] / "docs/search.md").read_text()
    written = dict(re.findall(r"^\| `(--search\.\w+)` \| ([^|]+) \| [^|]*\|$", page, re.M))
    ours = {a.option_strings[0]: a.default for a in build_parser()._actions if a.option_strings[0].startswith("--search.")}
    for flag in ("--search.output", "--search.random_disable"):
        assert flag not in written
        del ours[flag]
    assert written == {
        flag: " ".join(default) if isinstance(default, list) else "none" if default is None else str(default)
        for flag, default in ours.items()
    }
