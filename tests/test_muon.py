"""Muon beside AdamW: who has which weights, what torch's own would do, steps left out, going on."""
import pytest
import torch

import distill
from model import LM, ModelConfig
from onecoach import files, needs, run
from onecoach.config import UserError
from runs import lines, trained

pytestmark = pytest.mark.usefixtures("evaluated")

MUON = dict(optimizer="muon", dropout=0.1)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return LM(ModelConfig(vocab_size=300, n_layer=2, n_head=2, d_model=16, d_ff=32))


@pytest.fixture
def optimizer(model, make_config):
    return distill.make_optimizer(model, make_config(optimizer="muon", weight_decay=0.3))


def gradients(model):
    for p in model.parameters():
        p.grad = torch.randn_like(p)


def test_muon_has_the_blocks_matrices_and_adamw_the_rest(model, optimizer):
    muon = {id(p) for p in optimizer.param_groups[0]["params"]}
    adamw = {id(p) for group in optimizer.param_groups[1:] for p in group["params"]}
    for name, p in model.named_parameters():
        of_muon = name.startswith("blocks.") and p.dim() == 2
        assert (id(p) in muon, id(p) in adamw) == (of_muon, not of_muon), name
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.3, 0.0]


@pytest.mark.parametrize("name, sizes", [
    ("attn.qkv", [16, 8, 8]), ("mlp.gate_up", [32, 32]), ("attn.proj", [16])])
def test_a_step_is_torchs_own_of_each_map_at_adamws_size(make_config, name, sizes):
    model = LM(ModelConfig(vocab_size=300, n_layer=2, n_head=2, n_kv_head=1, d_model=16, d_ff=32))
    optimizer = distill.make_optimizer(model, make_config(optimizer="muon", weight_decay=0.3))
    weight = model.get_parameter(f"blocks.0.{name}.weight")
    gradients(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    parts = [p.clone().requires_grad_() for p in weight.detach().split(sizes)]
    for part, grad in zip(parts, weight.grad.split(sizes)):
        part.grad = grad.clone()
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    optimizer.found_inf = torch.zeros(())
    optimizer.step()
    torch.optim.Muon(parts, lr=0.01, weight_decay=0.3, adjust_lr_fn="match_rms_adamw").step()
    assert torch.equal(weight, torch.cat(parts))
    for part, old in zip(parts, before[f"blocks.0.{name}.weight"].split(sizes)):
        change = part.detach() - old * (1 - 0.01 * 0.3)
        assert 0.1 < change.square().mean().sqrt() / 0.01 < 0.4  # AdamW's is near .2
    assert all(not torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_it_learns(tiny):
    folder = trained(tiny("some", **MUON, max_steps=30))
    losses_seen = [line["loss"] for line in lines(folder, "loss")]
    assert losses_seen[-1] < losses_seen[0] - 0.5


def test_a_checkpoint_of_another_optimizer_is_refused(tiny):
    settings = tiny("some", max_steps=6, val_every=2)
    trained(settings)
    path = settings.folder / "ckpt.pt"
    state = files.load_checkpoint(path)
    model = LM(ModelConfig(vocab_size=len(state["model"]["embed.weight"]), n_layer=1, n_head=2,
                           d_model=16, d_ff=32, block_size=16))
    model.load_state_dict(state["model"])
    optimizer = distill.make_optimizer(model, tiny("other", optimizer="muon"))
    with pytest.raises(UserError, match="optimizer or random state"):
        run.put_state(state, model, optimizer, torch.amp.GradScaler("cpu", enabled=False),
                      run.Meter(torch.device("cpu")), path)


@pytest.mark.parametrize("optimizer, has, said", [("muon", False, 1), ("muon", True, 0),
                                                  ("adamw", False, 0)])
def test_a_processor_without_bf16_is_said_before_teachers_are_trained(
        tiny, monkeypatch, capsys, optimizer, has, said):
    monkeypatch.setattr(needs, "has_bf16", lambda device: has)
    tiny("coach")
    trained(tiny("some", optimizer=optimizer, teachers=["coach"], max_steps=1))
    shown = capsys.readouterr().out
    assert shown.count("multiplies in bfloat16") == said
    if said:
        assert shown.index("multiplies in bfloat16") < shown.index("training it first")
