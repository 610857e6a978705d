"""A recipe of two short stages, and what became of its stages in a run."""

import textwrap

from openrlhf_agentprm.cli.run import parsers
from openrlhf_agentprm.pipeline.recipe import load_recipe
from openrlhf_agentprm.pipeline.run import Event, run_recipe


def small_recipe(folder, **flags):
    extra = "".join(f"\n          {k}: {v}" for k, v in flags.items())
    text = f"""
    name: small
    run_dir: {folder}/run
    vars: {{tasks: 6}}
    stages:
      policy0:
        command: tiny_policy
        flags: {{env.name: thirdparty_count, env.num_tasks: 5, tiny.output: "${{output}}"}}
      demos:
        command: collect
        title: demonstrations
        flags:
          env.name: thirdparty_count
          env.num_tasks: ${{vars.tasks}}
          env.num_workers: 2
          policy.model_name_or_path: ${{stages.policy0}}
          collect.output: ${{output}}
          collect.n_samples_per_task: 1
          collect.demonstrator: expert{extra}
    """
    path = folder / "small.yaml"
    path.write_text(textwrap.dedent(text))
    return path


def kinds(path, *sets, **options):
    events: list[Event] = []
    run_recipe(load_recipe(str(path), list(sets), parsers()), on_event=events.append, **options)
    return [(e.stage.name, e.kind) for e in events if e.kind != "running"]
