"""Games for AgentGym's ALFWorld server where ALFWorld's own cannot be downloaded: generated ones, laid out as the server looks for them.

    python tests/benchmarks/side_by_side_games.py HOME/.cache/alfworld agentenv-alfworld/configs [--tasks 12] [--logic alfworld-0.3.3/alfworld/data]

Fills the first folder with games and `logic/`, and writes the mappings in the second, which is a copy of the server's configs: number N of
the server is row N of mappings_train.json. With `--logic`, the two files of another release of ALFWorld, every game comes a second time with that
release's rules and texts. The server looks in `~/.cache/alfworld`, so start it with HOME set.
"""

import argparse
import json
import shutil
from pathlib import Path

import alfworld

from openrlhf_agentprm.envs.alfworld.engine import Engine
from openrlhf_agentprm.envs.alfworld.household import TASK_TYPES
from openrlhf_agentprm.envs.alfworld.library import open_library

FILES = {"pddl_domain": "alfred.pddl", "grammar": "alfred.twl2"}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("configs", type=Path)
    parser.add_argument("--tasks", type=int, default=12)
    parser.add_argument("--logic", type=Path)
    args = parser.parse_args()
    library = open_library("generated", None, str(args.data / "made"), TASK_TYPES, {"train": args.tasks}, 0)
    engine, rows = Engine(), []
    for suffix, logic in (("", None), ("-other", args.logic)):
        for task in library.tasks("train") if logic or not suffix else ():
            name, seed = task.split("/")
            folder = args.data / "json_2.1.1" / "train" / name / f"{seed}{suffix}"
            shutil.copytree(library.find(task, engine).parent, folder, dirs_exist_ok=True)
            if logic:
                game = json.loads((folder / "game.tw-pddl").read_text())
                game |= {key: (logic / file).read_text() for key, file in FILES.items()}
                (folder / "game.tw-pddl").write_text(json.dumps(game))
            rows.append({"item_id": len(rows), "task_type": name, "task_id": folder.name})
    (args.configs / "mappings_train.json").write_text(json.dumps(rows, indent=1))
    (args.configs / "mappings_test.json").write_text("[]")
    (args.data / "logic").mkdir(exist_ok=True)
    for file in FILES.values():
        shutil.copy((args.logic or Path(alfworld.__file__).parent / "data") / file, args.data / "logic" / file)
    print(f"{len(rows)} games in {args.data}")


if __name__ == "__main__":
    main()
