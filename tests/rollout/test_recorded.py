"""Episodes that others recorded: what they become, what is refused, the way there and back, and rows of every kind of nonsense."""

import json
import random

import pytest
from launching import here

from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.data.episode import Episode, Status, problems_of
from openrlhf_agentprm.data.store import EpisodeStore
from openrlhf_agentprm.rollout.recorded import READERS, read_recorded
from openrlhf_agentprm.rollout.recorded_rows import About, RowError

ABOUT = About(None, "train", None, "someone", {})
GYM = {
    "item_id": "babyai_23",
    "outcome": 1,
    "conversations": [
        {"from": "human", "loss": None, "value": "Explore."}, {"from": "gpt", "loss": False, "value": "OK."},
        {"from": "human", "loss": None, "value": "a ball"}, {"from": "gpt", "loss": True, "value": "Thought: near.\nAction: take it"},
        {"from": "human", "loss": None, "value": "taken"}, {"from": "gpt", "loss": True, "value": "Action: done"},
    ],
}  # fmt: skip
TOOLS = {
    "id": 7,
    "reward": 0.5,
    "messages": [
        {"role": "system", "content": "Use tools."}, {"role": "user", "content": [{"type": "text", "text": "2+2?"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add", "arguments": '{"a": 2, "b": 2}'}}]},
        {"role": "tool", "content": "4"}, {"role": "user", "content": "well?"}, {"role": "assistant", "content": "four"},
        {"role": "user", "content": "thanks"},
    ],
}  # fmt: skip
ALFRED = {
    "gamefile": "pick_and_place/trial_1",
    "task": "put a mug on the desk",
    "trajectory": [
        {"observation": "a room", "candidate_actions": ["look"], "reason": "I need\na mug.", "action": "go to desk", "score": 0},
        {"observation": "a desk", "candidate_actions": ["put"], "reason": "", "action": "put mug", "score": 1.0},
    ],
}


def read(tmp_path, kind, *rows, about=ABOUT):
    if kind == "agent_prm":
        for number, row in enumerate(rows):
            (tmp_path / f"{number}.json").write_text(row if isinstance(row, str) else json.dumps(row))
        return list(read_recorded(tmp_path, kind, about))
    file = tmp_path / "rows.jsonl"
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return list(read_recorded(file, kind, about))


def test_agentgyms_trajectories(tmp_path):
    unmarked = {**GYM, "conversations": [{"from": t["from"], "value": t["value"]} for t in GYM["conversations"]]}
    (_, one), (_, two) = read(tmp_path, "agentgym", GYM, unmarked)
    assert (one.env, one.task_id, one.instruction, one.outcome, one.status) == ("babyai", "babyai_23", "Explore.", 1.0, Status.SUCCESS)
    assert [(t.observation, t.action, t.reward) for t in one.turns] == [
        ("a ball", "Thought: near.\nAction: take it", 0.0), ("taken", "Action: done", 1.0)
    ]  # fmt: skip
    assert two.turns == one.turns and (one.sample, two.sample) == (0, 1) and one.episode_id != two.episode_id
    whole = tmp_path / "list.json"
    whole.write_text(json.dumps([GYM]))
    assert [e for _, e in read_recorded(whole, "agentgym", ABOUT)] == [one]


def test_messages_with_tools(tmp_path):
    [(_, one)] = read(tmp_path, "messages", TOOLS)
    assert (one.env, one.task_id, one.instruction, one.outcome, one.status) == ("messages", "7", "Use tools.", 0.5, Status.FAILURE)
    assert [(t.observation, t.action) for t in one.turns] == [
        ("2+2?", '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 2}}\n</tool_call>'), ("4\nwell?", "four")
    ]  # fmt: skip
    assert one.final_observation == "thanks"


def test_rollout_folders(tmp_path):
    (_, one), (_, bad) = read(tmp_path, "agent_prm", ALFRED, "{")
    assert (one.env, one.task_id, one.outcome) == ("alfworld", "pick_and_place/trial_1", 1.0)
    assert [t.action for t in one.turns] == ["Thought: I need a mug.\nAction: go to desk", "put mug"] and isinstance(bad, RowError)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"outcome": None}, "tells no outcome .* --import.outcome"),
        ({"outcome": 2}, "its outcome is 2; wanted a number from 0 to 1"),
        ({"outcome": float("nan")}, "its outcome is nan"),
        ({"outcome": "1"}, "its outcome is '1'"),
        ({"item_id": None}, "has no task_id or item_id or id"),
        ({"item_id": "23"}, "names no environment; give --import.env"),
        ({"conversations": {}}, "'conversations' is no list of objects"),
        ({"conversations": GYM["conversations"][:2]}, "it has no action"),
        ({"conversations": [*GYM["conversations"], {"from": "gpt", "loss": True, "value": "more"}]}, "two actions follow one another"),
        ({"conversations": [{"from": "robot", "value": "x"}]}, "is from 'robot'"),
        ({"conversations": [{"from": "gpt", "value": 3}]}, "'value' is int, not text"),
        ({"item_id": "babyai_\ud800"}, "half of a surrogate pair"),
    ],
)
def test_what_is_wrong_with_a_row_is_told(change, told, tmp_path):
    [(where, row)] = read(tmp_path, "agentgym", GYM | change)
    assert where == "line 1" and isinstance(row, RowError)
    with pytest.raises(RowError, match=told):
        raise row


def test_files_that_are_none_are_told(tmp_path):
    with pytest.raises(UserError, match="is no folder with"):
        list(read_recorded(tmp_path, "agent_prm", ABOUT))
    (tmp_path / "torn.json").write_text('[{"a": 1}, {')
    for name, told in (("none.json", "No such file"), ("torn.json", "cannot be read")):
        with pytest.raises(UserError, match=told):
            list(read_recorded(tmp_path / name, "agentgym", ABOUT))


def broken(row, rng):
    """A row with one or two of its parts, anywhere in it, replaced or taken out."""
    row = json.loads(json.dumps(row))
    for _ in range(rng.choice((1, 1, 2))):
        at, path = row, []
        while isinstance(at, (dict, list)) and at and (not path or rng.random() < 0.7):
            key = rng.choice(list(at) if isinstance(at, dict) else range(len(at)))
            path.append((at, key))
            at = at[key]
        where, key = path[-1]
        if rng.random() < 0.3:
            del where[key]
        else:
            where[key] = rng.choice(
                [None, True, -1, 10**40, 0.5, float("inf"), "", "x" * 50, "\ud83d", "\x00", [], {}, [[]], [{}], {"a": []}]
            )
        if not row:
            break
    return row


def test_ten_thousand_rows_of_nonsense_break_nothing_and_none_that_is_wrong_is_taken(tmp_path):
    rng = random.Random(0)
    rows = [broken(rng.choice((GYM, TOOLS, ALFRED)), rng) for _ in range(10_000)]
    lines = [text if rng.random() > 0.05 else text[: rng.randrange(len(text) + 1)].replace("\n", " ") for text in map(json.dumps, rows)]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(f" {line}" for line in lines))  # never a list as a whole
    taken = refused = 0
    for kind, (_, reader) in READERS.items():
        wanted = {"agentgym": "conversations", "messages": "messages", "agent_prm": "trajectory"}[kind]
        found = list(read_recorded(file, kind, ABOUT)) if kind != "agent_prm" else [(w, r) for w, r in _rows(file, reader)]
        assert len(found) == sum(bool(line.strip()) for line in lines)
        for where, one in found:
            if isinstance(one, RowError):
                refused += 1
                continue
            taken += 1
            row = json.loads(lines[int(where.split()[1]) - 1])
            assert isinstance(one, Episode) and 1 <= len(one.turns) <= len(row[wanted]) and 0 <= one.outcome <= 1
            texts = [
                one.env,
                one.task_id,
                one.instruction,
                one.final_observation,
                *(x for t in one.turns for x in (t.observation, t.action)),
            ]
            assert all(isinstance(text, str) for text in texts) and one.env and one.task_id
            json.dumps(one.to_row(), ensure_ascii=False).encode()
    assert taken > 1000 and refused > 20_000


def _rows(file, reader):
    for number, line in enumerate(file.read_text().split("\n"), 1):
        if line.strip():
            try:
                yield f"line {number}", reader(json.loads(line) if line.strip()[-1:] == "}" else {}, "", ABOUT)
            except (RowError, ValueError) as error:
                yield f"line {number}", error if isinstance(error, RowError) else RowError(str(error))


@pytest.mark.parametrize("kind", ["messages", "agentgym"])
def test_there_and_back_again_has_the_same_tokens(kind, count_store, tiny, tmp_path):
    file, again = tmp_path / "file.jsonl", tmp_path / "again"
    assert here("episodes", "export", count_store, "--format", kind, "--output", file).returncode == 0
    line = ["episodes", "import", file, again, "--import.format", kind, "--policy.model_name_or_path", tiny, "--data.max_len", 128]
    assert "96 episodes imported" in here(*line).stdout and "0 episodes imported" in here(*line).stdout
    before = {e.task_id: e for e in EpisodeStore(count_store).episodes()}
    after = {e.task_id: e for e in EpisodeStore(again).episodes()}
    assert before.keys() == after.keys()
    for task, old in before.items():
        new = after[task]
        assert problems_of(new) == [] and (new.token_ids, new.outcome, new.env) == (old.token_ids, old.outcome, old.env)
        assert [(t.action, t.action_start) for t in new.turns] == [(t.action, t.action_start) for t in old.turns]
    short = here(*line[:3], tmp_path / "short", *line[4:-1], min(len(e.token_ids) for e in before.values()))
    assert "longer than --data.max_len" in short.stdout and 0 < len(EpisodeStore(tmp_path / "short")) < 96


def test_rows_that_are_wrong_are_named_before_anything_is_written(tiny, tmp_path):
    file, out = tmp_path / "file.jsonl", tmp_path / "out"
    file.write_text("\n".join(json.dumps(row) for row in (GYM, GYM | {"outcome": 3}, {"item_id": 1})))
    line = ["episodes", "import", file, out, "--import.format", "agentgym", "--policy.model_name_or_path", tiny]
    done = here(*line)
    assert done.returncode == 2 and not out.exists() and "line 2: its outcome is 3" in done.stderr and "line 3" in done.stderr
    assert "1 episodes imported" in here(*line, "--import.skip_bad").stdout and len(EpisodeStore(out)) == 1
    assert "--policy.model_name_or_path is required" in here(*line[:4]).stderr
    assert "wants the folder of the store to write" in here(*line[:3]).stderr
