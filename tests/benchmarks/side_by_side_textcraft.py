"""Our textcraft beside AgentGym's server, with the recipes of the server's own folder: those without tags, which our data has not.

The server says the same in other words ("Crafted 4 minecraft:stick" for "Crafted 4 stick"), so what is compared is what was done or why it was not.
"""

import json
import random
import re
import tempfile
from pathlib import Path

from openrlhf_agentprm.envs.base import make_env

MEANINGS = (  # ours, or the server's
    (r"Crafted (\d+) (.+)", "crafted"),
    (r"Got (\d+) (.+)", "got"),
    (r"Could not find enough items to craft ([^:]+)", "not enough for"),
    (r"Could not find a (?:valid )?recipe for .*|Wrong item format.*", "no recipe"),
    (r"Could not find (.+)", "not to be fetched"),
    (r"Could not (?:understand|execute|extract recipe from).*", "not understood"),
)


def textcraft(args, score_of, adapter):
    """Whole episodes of those of the server's goals that need no tags; then what is ours on purpose."""
    theirs, score = adapter(args, "textcraft"), score_of("textcraft")
    with tempfile.TemporaryDirectory() as folder:
        convert(Path(args.recipes), Path(folder))
        ours = make_env("textcraft", data_dir=folder, depths=list(range(1, 10)))
        for number in range(args.first, args.first + args.seeds):
            shown, _ = theirs.reset(f"textcraft_{number}")
            goal = re.search(r"Goal: craft (.*)\.", shown)[1]
            if not comparable(ours, goal, shown):
                score.named["goal of tags, or of recipes that the server dropped: not played"] += 1
                continue
            score.count["episodes"] += 1
            ours.reset(options={"task_id": f"{goal}/0"})
            if _play(score, ours, theirs, random.Random(goal), f"textcraft_{number}, {goal}"):
                score.named["success"] += 1
    yield score


def convert(recipes, folder):
    """The game's own recipe files as those of minecraft-data."""
    numbers, made = {}, {}
    number = lambda name: numbers.setdefault(name.removeprefix("minecraft:"), len(numbers) + 1)  # noqa: E731
    first = lambda entry: entry[0] if isinstance(entry, list) else entry  # noqa: E731
    for file in sorted(recipes.glob("*.json")):
        recipe = json.loads(file.read_text())
        if recipe["type"] == "minecraft:crafting_shaped":
            keys = {key: first(entry) for key, entry in recipe["key"].items()}
            used = [keys[mark] for row in recipe["pattern"] for mark in row if mark in keys]
        elif recipe["type"] == "minecraft:crafting_shapeless":
            used = [first(entry) for entry in recipe["ingredients"]]
        else:
            continue
        if any("item" not in entry for entry in used):
            continue
        names = [entry["item"] for entry in used]
        if len(set(names)) == 1 and names[0].endswith("_block"):  # the server leaves these out
            continue
        result = number(recipe["result"]["item"])
        made.setdefault(str(result), []).append(
            {"ingredients": [number(name) for name in names], "result": {"id": result, "count": recipe["result"].get("count", 1)}}
        )
    (folder / "recipes.json").write_text(json.dumps(made))
    (folder / "items.json").write_text(json.dumps([{"id": n, "name": name} for name, n in numbers.items()]))


def comparable(ours, goal, shown):
    """Whether the server lists each recipe of our plan, and no base item of it among what it crafts."""
    if ours.book.depth.get(goal, 0) < 1:
        return False
    listed = {_line(line) for line in shown.splitlines() if line.startswith("craft ")}
    makes = {item for item, _, _ in listed}
    needed = ours.book.needed(goal)
    base = {name for recipe in needed for name, _ in recipe.ingredients} & ours.book.base
    return all(_line(recipe.line()) in listed for recipe in needed) and not base & makes


def _line(line):
    count, item, used = re.fullmatch(r"craft (\d+) (.+?) using (.+)", line).groups()
    return item, count, tuple(sorted(used.split(", ")))


def _play(score, ours, theirs, rng, told):
    plan, goal = ours.book.plan(ours._goal), ours._goal
    singles = []
    for command in plan:
        recipe = next((r for r in ours.book.needed(goal) if command.startswith("craft") and f" {r.item} using " in command), None)
        singles += [recipe.line()] * (int(command.split()[1]) // recipe.count) if recipe else [command]
    for place, command in enumerate(singles):
        odd = ["dance", "", "inventory", f"get 1 {goal}", "get x stick", "get 1 gold coin", singles[-1], "craft 1 stick using 1 gold coin"]
        if place == len(singles) - 1 and len(singles) % 2:
            return _other_number(score, ours, theirs, command, told)
        for action in (rng.choice(odd[:3] + odd[4:] if place == len(singles) - 1 else odd), command):
            if action == singles[-1] and place < len(singles) - 1 and len(singles) > 1 and _can(ours, action):
                continue
            mine, yours = ours.step(action), theirs.step(action)
            at = f"{told}, {action!r}"
            said, says = meaning(mine[0]), meaning(yours[0])
            if (said[0], says[0]) == ("no recipe", "not enough for"):
                score.named["no recipe: the server tells of what is lacking first"] += 1
                said = says
            same = [score.hold("observation", said, says, at), score.hold("reward", mine[1], yours[1], at)]
            same += [
                score.hold("end", mine[2:4], yours[2:4], at),
                score.hold("valid_action", mine[4]["valid_action"], yours[4]["valid_action"], at),
            ]
            if not all(same):
                return False
            if mine[2]:
                return True
        if place == len(singles) - 2 and not _ours_on_purpose(score, ours, theirs, singles[-1], told):
            return False
    return False


def _other_number(score, ours, theirs, command, told):
    """The last command with a number that its recipe does not make: no recipe here; the server makes what the recipe does, and has won."""
    verb, count, rest = command.split(" ", 2)
    action = f"{verb} {int(count) + 1} {rest}"
    mine, yours = ours.step(action), theirs.step(action)
    score.named["a number that the recipe does not make: the server makes its own"] += yours[2] and not mine[4]["valid_action"]
    mine = ours.step(command)
    return score.hold("observation", meaning(mine[0]), meaning(yours[0]), told) & score.hold("reward", mine[1:4], yours[1:4], told)


def _can(ours, action):
    return action in ours.admissible_actions()


def _ours_on_purpose(score, ours, theirs, last, told):
    """What the pages name: several times at once, and capitals; either is refused by the server and changes nothing there."""
    count, item, used = re.fullmatch(r"craft (\d+) (.+?) using (.+)", last).groups()
    twice = ", ".join(f"{2 * int(part.split()[0])} {part.split(' ', 1)[1]}" for part in used.split(", "))
    state = ours.snapshot()
    for part in used.split(", "):
        if part.split(" ", 1)[1] in ours.book.base:
            ours.step(f"get {part}")
    enough = all(ours._inventory[part.split(" ", 1)[1]] >= 2 * int(part.split()[0]) for part in used.split(", "))
    several = ours.step(f"craft {2 * int(count)} {item} using {twice}")[4]["valid_action"] if enough else None
    ours.restore(state)
    base = next(iter(sorted(ours.book.base)))
    capital = ours.step(f"Get 1 {base}")[4]["valid_action"]
    ours.restore(state)
    theirs_several = theirs.step(f"craft {2 * int(count)} {item} using {twice}")[4]["valid_action"] if several else False
    theirs_capital = theirs.step(f"Get 1 {base}")[4]["valid_action"]
    score.named["several times at once: ours alone"] += several is True and not theirs_several
    score.named["capitals: ours alone"] += capital and not theirs_capital
    return score.hold("purpose", (several or False, capital), (bool(several), True), told)


def meaning(text):
    """What an answer says, in the words of neither."""
    plain = " ".join(text.replace("minecraft:", "").replace("_", " ").split())
    if plain.startswith("Inventory:"):
        bracketed = {item: int(n) for item, n in re.findall(r"\[(.+?)\] \((\d+)\)", plain)}
        return (
            ("inventory", bracketed)
            if bracketed
            else ("inventory", {item: int(n) for n, item in re.findall(r"(\d+) ([^,]+)", plain.removeprefix("Inventory:"))})
        )
    for pattern, kind in MEANINGS:
        if found := re.fullmatch(pattern, plain) or (re.match(pattern, plain) if kind == "not enough for" else None):
            return (kind, *found.groups())
    return (plain,)
