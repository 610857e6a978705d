"""Prompts that were given up are drawn again, each once, before the data loader's next."""

from types import SimpleNamespace

import pytest
import ray
import torch

from openrlhf_agentprm.host import spare_prompts


@pytest.fixture
def generator(monkeypatch):
    """Eight samples a batch, two of a prompt, and an engine that notes when it gives up."""
    told = []
    monkeypatch.setattr(ray, "get", lambda refs: refs)
    engine = SimpleNamespace(agentprm_give_up=SimpleNamespace(remote=lambda: told.append(1)))
    rollout = SimpleNamespace(batch_size=4, n_samples_per_prompt=2, vllm_generate_batch_size=4)
    args = SimpleNamespace(env=SimpleNamespace(name="e", spare_prompts=2), rollout=rollout)
    return SimpleNamespace(args=args, vllm_engines=[engine], told=told)


def batches(*names):
    return iter([(None, [name], [f"label of {name}"], [None]) for name in names])


def play(generator, loader, order):
    """A rollout whose prompts finish in this order, by their places; the prompts that were kept, and how many were not counted."""
    drawn = list(zip(range(4 + spare_prompts.number(generator.args)), spare_prompts.drawn(generator, loader), strict=False))
    prompts = [batch[1][0] for _, batch in drawn]
    pending = list(prompts)  # stand for the references
    spare_prompts.note(generator, pending, prompts, [batch[2][0] for _, batch in drawn], None)
    kept, accepted, uncounted = [], [], 0
    for place in order:
        if not pending:
            break
        pending.remove(prompts[place])
        kept.append(prompts[place])
        accepted += [SimpleNamespace(info={}) for _ in range(2)]
        pending, given_up = spare_prompts.enough(generator, loader, accepted, pending)
        uncounted += given_up
    return kept, uncounted, [float(e.info[spare_prompts.GIVEN_UP]) for e in accepted]


def test_every_prompt_is_trained_on_once(generator):
    loader = batches(*"abcdefghij")
    first = play(generator, loader, [5, 0, 3, 1, 2, 4])
    assert first == (list("fadb"), 2, [0, 0, 0, 0, 0, 0, 4, 0]) and generator.told == [1]
    second = play(generator, loader, [0, 1, 2, 3, 4, 5])
    assert second == (list("cegh"), 2, [0] * 6 + [4, 0]), "those given up come first"
    third = play(generator, loader, [0, 1])
    assert third == (list("ij"), 0, [0] * 4) and generator.told == [1, 1], "the last ones are waited for"


def test_nothing_is_given_up_in_an_evaluation_or_without_the_flag(generator):
    loader = generator._eval_dataloader_iter = batches(*"abcdef")
    assert spare_prompts.drawn(generator, loader) is loader
    assert spare_prompts.enough(generator, loader, [SimpleNamespace(info={})] * 8, ["x"]) == (["x"], 0)
    generator.args.env.spare_prompts = 0
    other = batches("a")
    assert spare_prompts.drawn(generator, other) is other and spare_prompts.number(generator.args) == 0
    assert spare_prompts.enough(generator, other, [SimpleNamespace(info={"kept": torch.zeros(1)})] * 8, ["x"]) == (["x"], 0)
