"""The public checker: what training and search rely on, asked of any environment, ours or a third party's.

Each check is a function that takes a `Subject` and raises `AssertionError` with what was seen and what is wanted. `check_env` runs all of
them, each call to the environment under a time limit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from . import base, endurance, tool_checks
from .subject import Env, Subject, brief, same


@dataclass(frozen=True)
class Result:
    """Outcome of one check; `problem` is empty where it passed, `skipped` tells why it did not apply, `told` what it measured."""

    name: str
    problem: str = ""
    skipped: str = ""
    told: str = field(default="", compare=False)


Check = Callable[[Subject], str | None]


def check_env(make: Callable[[], Env], **options: Any) -> list[Result]:
    """Run every check; one that raises anything has failed with that text.

    Args:
        make: builds a fresh environment.
        options: fields of `Subject`.
    """
    subject = Subject(make, **options)
    return [run_check(check, subject) for check in CHECKS]


def run_check(check: Check, subject: Subject) -> Result:
    """One check and what came of it."""
    try:
        found = check(subject) or ""
        return Result(name_of(check), **{"told" if isinstance(found, endurance.Told) else "skipped": str(found)})
    except AssertionError as error:
        return Result(name_of(check), problem=str(error))
    except Exception as error:
        return Result(name_of(check), problem=f"{type(error).__name__}: {error}")


def name_of(check: Check) -> str:
    return check.__name__.removeprefix("check_").replace("_", " ")


def check_reset_returns_text_and_instruction(s: Subject) -> str | None:
    observation, info = s.reset(s.env, s.tasks()[0])
    assert not (problem := base.text_problem(observation)), f"the first observation {problem}"
    assert isinstance(info, dict), f"info is {type(info).__name__}; wanted dict"
    assert isinstance(info.get("instruction"), str), f"info['instruction'] is {brief(info.get('instruction'))}; wanted a str at reset"
    assert not (problem := base.text_problem(info["instruction"])), f"info['instruction'] {problem}"
    return None


def check_step_returns_the_agreed_types(s: Subject) -> str | None:
    s.reset(s.env, s.tasks()[0])
    observation, reward, terminated, truncated, info = s.step(s.env, s.some_action(s.env, 0))
    assert not (problem := base.text_problem(observation)), f"the observation {problem}"
    assert isinstance(reward, int | float) and base.is_finite_number(reward), f"the reward is {brief(reward)}; wanted a finite number"
    for name, flag in (("terminated", terminated), ("truncated", truncated)):
        assert isinstance(flag, bool), f"{name} is {brief(flag)}; wanted a bool"
    assert isinstance(info.get("valid_action"), bool), f"info['valid_action'] is {brief(info.get('valid_action'))}; wanted a bool each step"
    return None


def check_same_seed_and_actions_give_the_same_episode(s: Subject) -> str | None:
    for task in s.tasks():
        actions, first = s.play(s.env, task)
        _, second = s.play(s.new(), task, actions)
        same(first, second, f"task {task!r} in two instances")
    return None


def check_reset_forgets_the_last_episode(s: Subject) -> str | None:
    tasks = s.tasks()
    env = s.new()
    actions, first = s.play(env, tasks[0])
    s.play(env, tasks[-1])
    _, again = s.play(env, tasks[0], actions)
    same(first, again, f"task {tasks[0]!r} before and after another episode")
    return None


def check_two_instances_share_no_state(s: Subject) -> str | None:
    task = s.tasks()[0]
    actions, alone = s.play(s.new(), task)
    one, other = s.new(), s.new()
    trace: list[Any] = [s.reset(one, task)[0]]
    s.reset(other, task)
    for action in actions:
        observation, reward, terminated, truncated, _ = s.step(one, action)
        trace.append((observation, float(reward), bool(terminated), bool(truncated)))
        if not (terminated or truncated):
            s.step(other, action)
    same(alone, trace, "an episode alone and beside another instance")
    return None


def check_splits_are_disjoint(s: Subject) -> str | None:
    tasked = base.ability(s.env, base.HasTasks)
    if tasked is None:
        return "no tasks()"
    seen: dict[str, str] = {}
    for split in base.SPLITS:
        with s.calling(f"tasks({split!r})"):
            listed = tasked.tasks(split)
        assert len(listed) > 0, f"tasks({split!r}) is empty"
        for task in listed[:1000]:
            assert isinstance(task, str), f"tasks({split!r}) holds {brief(task)}; wanted str"
            assert seen.get(task, split) == split, f"task {task!r} is in {seen[task]!r} and in {split!r}; splits must be disjoint"
            seen[task] = split
    return None


def check_nonsense_is_answered_not_raised(s: Subject) -> str | None:
    for action in ("", "xyzzy plugh", "ünïcödé ✓ \n\t", "go " * 3000):
        s.reset(s.env, s.tasks()[0])
        try:
            *_, info = s.step(s.env, action)
        except Exception as error:
            raise AssertionError(
                f"step({brief(action)}) raised {type(error).__name__}: {error}; wanted an observation and valid_action=False"
            ) from error
        assert info.get("valid_action") is False, f"step({brief(action)}) gave valid_action={info.get('valid_action')!r}; wanted False"
    return None


def check_admissible_actions_are_valid(s: Subject) -> str | None:
    if base.ability(s.env, base.HasAdmissibleActions) is None:
        return "no admissible_actions()"
    task = s.tasks()[0]
    s.reset(s.env, task)
    listed = s.admissible(s.env)
    assert isinstance(listed, list) and listed, f"admissible_actions() returned {brief(listed)}; wanted a non-empty list"
    for action in listed[:20]:
        assert isinstance(action, str), f"admissible_actions() holds {brief(action)}; wanted str"
        s.reset(s.env, task)
        *_, info = s.step(s.env, action)
        assert info.get("valid_action") is True, f"{action!r} is listed as admissible, yet valid_action is {info.get('valid_action')!r}"
    return None


def check_the_expert_succeeds(s: Subject) -> str | None:
    if base.ability(s.env, base.HasExpert) is None:
        return "no expert_action()"
    endings = []
    for task in s.tasks():
        s.reset(s.env, task)
        info: dict[str, Any] = {}
        for _ in range(max(s.steps, 200)):
            _, _, terminated, truncated, info = s.step(s.env, s.expert_action(s.env))
            if terminated or truncated:
                assert isinstance(info.get("success"), bool), f"info['success'] is {brief(info.get('success'))} at the end; wanted a bool"
                break
        endings.append(info.get("success") is True)
    assert any(endings), f"the expert succeeded in 0 of {len(endings)} tasks"
    return None


def check_snapshots_restore_the_state(s: Subject) -> str | None:
    kept = base.ability(s.env, base.HasSnapshots)
    if kept is None:
        return "no snapshot() and restore()"
    for task in s.tasks():
        for actions in (s.play(s.env, task)[0], s.wander(s.env, task)):
            _check_restored_states(s, kept, task, actions)
    return None


def _check_restored_states(s: Subject, kept: base.HasSnapshots, task: str | None, actions: list[str]) -> None:
    """From half way on, the actions and the choices on the way are the same without a snapshot, after one, and after it is restored."""
    half = len(actions) // 2
    s.play(s.env, task, actions[:half])
    trace, choices = s.go_on(s.env, actions[half:])
    s.play(s.env, task, actions[:half])
    with s.calling("snapshot()"):
        state = kept.snapshot()
    for attempt in ("first", "second", "third"):
        again, choices_again = s.go_on(s.env, actions[half:])
        same(trace, again, f"task {task!r} without a snapshot and the {attempt} run from a snapshot")
        same(choices, choices_again, f"admissible_actions() of task {task!r} without a snapshot and in the {attempt} run from a snapshot")
        with s.calling("restore()"):
            kept.restore(state)


def check_the_end_is_told_apart(s: Subject) -> str | None:
    task = s.tasks()[0]
    s.reset(s.env, task)
    for k in range(max(s.steps, 200)):
        _, _, terminated, truncated, info = s.step(s.env, s.some_action(s.env, k))
        assert not (info.get("success") and not terminated), "info['success'] is True while terminated is False"
        if terminated or truncated:
            assert isinstance(info.get("success"), bool), f"info['success'] is {brief(info.get('success'))} at the end; wanted a bool"
            outcome = info.get("outcome")
            assert outcome is None or base.is_finite_number(outcome), f"info['outcome'] is {brief(outcome)}; wanted a finite number or none"
            return None
    return "the episode did not end in the steps tried"


def check_close_can_be_called_twice(s: Subject) -> str | None:
    env = s.new()
    s.reset(env, s.tasks()[0])
    with s.calling("close()"):
        env.close()
        env.close()
    return None


CHECKS: list[Check] = [
    check_reset_returns_text_and_instruction,
    check_step_returns_the_agreed_types,
    check_same_seed_and_actions_give_the_same_episode,
    check_reset_forgets_the_last_episode,
    check_two_instances_share_no_state,
    check_splits_are_disjoint,
    check_nonsense_is_answered_not_raised,
    check_admissible_actions_are_valid,
    tool_checks.check_tools_are_told_as_schemas,
    check_the_expert_succeeds,
    check_snapshots_restore_the_state,
    check_the_end_is_told_apart,
    check_close_can_be_called_twice,
    endurance.check_a_closed_one_disturbs_no_other,
    endurance.check_threads_play_apart,
    endurance.check_a_fork_plays_the_same,
    endurance.check_another_interpreter_plays_the_same,
    endurance.check_memory_stays_flat,
    endurance.check_reset_and_step_take,
]
