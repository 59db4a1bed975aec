"""Muon on the blocks' matrices, AdamW on all else: torch's two optimizers as one.

    optimizer = "muon"

Muon (arXiv 2502.16982; torch.optim.Muon) takes of a matrix's gradient the nearest orthogonal one.
Its update is scaled to the size of AdamW's (`match_rms_adamw`), so that one lr and one weight decay
are right for both. It multiplies in bfloat16 whatever the run's dtype: on a CPU without
instructions for that it is slow.
"""
import torch


class MuonAdamW(torch.optim.Optimizer):
    """Muon on the weights of `linears`, and an AdamW on all else, as one optimizer.

    The first parameter group is Muon's. Maps that model.Fused computes in one product (q, k and v;
    gate and up) are orthogonalised apart: Muon itself is given their rows, views of the weight.
    """

    _step_supports_amp_scaling = True  # to GradScaler: `step` heeds found_inf, as fused AdamW does

    def __init__(self, linears, weight_decay, adamw):
        matrices = [linear.weight for linear in linears]
        super().__init__([dict(params=matrices, weight_decay=weight_decay), *adamw.param_groups],
                         dict(lr=0.0))
        self.adamw = adamw
        self.parts = {}  # of each matrix
        for linear, matrix in zip(linears, matrices):
            sizes = getattr(linear, "sizes", [linear.out_features])
            self.parts[matrix] = [*map(torch.nn.Parameter, matrix.detach().split(sizes))]
            # here, or a checkpoint before the first step would lack it
            self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
        self.muon = torch.optim.Muon([part for parts in self.parts.values() for part in parts],
                                     lr=0.0, weight_decay=weight_decay,
                                     adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self):
        """Take a step; if the tensor found_inf is 1, leave everything as it is.

        AdamW's kernel does that itself. Muon has no such kernel, and reading found_inf would wait
        for the device: so its step is always taken, and then taken back if found_inf is 1.
        """
        self.adamw.state = self.state  # one state for both, also after load_state_dict
        self.adamw.param_groups = self.param_groups[1:]
        self.adamw.found_inf = self.found_inf
        self.adamw.step()

        skipped = self.found_inf.bool()
        for matrix, parts in self.parts.items():
            momentum = self.state[matrix]["momentum_buffer"]
            # a momentum that moves towards itself stays where it is
            grad = torch.where(skipped, momentum, matrix.grad)
            sizes = [len(part) for part in parts]
            for part, m, g in zip(parts, momentum.split(sizes), grad.split(sizes)):
                self.muon.state[part]["momentum_buffer"] = m
                part.grad = g
        before = [matrix.clone() for matrix in self.parts]
        self.muon.param_groups[0]["lr"] = self.param_groups[0]["lr"]
        self.muon.step()
        for matrix, old in zip(self.parts, before):
            matrix.copy_(torch.where(skipped, old, matrix))


def newton_schulz_flops(optimizer):
    """Count the floating-point operations of Muon's own matrix products in a step; AdamW has none.

    An iteration on X (m, n), m <= n, is A = X X', B = b A + c A A and a X + B X.
    """
    if not isinstance(optimizer, MuonAdamW):
        return 0
    total = 0
    [group] = optimizer.muon.param_groups
    for part in group["params"]:
        m, n = sorted(part.shape)
        total += group["ns_steps"] * (2 * m * m * n + 2 * m**3 + 2 * m * m * n)
    return total
