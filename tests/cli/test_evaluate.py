"""cli.evaluate on a real store, a real PRM and a real sidecar; and what it refuses, all at once."""

import json

import pytest
import torch
from report.run_folder import TOKENIZER, WINS, episode, sampled, write_prm, write_store

from openrlhf_agentprm.agents.tiny import make_model, save_policy
from openrlhf_agentprm.annotate.visits import mc_visits
from openrlhf_agentprm.cli import evaluate
from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.data.store import EpisodeStore
from openrlhf_agentprm.prm.model import load_prm


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A policy, a PRM from it, samples, a store of other tasks, and the labels of both."""
    folder = tmp_path_factory.mktemp("evaluate")
    save_policy(make_model(TOKENIZER, hidden_size=64, heads=2, layers=1, context=64), TOKENIZER, folder / "policy")
    (folder / "prm").mkdir()
    write_prm(folder / "prm", folder / "policy", method="td_gae")
    write_store(folder / "samples", sampled(WINS, "sft"))
    write_store(folder / "greedy", [episode(task, 0, True, temperature=0.0) for task in list(WINS)[:4]])
    write_store(folder / "others", sampled({"other-1": 2, "other-2": 2}, "sft"))
    write_store(folder / "single", [episode("task-0", 0, True), episode("task-1", 0, False)])
    for name in ("samples", "others"):
        mc_visits.annotate(EpisodeStore(folder / name)).save(folder / f"{name}-labels", {"method": "mc_visits", "dataset": name})
    return folder


def run(folder, *more, dataset="samples"):
    given = ["--eval.dataset", folder / dataset, "--eval.output", folder / "evaluation.json", "--prm.device", "cpu", *more]
    return evaluate.main([str(word) for word in given])


def test_the_command_judges_beside_every_baseline(made, capsys):
    run(made, "--prm.model_name_or_path", f"PRM={made / 'prm'}", "--eval.greedy_dataset", made / "greedy", "--eval.mc_labels",
        made / "samples-labels", "--eval.aggregate", "min", "last")  # fmt: skip
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 100 and "…" not in shown
    for text in (
        "PRM knows",
        "length regression",
        "PRM, votes by last action",
        "cross-fitted: each half",
        "Verdicts, with 99 % intervals",
        "sibling",
        "turn number",
        "on 4 tasks",
    ):
        assert " ".join(text.split()) in " ".join(shown.split())
    result = json.loads((made / "evaluation.json").read_text())
    assert (
        list(result["aggregates"]["PRM"]["by"]) == ["min", "last"]
        and result["aggregate"] == result["verdicts"]["PRM"]["aggregate"] == "min"
    )
    assert result["best_of_n"]["PRM"] == result["aggregates"]["PRM"]["by"]["min"]["best_of_n"]
    assert set(result["best_of_n"]["PRM"]) == {"1", "2", "4"} and len(result["by_task"]["PRM"]["4"]) == len(result["task_ids"]) == 6
    assert result["monte_carlo"]["method"] == "mc_visits" and set(result["monte_carlo"]["of"]) == {
        "turn number",
        "log-probability of the turn",
        "PRM",
    }
    assert result["greedy"]["mean"] == 1.0 and result["verdicts"]["PRM"]["over_greedy"]["mean"] <= 0
    assert result["best_of_n"]["fewest turns"]["4"]["mean"] == pytest.approx(5 / 6)  # successes are shorter here; task-1 has none


def test_it_says_what_it_was_not_given(made, capsys):
    run(made)
    shown = capsys.readouterr().out
    assert "greedy decoding not given (--eval.greedy_dataset)" in " ".join(shown.split()) and "Monte-Carlo" not in shown


def test_all_that_is_wrong_is_told_at_once(made):
    with pytest.raises(UserError) as raised:
        run(made, "--eval.mc_labels", made / "others-labels", "--eval.greedy_dataset", made / "others", "--eval.aggregate", "min", "min",
            "--prm.model_name_or_path", f"majority={made / 'prm'}")  # fmt: skip
    told = "\n".join(raised.value.problems)
    assert len(raised.value.problems) == 4
    for text in ("lacks 24 of the 24 episodes", "was made of 'others'", "holds none of the tasks", "names min twice", "as the baseline is"):
        assert text in told
    with pytest.raises(UserError, match="gives one sample a task, among which there is nothing to choose"):
        run(made, dataset="single")
    with pytest.raises(UserError, match=r"(?s)--eval.aggregate is 'median'.*--eval.max_samples_per_task is '0'"):
        run(made, "--eval.aggregate=median", "--eval.max_samples_per_task", 0)


def test_a_greedy_store_has_one_episode_a_task_at_temperature_0(made):
    write_store(made / "twice", [episode("task-0", n, True, temperature=0.0) for n in range(2)])
    with pytest.raises(UserError, match="twice holds 2 episodes of 1 tasks; greedy decoding has one a task"):
        run(made, "--eval.greedy_dataset", made / "twice")
    with pytest.raises(UserError, match="samples was played at the temperature .*; greedy decoding is --collect.temperature 0"):
        run(made, "--eval.greedy_dataset", made / "samples")


def test_scores_that_are_no_numbers_are_named(made):
    from openrlhf_agentprm.prm.model import save_prm
    from openrlhf_agentprm.prm.record import Record

    prm = load_prm(str(made / "prm"), dtype="fp32", attn_implementation="sdpa")
    with torch.no_grad():
        prm.score.weight.fill_(torch.nan)
    save_prm(prm, TOKENIZER, made / "broken", Record())
    with pytest.raises(
        UserError, match=r"the PRM 'broken' gives scores that are no numbers: episode \w+ \(task task-0\), turn 1: nan.*more"
    ):
        run(made, "--prm.model_name_or_path", made / "broken")


def test_choices_and_reserved_names_are_those_of_the_code(made):
    """They are written out in the command, whose help imports no torch."""
    from openrlhf_agentprm.core.metrics import AGGREGATES
    from openrlhf_agentprm.prm.evaluation import MAJORITY_KEYS, free_scores, sample_grid
    from openrlhf_agentprm.prm.evaluation.ground_truth import turn_baselines

    assert evaluate.AGGREGATES == AGGREGATES and evaluate.MAJORITY_KEYS == MAJORITY_KEYS
    grid = sample_grid(sampled(WINS, "sft"))
    assert set(evaluate._TAKEN) == {"random", "oracle", "majority", *free_scores(grid), *turn_baselines(grid)}
