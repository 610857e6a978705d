"""DPO on pairs of an episode store: which tokens count, the loss against the formula, real training, and what is refused."""

import json
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from launching import here, module

from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.data.episode import Status
from openrlhf_agentprm.data.pairs import EpisodePair, EpisodePairs, Pair, PairsSidecar
from openrlhf_agentprm.data.store import EpisodeStore, EpisodeWriter
from openrlhf_agentprm.host.dpo import PairDataset, _Rows, _trainer_of_pairs

pytestmark = pytest.mark.host
PADDED = SimpleNamespace(pad_token_id=0)


@pytest.fixture(scope="module")
def forked(sampled_store, tmp_path_factory):
    """Episodes of three turns and more, each with a twin whose second action is another; pairs of these actions, and of the episodes."""
    folder = tmp_path_factory.mktemp("forked")
    steps, whole = [], []
    with EpisodeWriter(folder / "store") as writer:
        for e in EpisodeStore(sampled_store).episodes():
            if not (e.status.has_outcome and len(e.turns) >= 3):
                continue
            first, second = e.turns[:2]
            other = next(t for t in e.turns if t.action != second.action) if any(t.action != second.action for t in e.turns) else None
            if other is None:
                continue
            tokens = e.token_ids[: second.action_start] + e.token_ids[other.action_start : other.action_end]
            turns = [first, replace(second, action=other.action, action_end=len(tokens))]
            twin = replace(
                e, token_ids=tokens, logprobs=e.logprobs[: second.action_start] + [0.0] * (len(tokens) - second.action_start), turns=turns,
                status=Status.FAILURE, outcome=0.0, sample=e.sample + 100, episode_id="",
            )  # fmt: skip
            for one in (e, twin):
                writer.add(one)
            steps.append(Pair(e.episode_id, 1, twin.episode_id, 1, 0.5, 1.0))
            whole.append(EpisodePair(e.episode_id, twin.episode_id, 0.5))
    assert len(steps) >= 16
    PairsSidecar.of(steps, {}, {}).save(folder / "steps", {"method": "relabel"})
    EpisodePairs(whole).save(folder / "whole", {"method": "ranked_pairs"})
    return folder


def marked(ids, mask):
    """The tokens that the mask's predicting positions predict."""
    return [ids[i + 1] for i in range(len(ids) - 1) if mask[i]]


def test_the_tokens_that_count_are_those_of_the_actions(forked):
    episodes = {e.episode_id: e for e in EpisodeStore(forked / "store").episodes()}
    of_steps = PairDataset(_Rows(str(forked / "store"), str(forked / "steps")), PADDED, 128)
    of_wholes = PairDataset(_Rows(str(forked / "store"), str(forked / "whole")), PADDED, 128)
    for data, all_turns in ((of_steps, False), (of_wholes, True)):
        for index, sides in enumerate(data.pairs):
            chosen, _, rejected, _, masks = data[index]
            for ids, mask, side in zip((chosen, rejected), masks, sides, strict=True):
                e = episodes[side.episode.episode_id]
                actions = e.turns if all_turns else e.turns[1:2]
                assert ids[0].tolist() == e.token_ids[: (len(e.token_ids) if all_turns else e.turns[1].action_end)]
                assert marked(ids[0].tolist(), mask.tolist()) == [t for a in actions for t in e.token_ids[a.action_start : a.action_end]]
            if not all_turns:
                start = sides[0].episode.turns[1].action_start
                assert chosen[0, :start].tolist() == rejected[0, :start].tolist(), "one state"


def test_the_loss_is_the_formulas(forked, tiny):
    """Chosen and rejected log-probabilities of a batch, as the host's trainer takes them, beside a loop over the masked tokens."""
    from openrlhf.models import Actor
    from openrlhf.trainer.dpo_trainer import DPOTrainer

    model = Actor(str(tiny), attn_implementation="sdpa", param_dtype="fp32")
    trainer = object.__new__(_trainer_of_pairs(DPOTrainer))
    trainer.strategy, trainer.tokenizer = SimpleNamespace(ring_attn_group=None), PADDED
    data = PairDataset(_Rows(str(forked / "store"), str(forked / "whole")), PADDED, 128)
    items = sorted((data[i] for i in range(6)), key=lambda item: item[0].shape[1])
    chosen, c_mask, rejected, r_mask, masks = data.collate_fn(items)
    assert chosen.shape[1] != rejected.shape[1], "the sides are padded apart"
    with torch.no_grad():
        better, worse, _, nll = trainer.concatenated_forward(model, chosen, c_mask, rejected, r_mask, masks)
        for found, column, at in ((better, 0, 0), (worse, 2, 1)):
            for row, item in enumerate(items):
                ids = item[column]
                logp = model.model(ids).logits.log_softmax(-1)[0]
                wanted = sum(float(logp[i, ids[0, i + 1]]) for i in range(ids.shape[1] - 1) if item[4][at][i])
                assert float(found[row]) == pytest.approx(wanted, abs=1e-4)
    means = [float(b) / float(item[4][0].sum()) for b, item in zip(better, items, strict=True)]
    assert float(nll) == pytest.approx(-sum(means) / len(means), abs=1e-5)


def trained(tiny, forked, pairs, folder, *flags):
    line = [
        "--model.model_name_or_path", tiny, "--data.dataset", forked / "store", "--data.pairs", forked / pairs, "--data.max_len", 128,
        "--ckpt.output_dir", folder / "out", "--train.batch_size", 8, "--train.micro_batch_size", 4, "--train.max_epochs", 2, "--adam.lr", 1e-3,
        "--model.beta", 0.1, "--ds.zero_stage", 0, "--ds.param_dtype", "fp32", "--ckpt.path", folder / "state", *flags,
    ]  # fmt: skip
    done = module("train_dpo", *line)
    return [float(x) for x in re.findall(r"loss=([\d.e+-]+)", done.stderr)]


def preference(model, forked, pairs):
    """Mean difference of the chosen and the rejected side's log-probability over the tokens that count."""
    from transformers import AutoModelForCausalLM

    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    data = PairDataset(_Rows(str(forked / "store"), str(forked / pairs)), PADDED, 128)
    total = 0.0
    for index in range(len(data)):
        chosen, _, rejected, _, masks = data[index]
        for sign, ids, mask in ((1, chosen, masks[0]), (-1, rejected, masks[1])):
            with torch.no_grad():
                logp = policy(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
            total += sign * float((logp * mask[:-1]).sum())
    return total / len(data)


@pytest.mark.parametrize("pairs", ["steps", "whole"])
def test_a_policy_learns_to_prefer_the_better_side(pairs, forked, tiny, tmp_path):
    losses = trained(tiny, forked, pairs, tmp_path, "--eval.dataset", forked / "store", "--eval.pairs", forked / pairs)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-3), "the policy starts as its reference"
    assert losses[-1] < losses[0] - 0.01
    assert preference(tmp_path / "out", forked, pairs) > preference(tiny, forked, pairs) + 0.5
    assert json.loads((tmp_path / "out/config.json").read_text())["architectures"] == ["Qwen3ForCausalLM"]


def test_what_cannot_be_trained_on_is_told_at_once(forked, tiny, sampled_store, tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text/data.jsonl").write_text('{"chosen": "a", "rejected": "b"}\n')
    line = ["--model.model_name_or_path", tiny, "--ckpt.output_dir", tmp_path / "out"]
    bare = here("train_dpo", *line, "--data.dataset", forked / "store")
    assert bare.returncode == 2 and "has no pairs by itself: give --data.pairs" in bare.stderr
    text = here("train_dpo", *line, "--data.dataset", tmp_path / "text", "--data.pairs", forked / "steps", "--modl.beta", 1)
    assert text.returncode == 2 and "did you mean '--model.beta'?" in text.stderr
    text = here("train_dpo", *line, "--data.dataset", tmp_path / "text", "--data.pairs", tmp_path / "no")
    assert text.returncode == 2 and "is of episode stores" in text.stderr and "holds no finished labels" in text.stderr
    with pytest.raises(UserError, match="that .* does not hold; was it made for another store?"):
        _Rows(str(sampled_store), str(forked / "whole"))
    pair = Pair(*[(e := next(EpisodeStore(forked / "store").episodes())).episode_id, 0, e.episode_id, 1], 0.5, 0.5)
    PairsSidecar.of([pair], {}, {}).save(tmp_path / "weighted", {"method": "relabel"})
    with pytest.raises(UserError, match="DPO counts all alike"):
        _Rows(str(forked / "store"), str(tmp_path / "weighted"))
    with pytest.raises(UserError, match=r"0 pairs of .* can be used, of \d+ \(\d+ are longer than --data.max_len 8\)"):
        PairDataset(_Rows(str(forked / "store"), str(forked / "whole")), PADDED, 8)
