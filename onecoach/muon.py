"""Muon on the blocks' matrices, AdamW on all else: torch's two optimizers as one.

    optimizer = "muon"

Muon (arXiv 2502.16982; torch.optim.Muon) takes of a matrix's gradient the nearest orthogonal one.
Its update is scaled to the size of AdamW's (`match_rms_adamw`), so that one lr and one weight decay
are right for both. It multiplies in bfloat16 whatever the run's dtype: on a CPU without
instructions for that it is slow.
"""
import torch

from onecoach.config import UserError


class MuonAdamW:
    """A Muon and an AdamW as one optimizer, for the loop, GradScaler and a run's state.

    In state_dict Muon's parameters come first, as they do in param_groups.
    """

    _step_supports_amp_scaling = True  # to GradScaler: `step` heeds found_inf, as fused AdamW does

    def __init__(self, muon, adamw):
        self.muon = muon
        self.adamw = adamw
        for group in muon.param_groups:
            for p in group["params"]:  # or a checkpoint before the first step would lack them
                muon.state[p]["momentum_buffer"] = torch.zeros_like(p)

    @property
    def param_groups(self):
        return [*self.muon.param_groups, *self.adamw.param_groups]

    @torch.no_grad()
    def step(self):
        """Take a step, or leave everything as it is where the tensor found_inf is 1.

        AdamW's kernel does that itself. Muon has no such kernel, and reading found_inf would wait
        for the device: its step is taken in any case, and taken back where found_inf is 1.
        """
        self.adamw.found_inf = self.found_inf
        self.adamw.step()

        skipped = self.found_inf.bool()
        matrices = [p for group in self.muon.param_groups for p in group["params"]]
        before = [p.clone() for p in matrices]
        for p in matrices:  # a momentum that moves towards itself stays where it is
            p.grad = torch.where(skipped, self.muon.state[p]["momentum_buffer"], p.grad)
        self.muon.step()
        for p, old in zip(matrices, before):
            p.copy_(torch.where(skipped, old, p))

    def zero_grad(self, set_to_none=True):
        self.muon.zero_grad(set_to_none)
        self.adamw.zero_grad(set_to_none)

    def state_dict(self):
        muon = self.muon.state_dict()
        adamw = shifted(self.adamw.state_dict(), self.count())
        return {"state": muon["state"] | adamw["state"],
                "param_groups": muon["param_groups"] + adamw["param_groups"]}

    def load_state_dict(self, state):
        n = self.count()
        moments = state["state"]
        groups = state["param_groups"]
        first = len(self.muon.param_groups)
        muon = {"state": {i: moments[i] for i in moments if i < n}, "param_groups": groups[:first]}
        adamw = {"state": {i: moments[i] for i in moments if i >= n},
                 "param_groups": groups[first:]}
        self.muon.load_state_dict(muon)
        self.adamw.load_state_dict(shifted(adamw, -n))

    def count(self):
        """How many parameters are Muon's."""
        return sum(len(group["params"]) for group in self.muon.param_groups)


def shifted(state, n):
    """An optimizer's state dict with n added to each parameter's number."""
    return {"state": {i + n: moments for i, moments in state["state"].items()},
            "param_groups": [group | {"params": [i + n for i in group["params"]]}
                             for group in state["param_groups"]]}


def check_muon():
    """UserError where torch is too old to have Muon."""
    if not hasattr(torch.optim, "Muon"):
        raise UserError(f"optimizer = 'muon' needs torch >= 2.9, this is {torch.__version__}; "
                        "install a newer torch, or use --optimizer=adamw")


def make_muon(matrices, weight_decay):
    """torch.optim.Muon of 2-d parameters; UserError where torch is too old to have it."""
    check_muon()
    return torch.optim.Muon(matrices, lr=0.0, weight_decay=weight_decay,
                            adjust_lr_fn="match_rms_adamw")


def newton_schulz_flops(optimizer):
    """Count the floating-point operations of Muon's own matrix products in a step; AdamW has none.

    An iteration on X (m, n), m <= n, is A = X X', B = b A + c A A and a X + B X.
    """
    if not isinstance(optimizer, MuonAdamW):
        return 0
    total = 0
    for group in optimizer.muon.param_groups:
        for p in group["params"]:
            m, n = sorted(p.shape)
            total += group["ns_steps"] * (2 * m * m * n + 2 * m**3 + 2 * m * m * n)
    return total
