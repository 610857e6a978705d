"""Recipes: every mistake told at once, launch lines that can be typed, stages run once, changed ones and what reads them again."""

import json
import re
import time
from pathlib import Path

import pytest
import yaml
from launching import agentprm, here
from small import kinds, small_recipe

from openrlhf_agentprm.cli.run import parsers
from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.pipeline.folders import recipes_folder
from openrlhf_agentprm.pipeline.recipe import arguments, load_recipe
from openrlhf_agentprm.pipeline.run import dry_run

RECIPES = sorted(p.stem for p in recipes_folder().glob("*.yaml"))
LOOPS = {"iterate-agentprm", "iterate-mc", "iterate-inverse", "iterate-dpo"}
OURS = {"quickstart", "study-labels", "study-rl", *LOOPS}  # the others have a paper's settings


def test_our_recipes_are_counted():
    assert len(RECIPES) == 11 and set(RECIPES) >= OURS


@pytest.mark.parametrize("name", RECIPES)
def test_our_recipes_are_valid_key_by_key_and_dry_run(name):
    """Each flag against the command's own parser, the host's included."""
    recipe = load_recipe(name, [], parsers())
    lines = dry_run(recipe)
    assert len(lines) == len(recipe.stages) >= 5 and all("${" not in line for line in lines)
    printed = here("run", name, "--dry-run").stdout
    assert all(line in printed for line in lines)


STUDY = str(Path(__file__).parent.parent / "benchmarks/study.yaml")


@pytest.mark.parametrize("name", [*sorted(set(RECIPES) - {"study-labels", "iterate-dpo"}), STUDY], ids=lambda name: Path(name).stem)
def test_every_ppo_stage_gives_flags_that_its_estimator_reads(name):
    from openrlhf.utils.config import hierarchize

    from openrlhf_agentprm.host.advantage_flags import advantage_problems
    from openrlhf_agentprm.host.parsers import host_parser

    stages = [stage for stage in load_recipe(name, [], parsers()).stages if stage.command == "train_ppo_ray"]
    assert stages
    for stage in stages:
        assert advantage_problems(hierarchize(host_parser("train_ppo_ray").parse_args(stage.argv))) == [], stage.name


@pytest.mark.parametrize(("name", "stages"), [("study", 20), ("surprise", 11), ("second_tier", 28)])
def test_the_benchmarks_recipes_are_valid_too(name, stages):
    recipe = load_recipe(str(Path(STUDY).with_stem(name)), ["seed=1"], parsers())
    assert len(recipe.stages) >= stages and all("${" not in line for line in dry_run(recipe))


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in OURS])
def test_every_value_of_a_papers_recipe_tells_its_source(name):
    text = (recipes_folder() / f"{name}.yaml").read_text()
    flags = re.findall(r"^ +([a-z_]+\.[\w.]+): (.*)$", text, flags=re.M)
    assert len(flags) > 100
    assert not [f"{key}: {value}" for key, value in flags if not value.startswith(("$", '["')) and " # " not in value]


@pytest.mark.parametrize("name", RECIPES)
def test_every_training_of_our_recipes_goes_on_from_its_last_checkpoint(name):
    trainings = [s for s in load_recipe(name, [], parsers()).stages if s.command.startswith("train_")]
    assert len(trainings) >= 3
    for stage in trainings:
        flags = dict(zip(stage.argv, [*stage.argv[1:], ""], strict=True))
        assert "--ckpt.load_enable" in flags and int(flags["--ckpt.save_steps"]) > 0, stage.name
        assert flags["--ckpt.path"].startswith(flags["--ckpt.output_dir"]), stage.name


BROKEN = """
name: broken
sed: 1
stages:
  one:
    command: colect
    flags: {env.name: babyai}
  two:
    command: collect
    lancher: python
    flags:
      env.nme: babyai
      env.max_turns: many
      policy.model_name_or_path: ${stages.three}
      collect.output: ${output}
  three:
    command: search
    launcher: slurm
    flags: {search.output: "${vars.nothing}"}
"""


WRONG_KINDS = {
    "vars: [a]": "vars is ['a']; wanted names and values",
    "seed: x": "seed is 'x'; wanted a whole number of 0 or more",
    "vars: {d: '${stages.a}/e'}": "vars.d: ${stages.a} is not defined here",
    "name: x\nstages: {a: {command: [a]}}": "stage 'a': command is ['a']; wanted the name of a command",
    "name: x\nstages: {a: 3}": "stage 'a' must be a mapping with command, launcher",
    "name: x\nstages: {a: {command: report, minutes: five, processes: 0}}": "processes is 0; wanted a whole number of 1 or more",
    "name: x\nstages: {a: {command: report, flags: [x]}}": "flags is ['x']; wanted flags and their values",
}


def test_a_recipe_with_several_mistakes_tells_them_all(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text(BROKEN)
    with pytest.raises(UserError) as raised:
        load_recipe(str(path), [], parsers())
    told = "\n".join(raised.value.problems)
    for text in (
        "unknown key 'sed'; did you mean 'seed'?",
        "stage 'two': unknown key 'lancher'; did you mean 'launcher'?",
        "launcher is 'slurm'; wanted python or deepspeed",
        "stage 'one': unknown command 'colect'; did you mean 'collect'?",
        "stage 'two': unknown flag --env.nme; did you mean '--env.name'?",
        "stage 'two': --env.max_turns is 'many'; wanted a whole number of 1 or more",
        "stage 'two': ${stages.three} is not defined here",
        "stage 'two': --env.name is required",
        "stage 'three': ${vars.nothing} is not defined here",
        "stage 'three': --policy.model_name_or_path is required",
    ):
        assert text in told, told
    done = here("run", path)
    assert done.returncode == 2 and "Traceback" not in done.stderr and done.stderr.count("error: ") >= 10
    for text, told in WRONG_KINDS.items():
        path.write_text(text if "stages:" in text else f"name: x\nstages: {{a: {{command: report}}}}\n{text}")
        done = here("run", path, "--dry-run")
        assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr, (text, done.stderr)
    path.write_text("name: x\nstages: {a: {command: report, flags: }}")
    for change in ("a.x=[1", "a.x=@file", "a.x=note: a: b"):
        done = here("run", path, "--dry-run", "--set", change)
        assert done.returncode == 2 and "is not valid YAML" in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert "unknown flag --nothing" in here("run", path, "--dry-run", "--set", "a.nothing=1").stderr
    path.write_text("stages: [a")
    assert "is not valid YAML" in here("run", path).stderr
    assert "no recipe 'quickstrat'; did you mean 'quickstart'?" in here("run", "quickstrat").stderr


def test_flags_become_arguments():
    flags = {"a": 1, "b": True, "c": False, "d": None, "e": [1, "x"], "f": {"k": [True]}, "g": 1e-6}
    assert arguments(flags) == ["--a", "1", "--b", "--e", "1", "x", "--f", '{"k": [true]}', "--g", "1e-06"]


def test_stages_run_once_and_again_when_they_or_what_they_read_change(tmp_path):
    path = small_recipe(tmp_path)
    assert kinds(path) == [("policy0", "done"), ("demos", "done")]
    run = tmp_path / "run"
    assert json.loads((run / "demos/.collect.json").read_text())["played"] == 6
    assert json.loads((run / "run.json").read_text())["versions"]["openrlhf"] == "0.11.2"
    assert "tasks: 6" in (run / "recipe.yaml").read_text() and (run / "logs/demos.log").read_text().startswith("\n$ python -m")
    assert kinds(path) == [("policy0", "skipped"), ("demos", "skipped")]
    assert kinds(path, "vars.tasks=8") == [("policy0", "skipped"), ("demos", "done")]
    assert len(list(run.glob("demos.before-*"))) == 1, "the other configuration's output is moved aside, not continued and not lost"
    assert kinds(path, "vars.tasks=8", "policy0.tiny.seed=1") == [("policy0", "done"), ("demos", "done")]
    assert kinds(path, "vars.tasks=8", "policy0.tiny.seed=1", last="policy0") == [("policy0", "skipped")]
    assert kinds(path, "vars.tasks=8", "policy0.tiny.seed=1", first="demos") == [("policy0", "skipped"), ("demos", "done")]
    assert json.loads((run / "demos/.collect.json").read_text())["played"] == 8, "--from plays again"
    assert kinds(path, "vars.tasks=8", "policy0.tiny.seed=1", first="policy0", last="policy0") == [("policy0", "done")]
    assert kinds(path, "vars.tasks=8", "policy0.tiny.seed=1") == [("policy0", "skipped"), ("demos", "done")], "what it read was made anew"
    (run / "state/demos.json").unlink()  # as if it had been stopped before its end
    time.sleep(1)  # a stage's end is noted in seconds
    assert kinds(path, "vars.tasks=8", "policy0.tiny.seed=1", first="policy0", last="policy0") == [("policy0", "done")]
    assert kinds(path, "vars.tasks=8", "policy0.tiny.seed=1") == [("policy0", "skipped"), ("demos", "done")]
    assert json.loads((run / "demos/.collect.json").read_text())["played"] == 8, "what was begun from other inputs is not continued"


def test_a_run_folder_tells_each_stages_flags_filled_in_and_its_recipe_can_be_run(tmp_path):
    run = tmp_path / "run"
    kinds(small_recipe(tmp_path), "vars.tasks=8", last="policy0")
    text = (run / "resolved.yaml").read_text()
    demos = yaml.safe_load(text)["demos"]
    assert "${" not in text and demos["command"] == "collect" and demos["output"] == str(run / "demos")
    assert demos["flags"]["env.num_tasks"] == 8 and demos["flags"]["policy.model_name_or_path"] == str(run / "policy0")
    assert demos["flags"]["collect.output"] == str(run / "demos")
    again = load_recipe(str(run / "recipe.yaml"), [], parsers())
    assert dry_run(again) == json.loads((run / "run.json").read_text())["launch_lines"] and again.stages[1].needs == ["policy0"]


def test_a_stages_own_mistake_is_repeated_and_the_run_goes_on_from_there(tmp_path):
    path = small_recipe(tmp_path, **{"collect.noise": 0.5})
    text = path.read_text()
    path.write_text(text.replace("demonstrator: expert", "demonstrator: clever"))
    done = agentprm("run", path, check=False)
    assert done.returncode == 2 and "stage 'demos': the demonstrator 'clever' needs an environment with demonstrator()" in done.stderr
    assert "Traceback" not in done.stderr
    path.write_text(text)
    assert kinds(path) == [("policy0", "skipped"), ("demos", "done")]
