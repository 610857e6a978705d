"""Episodes whose environment broke, from a real collection to the page."""

import textwrap

from launching import agentprm
from reading import Page

RECIPE = """
name: broken
run_dir: {folder}/run
stages:
  policy0:
    command: tiny_policy
    flags: {{env.name: thirdparty_count, env.num_tasks: 5, tiny.output: "${{output}}"}}
  episodes:
    command: collect
    title: a tenth of the tasks breaks
    flags:
      env.name: thirdparty_faulty
      env.num_tasks: 30
      env.num_workers: 4
      env.reset_timeout: 3
      env.max_retries: 1
      policy.model_name_or_path: ${{stages.policy0}}
      collect.output: ${{output}}
      collect.n_samples_per_task: 1
      collect.demonstrator: expert
  report:
    command: report
    output: report.html
    flags: {{report.run_dir: "${{run_dir}}", report.output: "${{output}}"}}
"""


def test_an_environment_that_raises_hangs_or_exits_is_counted_in_the_report(tmp_path):
    (tmp_path / "broken.yaml").write_text(textwrap.dedent(RECIPE).format(folder=tmp_path))
    agentprm("run", tmp_path / "broken.yaml")
    text = Page((tmp_path / "run/report.html").read_text()).text
    assert "3 replayed" in text
    assert "4 workers restarted" in text, "two that hung and two that exited"
    assert "100.0 % [100.0, 100.0] 30 27 0 0 0 2 1 " in text, "of 30, 27 succeeded; 2 broke and 1 hung, and none of them is a failure"
