"""A PRM trained on fresh episodes: its updates on real models, by one process and by two, resumed, judged on held-out tasks, saved."""

import argparse
import copy
from types import SimpleNamespace

import pytest
import torch
import torch.multiprocessing as mp

from openrlhf_agentprm.agents.chat import load_tokenizer
from openrlhf_agentprm.core.arguments import nest
from openrlhf_agentprm.data.episode import Episode, Status, Turn
from openrlhf_agentprm.host.online import episodes_of, save_finished
from openrlhf_agentprm.host.online_flags import add_online_flags, flags_of
from openrlhf_agentprm.host.samples import Ending
from openrlhf_agentprm.prm.dataset import collate, split_by_task
from openrlhf_agentprm.prm.kinds.implicit import ImplicitPRM
from openrlhf_agentprm.prm.kinds.language_model import load_language_model
from openrlhf_agentprm.prm.model import save_prm, start_from
from openrlhf_agentprm.prm.online import OnlinePRM, OnlineSettings
from openrlhf_agentprm.prm.record import Record
from openrlhf_agentprm.prm.scoring import load_reward_model

pytestmark = pytest.mark.usefixtures("one_thread")


def played(number=24, seed=0, tasks=6):
    """Episodes of one to four turns; the token at the end of a success's actions is another than a failure's."""
    g = torch.Generator().manual_seed(seed)
    found = []
    for n in range(number):
        won, turns = float(torch.randint(2, (1,), generator=g)), int(torch.randint(1, 5, (1,), generator=g))
        ids, spans = torch.randint(5, 270, (3,), generator=g).tolist(), []
        for _ in range(turns):
            start = len(ids)
            ids += [*torch.randint(5, 270, (1 + n % 2,), generator=g).tolist(), 280 if won else 285]
            spans.append((start, len(ids)))
            ids += torch.randint(5, 270, (2,), generator=g).tolist()
        found.append(
            Episode(
                env="", task_id=f"t{n % tasks}", split="train", seed=0, sample=n, policy="", policy_digest="", sampling={},
                status=Status.SUCCESS if won else Status.FAILURE, outcome=won, terminated=True, truncated=False,
                token_ids=ids[: spans[-1][1]], turns=[Turn("", "", a, b) for a, b in spans], episode_id=f"e{seed}-{n}",
            )
        )  # fmt: skip
    return found


@pytest.fixture(scope="module")
def scalar(bpe_policy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("online") / "scalar"
    save_prm(start_from(str(bpe_policy), dtype="fp32"), load_tokenizer(str(bpe_policy)), folder, Record(method="td_gae"))
    return folder


@pytest.fixture(scope="module")
def implicit(bpe_policy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("online") / "implicit"
    args = SimpleNamespace(
        model=SimpleNamespace(model_name_or_path=str(bpe_policy)),
        ckpt=SimpleNamespace(output_dir=str(folder)),
        loss=SimpleNamespace(implicit_beta=0.5, implicit_reference=None, implicit_output="sigmoid"),
    )
    record = ImplicitPRM.recorded(args)
    record["options"] |= {"implicit_beta": 0.5, "implicit_output": "sigmoid"}
    save_prm(load_language_model(str(bpe_policy)), load_tokenizer(str(bpe_policy)), folder, Record(kind="implicit", **record))
    return folder


def arguments(path, *flags):
    parser = argparse.ArgumentParser()
    add_online_flags(parser.add_argument_group())
    args = nest(parser.parse_args(["--prm.update_every", "1", *flags]))
    args.prm.model_name_or_path, args.prm.param_dtype = str(path), "fp32"
    args.train, args.ckpt = SimpleNamespace(seed=0), SimpleNamespace(output_dir="out")
    return args


def online(path, kind, *flags, dtype="fp32", **settings):
    chosen = flags_of(arguments(path, *flags), kind, Record.load(path))
    given = {"lr": 1e-3, "epochs": 1, "batch_size": 8, "micro_batch_size": 4, "seed": 1} | settings
    return OnlinePRM(load_reward_model("auto", str(path), dtype=dtype), OnlineSettings(chosen, **given))


def scores(trained, episodes):
    return trained.prm.score(collate(episodes)).q_BK


@pytest.mark.parametrize("kind", ["scalar", "implicit"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_it_learns_from_outcomes_and_scores_differ_before_and_after(kind, dtype, request):
    trained, episodes = online(request.getfixturevalue(kind), kind, "--label.name", "outcome_all", dtype=dtype) if kind == "scalar" else online(
        request.getfixturevalue(kind), kind, dtype=dtype), played()  # fmt: skip
    before = scores(trained, episodes)
    losses = [trained.update(episodes)["loss"] for _ in range(8)]
    assert losses[-1] < 0.6 * losses[0], losses
    after = scores(trained, episodes)
    assert not torch.equal(before, after) and trained.done["updates"] == 8 and trained.done["steps"] == 24
    assert trained.figures(played(seed=1))["auc_last"] > 0.8, "what is learnt holds for other episodes"


def test_labels_are_made_of_the_current_model(scalar):
    """With λ = 0 and no value term a td_gae label is the model's own score but for the last turn: nothing else is moved by the loss."""
    trained, episodes = online(scalar, "scalar", "--label.lambd", "0", "--loss.value_coef", "0", "--loss.beta", "0"), played()
    last = sum(float((scores(trained, [e])[0, len(e.turns) - 1] - e.outcome) ** 2) for e in episodes)
    turns = sum(len(e.turns) for e in episodes)
    trained.settings.batch_size = len(episodes)
    assert trained.update(episodes)["loss"] == pytest.approx(0.5 * last / turns, rel=1e-4)


def test_neither_micro_batches_nor_processes_change_it(scalar, tmp_path):
    """Two processes by gloo, with an uneven share, one of them with nothing in the last batch.

    Short steps: Adam's first ones are as long for the rounding of a vanishing gradient as for a gradient.
    """
    episodes = played(13)
    alone = online(scalar, "scalar", batch_size=4, micro_batch_size=13, lr=1e-4)
    rows = [alone.update(part) for part in (episodes, episodes[:1])]
    mp.spawn(_of_two, (str(scalar), str(tmp_path)), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for found in parts:
        torch.testing.assert_close(found["scores"], scores(alone, episodes), rtol=0, atol=1e-5)
        for row, other in zip(rows, found["rows"], strict=True):
            assert other == pytest.approx(row, rel=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(parts[0]["weights"], parts[1]["weights"], strict=True))


def _of_two(rank, scalar, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    trained, episodes = online(scalar, "scalar", batch_size=4, micro_batch_size=2, lr=1e-4), played(13)
    rows = [trained.update(part) for part in (episodes, episodes[:1])]
    torch.save({"scores": scores(trained, episodes), "rows": rows, "weights": trained.masters}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_resumed_training_is_the_one_that_was_not_interrupted(scalar, dtype, tmp_path):
    whole = online(scalar, "scalar", dtype=dtype, eval_share=0.3, patience=9)
    rows = [whole.update(played(seed=s)) for s in range(2)]
    torch.save(whole.state(), tmp_path / "state.pt")
    rows += [whole.update(played(seed=s)) for s in range(2, 4)]
    again = online(scalar, "scalar", dtype=dtype, eval_share=0.3, patience=9)
    again.load_state(torch.load(tmp_path / "state.pt"))
    assert [again.update(played(seed=s)) for s in range(2, 4)] == rows[2:]
    assert all(torch.equal(a, b) for a, b in zip(whole.weights, again.weights, strict=True))


def test_it_goes_back_to_its_best_weights_to_the_bit_and_stays_there(scalar):
    """What is held out is of other tasks; a huge step makes it worse."""
    episodes = played(48, tasks=12)
    trained = online(scalar, "scalar", "--label.name", "outcome_all", eval_share=0.4, patience=2)
    training, held_out = split_by_task(episodes, 0.4)
    found = [trained.update(episodes) for _ in range(2)][-1]
    assert found["episodes"] == len(training) and found["held_out"] == len(held_out) > 0 and found["best_update"] == 2
    best = [w.detach().clone() for w in trained.weights]
    trained.optimizer.param_groups[0]["lr"] = 1.0
    stale = trained.update(episodes)
    assert (stale["stale"], stale["stopped"]) == (1, 0) and not torch.equal(best[0], trained.weights[0])
    ended = trained.update(episodes)
    assert ended["stopped"] == 1 and ended["best_update"] == 2
    assert all(torch.equal(a, b) for a, b in zip(best, trained.weights, strict=True))
    assert "loss" not in trained.update(episodes) and all(torch.equal(a, b) for a, b in zip(best, trained.weights, strict=True))


def test_gradients_that_are_not_finite_move_nothing(scalar):
    trained, episodes = online(scalar, "scalar"), played(8)
    trained.update(episodes)
    before = [w.detach().clone() for w in trained.weights]
    broken = copy.deepcopy(episodes)
    broken[3].outcome = float("inf")
    assert trained.update(broken)["skipped_steps"] == 1
    assert all(torch.equal(a, b) for a, b in zip(before, trained.weights, strict=True))


def rollout(endings, rewards):
    """Samples of two turns each, as the host's experience maker has them."""
    n = len(endings)
    numbers = torch.tensor([[0, 1, 1, 0, 2, 0, 0]]).repeat(n, 1)
    numbers[[i for i, e in enumerate(endings) if e is Ending.ENV_ERROR]] = 0  # a placeholder
    return SimpleNamespace(
        sequences=torch.arange(8).repeat(n, 1) + 10 * torch.arange(n)[:, None], turn_numbers=numbers, turn_rewards=numbers * 0.5,
        ending=torch.tensor([int(e) for e in endings]), rewards=torch.tensor(rewards), prompts=["a", "a", "b", "b", "b"][:n], labels=["1"] * n,
    )  # fmt: skip


def test_what_has_no_outcome_is_not_learnt_from():
    endings = [Ending.SUCCESS, Ending.TRUNCATED, Ending.ENV_ERROR, Ending.CONTEXT_OVERFLOW, Ending.UNKNOWN]
    args = SimpleNamespace(reward=SimpleNamespace(clip_range=(-1.0, 1.0)))
    first, cut, other = episodes_of(args, [rollout(endings, [3.0, 0.0, 0.0, 0.0, 1.0])], 7)
    assert [(t.action_start, t.action_end, t.reward) for t in first.turns] == [(2, 4, 0.5), (5, 6, 1.0)]
    assert first.token_ids == [0, 1, 2, 3, 4, 5] and first.outcome == 1.0, "up to its last action; clipped as for advantages"
    assert first.task_id == cut.task_id != other.task_id and len({e.episode_id for e in (first, cut, other)}) == 3
    assert cut.truncated and not cut.terminated and cut.status is Status.TRUNCATED and other.terminated


@pytest.mark.parametrize("kind", ["scalar", "implicit"])
def test_the_finished_checkpoint_scores_as_the_trained_model_and_says_how_it_was_made(kind, request, tmp_path):
    path = request.getfixturevalue(kind)
    trained, episodes = online(path, kind), played()
    trained.update(episodes)
    expected = scores(trained, episodes)
    args = arguments(path)
    save_finished(trained, args, str(tmp_path / "prm"))
    again = load_reward_model("auto", str(tmp_path / "prm"))
    torch.testing.assert_close(again.score(collate(episodes)).q_BK, expected, rtol=0, atol=1e-5)
    record = Record.load(tmp_path / "prm")
    assert record.kind == kind and record.options["online"]["updates"] == 1 and record.options["online"]["start"] == str(path)
