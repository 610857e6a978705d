"""Watching a run, without one: batches, evaluations, the alarm and what it does, a resume; and flags that make no sense."""

import json
import logging
from types import SimpleNamespace

import pytest
import torch

from openrlhf_agentprm.core.batches import TurnBatch
from openrlhf_agentprm.core.estimators.gae import turn_gae
from openrlhf_agentprm.host import monitors
from openrlhf_agentprm.host.advantage_flags import estimator_options, mute
from openrlhf_agentprm.host.held_out import prompts_of
from openrlhf_agentprm.host.samples import Ending
from openrlhf_agentprm.host.turn_metrics import entropy_metric, part_metrics
from openrlhf_agentprm.host.watcher import FILE, Watcher, paid


def arguments(folder, *flags, early_stop="none", process_reward="promise", estimator="turn_gae", reference=None):
    from openrlhf.utils.config import hierarchize

    from openrlhf_agentprm.host.parsers import host_parser

    line = [
        "--actor.model_name_or_path",
        "x",
        "--algo.advantage.estimator",
        estimator,
        "--ckpt.output_dir",
        str(folder),
        "--prm.monitor_every",
        "2",
    ]
    line += ["--prm.alarm_window", "10", "--prm.alarm_rise", "0.5", "--prm.alarm_z", "2.5", "--prm.early_stop", early_stop, *flags]
    line += ["--algo.advantage.process_reward", process_reward] if process_reward else []
    args = hierarchize(host_parser("train_ppo_ray").parse_args(line))
    args.agentprm = SimpleNamespace(score_reference=reference or {})
    return args


def played(promise, success, episodes=64):
    """Episodes of two turns of one token each, whose promise scatters around a mean."""
    q_BK = promise + torch.linspace(-0.2, 0.2, episodes)[:, None].expand(-1, 2)
    outcome_B = (torch.arange(episodes) % 10 < 10 * success).float()
    ids_BT = torch.tensor([[0, -1, 1]]).expand(episodes, -1)
    batch = TurnBatch(
        rewards_BK=torch.zeros(episodes, 2), mask_BK=torch.ones(episodes, 2, dtype=torch.bool), turn_ids_BT=ids_BT,
        action_mask_BT=ids_BT >= 0, q_BK=q_BK, v_BK=torch.zeros(episodes, 2), outcome_B=outcome_B, values_BT=torch.zeros(episodes, 3),
    )  # fmt: skip
    return batch, torch.full((episodes, 3), 7)


def see(watcher, step, promise, success=0.6):
    batch, tokens = played(promise, success)
    watcher.see_batch(batch, tokens, torch.full((len(tokens),), int(Ending.FAILURE)))
    return watcher.see_step(step, {"kl": 0.1, "turns/entropy": 2.5, "turns/outcome_mean": float(batch.outcome_B.mean())}), batch


def test_it_rings_once_writes_it_down_and_goes_on(tmp_path):
    watcher = Watcher(arguments(tmp_path))
    logs = [see(watcher, step, 0.3 + 0.1 * step)[0] for step in range(1, 7)]
    assert [log["monitor/alarm"] for log in logs] == [0, 0, 0, 1, 1, 1], "it needs four points"
    assert logs[0]["monitor/prm_reward"] == pytest.approx(0.8) and logs[0]["monitor/gap"] == 0 and "monitor/reward_rise" not in logs[0]
    assert logs[0]["monitor/repeated_actions"] == 0.5 and logs[0]["monitor/action_tokens"] == 1
    assert logs[0]["monitor/promise_drift"] < 0.05 < 0.3 < logs[5]["monitor/promise_drift"] <= 1
    rows = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]
    assert [row["kind"] for row in rows] == ["training"] * 4 + ["alarm"] + ["training"] * 2
    assert rows[4]["step"] == 4 and rows[4]["series"] == "training" and rows[4]["success_rise"] == pytest.approx(0)
    assert rows[0]["kl"] == 0.1 and rows[0]["entropy"] == 2.5 and rows[0]["success"] == pytest.approx(0.6, abs=0.05)
    assert not watcher.ended and not watcher.muted


def test_entropy_is_the_mean_of_what_was_sampled_over_action_tokens_alone():
    parts = [
        SimpleNamespace(action_log_probs=torch.tensor([[-1.0, -9.0, -2.0]]), action_mask=torch.tensor([[1, 0, 1]])),
        SimpleNamespace(action_log_probs=torch.tensor([[-6.0, float("nan")]]), action_mask=torch.tensor([[1, 0]])),
    ]
    assert entropy_metric(parts) == {"turns/entropy": 3.0}
    assert entropy_metric([SimpleNamespace(action_log_probs=torch.zeros(1, 2), action_mask=torch.zeros(1, 2))]) == {}


def test_parts_of_a_mixture_are_counted_by_themselves_without_their_broken_episodes():
    mask_BK = torch.tensor([[True, True], [True, False], [True, True], [True, False]])
    valid_BK = torch.tensor([[True, False], [True, True], [True, True], [False, False]])
    batch = SimpleNamespace(outcome_B=torch.tensor([1.0, 0.5, 0.0, 9.0]), mask_BK=mask_BK, valid_BK=valid_BK)
    ending_B = torch.tensor([Ending.SUCCESS, Ending.SUCCESS, Ending.TRUNCATED, Ending.TIMEOUT])
    found = part_metrics(batch, ending_B, ["a", "b", "a", "c"])
    assert found == {
        "env/a/episodes": 2, "env/a/outcome_mean": 0.5, "env/a/turns": 2, "env/a/valid_actions": 0.75,
        "env/b/episodes": 1, "env/b/outcome_mean": 0.5, "env/b/turns": 1, "env/b/valid_actions": 1, "env/c/episodes": 0,
    }  # fmt: skip


def test_held_out_evaluations_ring_by_themselves(tmp_path):
    watcher = Watcher(arguments(tmp_path, early_stop="stop"))
    for number in range(4):
        logs = {"eval_x_pass1": 0.5} | {
            f"monitor/{k}": v
            for k, v in dict(
                episodes=300.0, success=0.5, prm_reward=float(number), prm_reward_std=1.0, turns=4.0 + number, turns_std=2.0
            ).items()
        }
        watcher.see_evaluation(5 * number, logs)
        assert logs["monitor/alarm"] == (number == 3) and logs["monitor/gap"] == pytest.approx(number)
        assert logs["monitor/turns_drift"] == pytest.approx(number / 2), "from the first evaluation, in its standard deviations"
    assert watcher.ended and watcher.state["alarm"]["series"] == "held_out" and watcher.state["alarm"]["step"] == 15
    watcher.see_evaluation(20, unwatched := {"eval_x_pass1": 0.5})
    assert unwatched == {"eval_x_pass1": 0.5}


def test_behind_the_alarm_outcomes_alone_are_paid(tmp_path):
    args = arguments(tmp_path, early_stop="outcome")
    watcher = Watcher(args)
    for step in range(1, 5):
        _, batch = see(watcher, step, 0.3 + 0.1 * step)
        assert float(batch.q_BK.abs().sum()) > 0
    assert watcher.muted and estimator_options(args, 0.0)["process_weight"] == 0
    logs, batch = see(watcher, 5, 0.8)
    assert logs["monitor/prm_reward"] == pytest.approx(1.6), "it is watched on"
    outcome_only = turn_gae(played(0.8, 0.6)[0])
    for values in ("critic", "prm"):
        paid_on = turn_gae(batch, process_reward="promise", process_weight=estimator_options(args, 0.0)["process_weight"], values=values)
        assert torch.equal(paid_on.advantages_BT, outcome_only.advantages_BT)
    resumed = arguments(tmp_path, early_stop="outcome")
    assert Watcher(resumed, watcher.state).muted and estimator_options(resumed, 0.0)["process_weight"] == 0


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(tmp_path):
    whole, parts = Watcher(arguments(tmp_path / "a")), Watcher(arguments(tmp_path / "b"))
    for step in range(1, 9):
        if step == 3:
            parts = Watcher(arguments(tmp_path / "b"), json.loads(json.dumps(parts.state)), step=2)
        assert see(whole, step, 0.3 + 0.02 * step)[0] == see(parts, step, 0.3 + 0.02 * step)[0]
    assert (tmp_path / "a" / FILE).read_text() == (tmp_path / "b" / FILE).read_text()


def test_rows_of_steps_that_are_trained_again_and_of_another_run_are_forgotten(tmp_path):
    watcher = Watcher(arguments(tmp_path))
    for step in range(1, 7):
        see(watcher, step, 0.3 + 0.1 * step)
    rows = lambda: [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]  # noqa: E731
    assert any(row["kind"] == "alarm" and row["step"] == 4 for row in rows())
    Watcher(arguments(tmp_path), watcher.state, step=3)
    assert [row["step"] for row in rows()] == [1, 2, 3]
    Watcher(arguments(tmp_path))
    assert rows() == []


def test_an_evaluation_that_a_checkpoint_does_not_hold_is_wanted_again(tmp_path):
    watcher = Watcher(arguments(tmp_path))
    assert watcher.wants(0)
    given = dict(episodes=300.0, success=0.5, prm_reward=1.0, prm_reward_std=1.0, turns=4.0, turns_std=0.0)
    logs = {f"monitor/{k}": v for k, v in given.items()}
    for _ in range(5):
        watcher.see_evaluation(4, dict(logs))  # again and again, as after restarts
    assert not watcher.wants(4) and watcher.wants(6) and len(watcher.state["series"]["held_out"]["last"]) == 1


def held_out(success):
    given = dict(episodes=300.0, success=success, prm_reward=1.0, prm_reward_std=1.0, turns=4.0, turns_std=0.0)
    return {f"monitor/{k}": v for k, v in given.items()}


class Trainer:
    """What the monitors ask of the host's trainer, with an evaluation behind every second step."""

    def __init__(self, args, states):
        self.args, self.eval_dataloader, self.generate_kwargs = args, [1], {}
        self.experience_maker, self.saved = SimpleNamespace(turn_state={}, args=args), []
        self.best_eval_metric_value = states.get("best_eval_metric_value", -1.0)
        monitors.start(self, states)

    def evaluate(self, step, **_):
        logs = held_out(0.7)
        monitors.evaluated(self, step, logs)
        return logs

    def save_best_checkpoint(self, logs, step, states):
        self.saved.append((step, states["global_step"], states["agentprm_monitor"]["series"]["held_out"]["last"][-1]["step"]))


def test_an_evaluation_that_a_kill_cut_short_is_made_up_for_and_may_be_the_best(tmp_path):
    args = arguments(tmp_path / "out", "--ckpt.path", str(tmp_path / "state"), early_stop="best")
    watcher = Watcher(args)
    see(watcher, 2, 0.5)
    kept = {"global_step": 2, "agentprm_monitor": json.loads(json.dumps(watcher.state))}
    watcher.see_evaluation(2, held_out(0.6))  # behind the checkpoint: its row is written, the state is not
    trainer = Trainer(args, kept)
    rows = lambda: [(r["kind"], r["step"]) for r in map(json.loads, (tmp_path / "out" / FILE).read_text().splitlines())]  # noqa: E731
    assert rows() == [("training", 2)]
    monitors.evaluate_first(trainer, 2)
    assert trainer.saved == [(2, 2, 2)] and rows() == [("training", 2), ("held_out", 2)]
    monitors.evaluate_first(trainer, 2)
    assert len(trainer.saved) == 1, "once"


def test_a_best_checkpoint_that_is_gone_is_not_gone_back_to(tmp_path):
    args = arguments(tmp_path / "out", "--ckpt.path", str(tmp_path / "state"), early_stop="best")
    watcher = Watcher(args)
    watcher.state["best"] = "best_global_step2"
    for made, kept in (("_actor/best_global_step2", True), ("_actor/global_step4", False)):
        states = {"global_step": 4, "best_eval_metric_value": 0.9, "agentprm_monitor": json.loads(json.dumps(watcher.state))}
        folder = tmp_path / "state" / made
        folder.mkdir(parents=True)
        trainer = Trainer(args, states)
        assert monitors.watcher_of(trainer).state["best"] == ("best_global_step2" if kept else None)
        assert ("best_eval_metric_value" in states) == kept, "else no later one would be saved as the best"
        folder.rmdir()


def test_scores_are_compared_with_those_of_the_prms_record(tmp_path, caplog):
    told = "they are compared with those of the first batch"
    logging.getLogger("openrlhf_agentprm.host.watcher").addHandler(caplog.handler)
    see(Watcher(arguments(tmp_path)), 1, 0.5)
    assert told in caplog.text
    caplog.clear()
    recorded = Watcher(arguments(tmp_path, reference={"promise": [0.9, 1.0], "progress": [0.3, 0.5, 0.7]}))
    logs, _ = see(recorded, 1, 0.5)
    assert logs["monitor/promise_drift"] == 1 and logs["monitor/progress_drift"] == pytest.approx(1 / 3, abs=0.02)
    assert told not in caplog.text


def test_broken_episodes_take_no_part(tmp_path):
    batch, tokens = played(0.5, 0.6)
    batch.q_BK = batch.q_BK.clone()
    batch.q_BK[:32] = 99.0
    watcher = Watcher(arguments(tmp_path))
    batch.disagreement_BK = torch.ones(64, 2)
    watcher.see_batch(batch, tokens, torch.tensor([int(Ending.ENV_ERROR)] * 32 + [int(Ending.FAILURE)] * 32))
    found = watcher.see_step(1, {})
    assert found["monitor/prm_reward"] < 2 and found["monitor/disagreement"] == 1
    watcher.see_batch(batch, tokens, torch.full((64,), int(Ending.TIMEOUT)))
    assert watcher.see_step(2, {}) == {}


@pytest.mark.parametrize(
    ("estimator", "process_reward", "sums"),
    [
        ("turn_gae", "promise", [1.1, 0.4]),
        ("turn_gae", "progress", [0.5, 0.1]),
        ("progress", "none", [0.5, 0.1]),
        ("turn_gae", "delta", [0.55, 0.4]),
        ("clip", None, [-0.2, -0.1]),
        ("turn_gae", None, [0.8, 0.4]),
        ("gae", None, [0.8, 0.4]),
    ],
)
def test_the_prms_reward_is_counted_as_it_is_paid(tmp_path, estimator, process_reward, sums):
    mask = torch.tensor([[True, True], [True, False]])
    batch = TurnBatch(
        rewards_BK=torch.zeros(2, 2), mask_BK=mask, turn_ids_BT=torch.tensor([[0, 1], [0, -1]]), action_mask_BT=mask,
        q_BK=torch.tensor([[0.3, 0.8], [0.4, float("nan")]]), v_BK=torch.tensor([[0.1, 0.5], [0.3, float("nan")]]),
    )  # fmt: skip
    assert paid(arguments(tmp_path, process_reward=process_reward, estimator=estimator), batch).sum(1).tolist() == pytest.approx(sums)


@pytest.mark.parametrize(
    ("flags", "sums"),
    [
        (["pav"], [1.1, 0.4]),  # the prover's progress
        (["pav", "--algo.advantage.options", '{"best_of": 2}'], [1.25, 0.64]),  # 0.96 − 0.36 and 0.84 − 0.19; 0.64
        (["spa", "--algo.advantage.options", '{"grounding_weight": 2}'], [2.5, 2.1]),
        (["min_form", "--algo.advantage.options", '{"strict": true}'], [0.3, 0.4]),
        (["min_form", "--algo.advantage.options", '{"strict": true, "of": "progress"}'], [0.2, 0.1]),
        (["promise", "--algo.advantage.process_clip", "0.35"], [0.65, 0.35]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value[0], str) else None,
)
def test_forms_with_options_are_counted_as_they_are_paid(tmp_path, flags, sums):
    mask, nan = torch.tensor([[True, True], [True, False]]), float("nan")
    batch = TurnBatch(
        rewards_BK=torch.zeros(2, 2), mask_BK=mask, turn_ids_BT=torch.tensor([[0, 1], [0, -1]]), action_mask_BT=mask,
        q_BK=torch.tensor([[0.3, 0.8], [0.4, nan]]), v_BK=torch.tensor([[0.1, 0.5], [0.3, nan]]), valid_BK=torch.tensor([[True, False]] * 2),
        prover_q_BK=torch.tensor([[0.8, 0.6], [0.4, nan]]), prover_v_BK=torch.tensor([[0.2, 0.1], [0.0, nan]]),
    )  # fmt: skip
    args = arguments(tmp_path, *flags[1:], process_reward=None, estimator=flags[0])
    assert paid(args, batch).sum(1).tolist() == pytest.approx(sums)


def test_preferences_are_counted_by_the_turn(tmp_path):
    """Each of six turns is paid about ½, so an episode of six is paid three times one of two."""
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, 2:] = False
    batch = TurnBatch(
        rewards_BK=torch.zeros(2, 6), mask_BK=mask, turn_ids_BT=torch.zeros(2, 6, dtype=torch.long), action_mask_BT=mask,
        q_BK=torch.zeros(2, 6), v_BK=torch.zeros(2, 6), group_B=torch.tensor([0, 0]),
    )  # fmt: skip
    args = arguments(tmp_path, "--algo.advantage.bound", "par", process_reward=None, estimator="progress")
    assert paid(args, batch).sum(1).tolist() == pytest.approx([3.0, 1.0])


def test_muted_options_are_silent_whatever_was_given(tmp_path):
    args = arguments(
        tmp_path,
        "--algo.advantage.options",
        '{"process_weight": 2, "eta": 0.7}',
        early_stop="outcome",
        process_reward=None,
        estimator="clip",
    )
    watcher = Watcher(args)
    watcher.state["alarm"] = {"series": "training", "step": 1}
    watcher._settle()
    options = estimator_options(args, 0.0)
    assert options["process_weight"] == 0 and options["eta"] == 0.7
    alone = arguments(tmp_path, "--algo.advantage.bound", "par", process_reward=None, estimator="progress")
    mute(alone)
    assert estimator_options(alone, 0.0)["bound"] == "none", "a score of 0 would be paid half"


def test_an_evaluations_samples_are_grouped_by_their_prompts():
    samples = [SimpleNamespace(prompts=[p], labels=[label]) for p, label in (("a", "1"), ("a", "1"), ("b", "1"), ("a", "2"), ("b", "1"))]
    assert prompts_of(samples).tolist() == [0, 0, 1, 2, 1]


OUTCOME = ["--prm.monitor_every", "5", "--prm.early_stop", "outcome", "--prm.model_name_or_path", "x", "--algo.advantage.estimator"]
NONSENSE = [
    (["--prm.early_stop", "stop"], "--prm.early_stop is given, but nothing is watched; give --prm.monitor_every"),
    (["--prm.alarm_z", "2"], "--prm.alarm_z is given, but nothing is watched"),
    (["--prm.monitor_every", "5"], "--prm.model_name_or_path is not given"),
    (["--prm.monitor_every", "5", "--eval.steps", "3"], "held-out tasks are played once for both"),
    (["--prm.monitor_every", "5", "--prm.alarm_window", "3", "--prm.alarm_rise", "0"], "--prm.alarm_window is 3; wanted 4 or more"),
    (["--prm.monitor_every", "5", "--prm.early_stop", "best"], "give --env.eval_tasks"),
    (["--prm.monitor_every", "5", "--prm.early_stop", "best", "--env.eval_tasks", "4", "--ckpt.disable_ds"], "keeps none"),
    (["--prm.monitor_every", "5", "--prm.early_stop", "outcome"], "gae takes nothing from the PRM to begin with"),
    (
        ["--prm.monitor_every", "5", "--prm.early_stop", "outcome", "--algo.advantage.estimator", "progress"],
        "has no outcome to fall back on",
    ),
    ([*OUTCOME, "min_form", "--algo.advantage.outcome_weight", "0"], "min_form has no outcome to fall back on"),
    ([*OUTCOME, "pav", "--algo.advantage.options", '{"base": "prm"}'], "pav has no outcome to fall back on"),
    (["--prm.monitor_every", "5", "--prm.early_stop", "best", "--env.eval_tasks", "4", "--train.enable_ema"], "saves the mean of them"),
]


@pytest.mark.parametrize(("flags", "told"), NONSENSE, ids=[" ".join(flags) for flags, _ in NONSENSE])
def test_flags_that_make_no_sense(flags, told):
    from openrlhf.utils.config import hierarchize

    from openrlhf_agentprm.host.advantage_flags import estimators
    from openrlhf_agentprm.host.monitor_flags import monitor_problems
    from openrlhf_agentprm.host.parsers import host_parser

    args = hierarchize(host_parser("train_ppo_ray").parse_args(["--actor.model_name_or_path", "x", *flags]))
    problems = monitor_problems(args, args.algo.advantage.estimator in estimators())
    assert any(told in problem for problem in problems), problems
