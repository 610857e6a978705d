"""The trajectory viewer reads each PRM as what it is: by its kind, on the steps that it was trained on, in its own scale."""

import json
from dataclasses import replace

import pytest
from report.run_folder import TOKENIZER

from openrlhf_agentprm.agents.chat import load_tokenizer
from openrlhf_agentprm.prm.model import save_prm, start_from
from openrlhf_agentprm.prm.record import Record
from openrlhf_agentprm.prm.scoring import load_reward_model, score_all
from openrlhf_agentprm.report.artifacts import gather
from openrlhf_agentprm.report.board import make_boards
from openrlhf_agentprm.report.load import load_run
from openrlhf_agentprm.report.trajectories import make_viewer

ZERO = TOKENIZER.convert_tokens_to_ids("0")  # ends a step of "open 0 1", which then has two


def record(folder, **changes):
    replace(Record.load(folder), **changes).save(folder)


def viewer(run):
    found = gather(load_run(run))
    return make_viewer(found, make_boards(found))


def test_turns_are_the_steps_that_all_prms_were_trained_on(run):
    for name in ("agentprm", "orm"):
        record(run / name, step_delimiter=[[ZERO]])
    shown = viewer(run)
    one = next(s for _, members in shown.groups for s in members if any(t.action == "1" for t in s.episode.turns))
    at = next(k for k, t in enumerate(one.episode.turns) if t.action == "1")
    before, step = one.episode.turns[at - 1 : at + 1]
    assert before.action == "open 0" and before.observation and step.observation == "" and step.action_start == before.action_end
    spans = [(t.action_start, t.action_end) for t in one.episode.turns]
    ((q_K, _),) = score_all(load_reward_model("auto", str(run / "agentprm")), [one.episode.token_ids], [spans])
    assert [s.promise for s in one.scores["Agent"]] == pytest.approx(q_K.tolist())
    assert any(note.startswith("Turns are steps that end with") for note in shown.notes)


def test_prms_of_unlike_turns_are_shown_on_whole_responses(run):
    record(run / "orm", step_delimiter=[[ZERO]])
    shown = viewer(run)
    assert all(t.action.startswith("open ") for t in shown.groups[0][1][0].episode.turns)
    assert any("turns of different kinds" in note for note in shown.notes)


def test_another_kind_is_read_as_that_kind_and_an_order_has_no_advantage(run):
    model = start_from(str(run / "sft"), dtype="fp32", labels=2)
    about = json.loads((run / "agentprm/agentprm.json").read_text())
    save_prm(model, load_tokenizer(str(run / "sft")), run / "agentprm", Record(**about | {"kind": "two_head"}))
    record(run / "orm", scale="order", method="relabel", value_trained=True)
    shown = viewer(run)
    assert not any("could not score" in note for note in shown.notes)
    one = shown.groups[0][1][0]
    order = next(scores for name, scores in one.scores.items() if name != "Agent")
    assert all(s.progress is not None for s in one.scores["Agent"]) and all(s.advantage is None is s.value for s in order)
    assert any("only which of two scores is higher means something; so no value" in note for note in shown.notes)
