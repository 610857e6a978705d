"""The table of iterations: what each selection said, and who is played by its links."""

import json
from types import SimpleNamespace

from report.run_folder import TASKS, Folder, episode, write_store

from openrlhf_agentprm.agents.digest import policy_digest
from openrlhf_agentprm.cli.select import select
from openrlhf_agentprm.report.artifacts import gather
from openrlhf_agentprm.report.build import build_report
from openrlhf_agentprm.report.load import load_run


def test_every_selection_has_a_row_and_a_link_leads_to_the_stage_that_trained(tmp_path):
    run = Folder(tmp_path / "run")
    wins = {"sft": 2, "ppo-1": 4, "ppo-2": 0}
    for number, (name, won) in enumerate(wins.items()):
        policy = run.add(
            name, "train_ppo_ray" if number else "train_sft", {"ckpt.output_dir": str(run.path / name)}, title=f"policy {name}"
        )
        policy.mkdir(parents=True)
        (policy / "config.json").write_text(json.dumps({"name": name}))
        flags = {"policy.model_name_or_path": str(policy), "env.name": "doors"}
        store = run.add(f"valid-{number}", "collect", flags, title=f"validation of {name}")
        played = [episode(task, s, s < won, split="validation", policy=name) for task in TASKS for s in range(4)]
        for one in played:
            one.policy_digest = policy_digest(policy)
        write_store(store, played)
        before = str(run.path / f"choice-{number - 1}") if number else None
        output = run.add(f"choice-{number}", "select", {"select.output": str(run.path / f"choice-{number}")})
        how = SimpleNamespace(dataset=str(store), before=before, output=str(output), build_on_failed_enable=False)
        select(SimpleNamespace(policy=SimpleNamespace(model_name_or_path=str(policy)), select=how))
    best = run.add("test_best", "collect", {"policy.model_name_or_path": str(run.path / "choice-2/best")}, title="fresh tasks, the best")
    write_store(best, [episode(task, 0, True) for task in TASKS])
    folder = run.close()
    found = gather(load_run(folder))
    assert [(s.makers["judged"], s.makers["next"], s.makers["best"]) for s in found.selected] == [
        ("policy sft", "policy sft", "policy sft"),
        ("policy ppo-1", "policy ppo-1", "policy ppo-1"),
        ("policy ppo-2", "policy ppo-1", "policy ppo-1"),
    ]
    assert next(c for c in found.collected if c.stage.name == "test_best").maker.name == "ppo-1"
    page = build_report(folder).read_text()
    table = page.partition("<h2>Iterations</h2>")[2].partition("</section>")[0]
    assert table.count("<tr>") == 4 and table.count('<em class="chip">fails</em>') == 1
    assert "100.0" in table and "−100.0" in table and "+50.0" in table
