"""Repeated stages: what a block becomes, how it is changed, and what is wrong with one."""

import textwrap

import pytest
import yaml
from small import kinds

from openrlhf_agentprm.cli.run import parsers
from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.pipeline.recipe import load_recipe
from openrlhf_agentprm.pipeline.run import dry_run

BLOCK = """
    name: again
    run_dir: {folder}/run
    vars: {{rounds: 2, tasks: 4}}
    stages:
      policy0:
        command: tiny_policy
        flags: {{env.name: thirdparty_count, env.num_tasks: 5, tiny.output: "${{output}}"}}
      loop:
        repeat: ${{vars.rounds}}
        start: {{policy: "${{stages.policy0}}"}}
        stages:
          demos:
            command: collect
            title: demonstrations
            output: demos.store
            flags: &demos
              env.name: thirdparty_count
              env.num_tasks: ${{vars.tasks}}
              env.first_task: ${{iteration}}00
              env.num_workers: 2
              policy.model_name_or_path: ${{stages.policy@previous}}
              collect.output: ${{output}}
              collect.n_samples_per_task: 1
              collect.iteration: ${{iteration}}
              collect.demonstrator: expert
          policy:
            command: tiny_policy
            flags: {{env.name: thirdparty_count, env.num_tasks: 5, tiny.seed: "${{iteration}}", tiny.output: "${{output}}"}}
          labels:
            command: label
            flags: {{data.dataset: "${{stages.policy0}},${{stages.demos@all}}", label.output: "${{output}}"}}
      judged:
        command: evaluate
        flags: {{eval.dataset: "${{stages.demos@last}}", eval.output: "${{output}}", prm.model_name_or_path: [x, "${{stages.labels@all}}"]}}
"""


def recipe_of(folder, text=BLOCK):
    path = folder / "again.yaml"
    path.write_text(textwrap.dedent(text.format(folder=folder)))
    return path


def load(folder, *changes, text=BLOCK):
    return load_recipe(str(recipe_of(folder, text)), list(changes), parsers())


def test_a_block_becomes_ordinary_stages(tmp_path):
    recipe = load(tmp_path)
    assert [s.name for s in recipe.stages] == ["policy0", "demos-1", "policy-1", "labels-1", "demos-2", "policy-2", "labels-2", "judged"]
    run = tmp_path / "run"
    first, second = recipe.stage("demos-1"), recipe.stage("demos-2")
    assert first.flags["policy.model_name_or_path"] == str(run / "policy0") and first.needs == ["policy0"]
    assert second.flags["policy.model_name_or_path"] == str(run / "policy-1") and second.needs == ["policy-1"]
    assert (first.output, second.output) == (run / "demos-1.store", run / "demos-2.store")
    assert second.title == "demonstrations, iteration 2" and second.flags["env.first_task"] == "200"
    assert second.flags["collect.iteration"] == 2 and second.flags["env.num_tasks"] == 4
    stores = f"{run / 'policy0'},{run / 'demos-1.store'},{run / 'demos-2.store'}"
    assert recipe.stage("labels-1").flags["data.dataset"] == stores.rpartition(",")[0]
    assert recipe.stage("labels-2").flags["data.dataset"] == stores and recipe.stage("labels-2").needs == ["demos-1", "demos-2", "policy0"]
    judged = recipe.stage("judged").flags
    assert judged["eval.dataset"] == str(run / "demos-2.store")
    assert judged["prm.model_name_or_path"] == ["x", str(run / "labels-1"), str(run / "labels-2")]


def test_more_iterations_leave_those_before_as_they_are(tmp_path):
    few, many = dry_run(load(tmp_path)), dry_run(load(tmp_path, "vars.rounds=4"))
    assert many[: len(few) - 1] == few[:-1] and len(many) == len(few) + 6 and many[-1] != few[-1]


def test_flags_are_set_for_every_iteration_or_for_one(tmp_path):
    recipe = load(tmp_path, "demos.collect.noise=0.5", "demos-2.env.num_tasks=9")
    assert [recipe.stage(f"demos-{i}").flags["collect.noise"] for i in (1, 2)] == [0.5, 0.5]
    assert [recipe.stage(f"demos-{i}").flags["env.num_tasks"] for i in (1, 2)] == [4, 9]
    with pytest.raises(UserError, match=r"'demos-3.env.num_tasks' names nothing in the recipe"):
        load(tmp_path, "demos-3.env.num_tasks=9")


def test_repeated_stages_run_once_and_again_when_changed_and_the_folders_recipe_is_the_same_run(tmp_path):
    path = recipe_of(tmp_path)
    until = {"last": "policy-2"}
    ran = ["policy0", "demos-1", "policy-1", "labels-1", "demos-2", "policy-2"]
    sets = ("labels.data.dataset=" + str(tmp_path / "run/demos-1.store"),)
    assert kinds(path, *sets, **until) == [(name, "done") for name in ran]
    assert kinds(path, *sets, **until) == [(name, "skipped") for name in ran]
    found = kinds(path, *sets, "policy-1.tiny.seed=7", **until)
    assert [name for name, kind in found if kind == "done"] == ["policy-1", "demos-2"], "what reads it runs again, and nothing else"
    assert [name for name, kind in kinds(path, *sets, "policy-1.tiny.seed=7", first="demos-2", **until) if kind == "done"] == [
        "demos-2",
        "policy-2",
    ]
    again = load_recipe(str(tmp_path / "run/recipe.yaml"), [], parsers())
    assert dry_run(again) == dry_run(load(tmp_path, *sets, "policy-1.tiny.seed=7"))
    assert "rounds" not in yaml.safe_load((tmp_path / "run/recipe.yaml").read_text())["vars"], "it would change nothing there"


WRONG = [
    (
        "repeat: ${{vars.rounds}}",
        "repeat: ${{vars.tsks}}",
        r"block 'loop': repeat is '\$\{vars.tsks\}'; wanted a whole number of 1 or more",
    ),
    ("repeat: ${{vars.rounds}}", "repeat: true", "repeat is True"),
    ('start: {{policy: "${{stages.policy0}}"}}', "strat: {{policy: x}}", "block 'loop': unknown key 'strat'; did you mean 'start'?"),
    (
        'start: {{policy: "${{stages.policy0}}"}}',
        "start: {{polcy: x}}",
        "start names 'polcy', no stage of the block; did you mean 'policy'?",
    ),
    ('start: {{policy: "${{stages.policy0}}"}}', "", r"stage 'demos-1': nothing is before \$\{stages.policy@previous\}; say in start"),
    (
        'start: {{policy: "${{stages.policy0}}"}}',
        'start: {{policy: "${{stages.policy1}}"}}',
        r"stage 'demos-1': \$\{stages.policy1\} is not defined here",
    ),
    ("policy@previous", "polcy@previous", r"\$\{stages.polcy@previous\} is of no stage of the block; did you mean 'policy'?"),
    ("policy@previous", "policy@last", r"\$\{stages.policy@last\} is not known inside the block"),
    ("demos@last", "demo@last", r"stage 'judged': \$\{stages.demo@last\} is not defined here"),
    ("collect.demonstrator: expert", "collect.demonstratr: expert", "stage 'demos-1': unknown flag --collect.demonstratr"),
    ("      policy0:\n", "      policy-1:\n", "stage 'policy-1' is there twice"),
]


@pytest.mark.parametrize(("old", "new", "told"), WRONG, ids=[new.strip() or "no start" for _, new, _ in WRONG])
def test_what_is_wrong_with_a_block_is_told_once(old, new, told, tmp_path):
    assert old in BLOCK
    with pytest.raises(UserError, match=told) as raised:
        load(tmp_path, text=BLOCK.replace(old, new))
    found = "\n".join(raised.value.problems)
    assert found.count("unknown flag") <= 1, "not of every iteration"
