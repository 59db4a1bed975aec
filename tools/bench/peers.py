"""The alternatives to this project, for tools.bench. A call imports the package that it needs.

The loss with materialised logits and by Liger, TRL and orda-kernel, a distillation step in
transformers, a tokenizer by Hugging Face tokenizers, sentence scores by minicons. LOSSES and STEPS
name the variants that have a row: none is the best on every machine.
"""
import functools
import itertools

import numpy as np
import torch
import torch.nn.functional as F

from bpe import PATTERN, SPECIAL
from onecoach.run import DTYPES, autocast
from tools.bench import measure
from tools.hf.weights import to_theirs

TAU = 2.0
ALPHA = 0.5


# ---------------------------------------------------------------- the loss
# Of the student's states h (N, d) and head W (V, d), the teacher's h_p and W_p, labels y (N,):
# alpha CE + (1 - alpha) tau^2 KL(q||p).

def materialised(h, W, h_p, W_p, y):
    z_q = h @ W.T  # (N, V)
    z_p = h_p @ W_p.T
    log_q = F.log_softmax(z_q / TAU, -1)
    log_p = F.log_softmax(z_p / TAU, -1)
    rkl = (log_q.exp() * (log_q - log_p)).sum(-1).mean()
    return ALPHA * F.cross_entropy(z_q, y) + (1 - ALPHA) * TAU**2 * rkl


def liger(h, W, h_p, W_p, y, compiled=False):
    """Liger's generalised Jensen-Shannon divergence: at beta 1 reverse KL, without tau^2.

    On a CPU chunks of 256 positions: they are faster and smaller than the default of 1024.
    """
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss
    jsd = LigerFusedLinearJSDLoss(weight_hard_loss=ALPHA, weight_soft_loss=(1 - ALPHA) * TAU**2,
                                  beta=1.0, temperature=TAU, compiled=compiled,
                                  chunk_size=256 if h.device.type == "cpu" else 1024)
    return jsd(h, W, h_p, W_p, y)


def trl(h, W, h_p, W_p, y):
    """TRL's kernels of DistillationTrainer (beta 1) and, for the CE, of SFTTrainer.

    Triton's on a GPU, torch's on a CPU; both by 4096 positions and 32768 tokens, as shipped.
    """
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction
    log_q_y, *_ = ChunkedLogProbFunction.apply(h, W, None, y, 1.0, 32768, None, 1.0, ())
    rkl, _ = ChunkedDivergenceFunction.apply(h, W, None, h_p, W_p, None, 1.0, TAU)  # (N,)
    return -ALPHA * log_q_y.mean() + (1 - ALPHA) * TAU**2 * rkl.mean()


def orda(h, W, h_p, W_p, y):
    """Triton on a GPU; on a CPU its reference, whose logits are materialised (it warns of that)."""
    from orda_kernel import SeparateTeacher, distillation_loss
    return distillation_loss(h, W, y, SeparateTeacher(h_p, W_p), student_ce_weight=ALPHA,
                             kl_weight=1 - ALPHA, kl_temperature=TAU,  # times tau^2 by itself
                             kl_divergence="reverse").loss


LOSSES = {"materialised": materialised,
          "liger": liger,
          "liger, compiled": functools.partial(liger, compiled=True),
          "trl": trl,
          "orda": orda}


# ---------------------------------------------------------------- the step
# Of transformers' student and teacher on ids x (B, T) and what comes next, y (B, T).

def baby_llama_loss(student, teacher, x, y):
    """As it is computed there (arXiv 2308.02019): forward KL (batchmean), materialised logits."""
    out = student(input_ids=x, labels=x)  # which it shifts by itself
    with torch.no_grad():
        z_p = teacher(input_ids=x).logits
    kl = F.kl_div(F.log_softmax(out.logits / TAU, -1), F.softmax(z_p / TAU, -1),
                  reduction="batchmean")
    return ALPHA * out.loss + (1 - ALPHA) * TAU**2 * kl


def states(lm, x):
    """Return the hidden states under the head, (B T, d)."""
    return lm.model(input_ids=x).last_hidden_state.flatten(0, 1)


def liger_loss(student, teacher, x, y, states=states, compiled=False):
    """Reverse KL of the states and heads, as `liger`; compiled: Liger's part."""
    h = states(student, x)
    with torch.no_grad():
        h_p = states(teacher, x)
    return liger(h, student.lm_head.weight, h_p, teacher.lm_head.weight, y.flatten(), compiled)


STEPS = {  # functions that return a loss; Liger's is compiled apart from the models
    "transformers": lambda: baby_llama_loss,
    "transformers, compiled": lambda: torch.compile(baby_llama_loss),
    "transformers, liger": lambda: liger_loss,
    "transformers, liger, compiled": lambda: functools.partial(
        liger_loss, states=torch.compile(states), compiled=True)}


def hf_step(name, dtype, sizes, vocab_size, B, T):
    """() -> None: one step of STEPS on B x T random tokens; sizes: of student and teacher."""
    student = hf_llama(sizes[0], vocab_size, 2 * T).to(measure.device)
    teacher = hf_teacher(vocab_size, 2 * T, dtype, **sizes[1])
    optimizer = torch.optim.AdamW(student.parameters(), lr=2.5e-4, weight_decay=0.1, fused=True)
    loss_of = STEPS[name]()

    def once():
        ids = torch.randint(0, vocab_size, (B, T + 1), device=measure.device)
        with autocast(dtype, measure.device):
            loss = loss_of(student, teacher, ids[:, :-1], ids[:, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return once


def hf_llama(sizes, vocab_size, positions):
    """A LlamaForCausalLM of the sizes {d_model, n_layer, d_ff, n_head}."""
    from transformers import LlamaConfig, LlamaForCausalLM
    config = LlamaConfig(vocab_size=vocab_size, hidden_size=sizes["d_model"],
                         num_hidden_layers=sizes["n_layer"], intermediate_size=sizes["d_ff"],
                         num_attention_heads=sizes["n_head"], max_position_embeddings=positions)
    return LlamaForCausalLM(config)


@functools.cache
def hf_teacher(vocab_size, positions, dtype, **sizes):
    """A frozen LlamaForCausalLM, one for all steps."""
    teacher = hf_llama(sizes, vocab_size, positions).to(measure.device, DTYPES[dtype])
    return teacher.eval().requires_grad_(False)


# ---------------------------------------------------------------- the tokenizer

def hf_bpe(texts, vocab_size, out):
    """() -> None: train on the texts {domain: file}, and write their ids (uint16) to `out`.

    vocab_size 0: merge until no pair is left.
    """
    def once():
        tokenizer = hf_tokenizer(texts, vocab_size)
        with open(out, "wb") as f:
            for file in texts.values():
                with open(file, encoding="utf-8", newline="\n") as text:
                    while lines := text.readlines(1 << 22):
                        encodings = tokenizer.encode_batch_fast(lines)
                        ids = itertools.chain.from_iterable(e.ids for e in encodings)
                        f.write(np.fromiter(ids, np.uint16).tobytes())
    return once


def hf_tokenizer(texts, vocab_size):
    """tokenizers.Tokenizer, trained on our pre-tokens with our special tokens."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    trainer = trainers.BpeTrainer(vocab_size=vocab_size or 10**6, special_tokens=list(SPECIAL),
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  show_progress=False)
    tokenizer.train([str(file) for file in texts.values()], trainer)
    return tokenizer


# ---------------------------------------------------------------- scoring

def minicons_score(lm, tokenizer, sentences):
    """() -> (n,) log p(sentence | <s>) by minicons, of a transformers model with lm's weights.

    tokenizer: a tokenizer.json.
    """
    from minicons import scorer
    from transformers import PreTrainedTokenizerFast
    fast = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer), bos_token="<s>", eos_token="</s>",
                                   pad_token="<pad>")
    scores = scorer.IncrementalLMScorer(hf_copy(lm).eval(), str(measure.device), tokenizer=fast)

    def once():
        sums = []
        for start in range(0, len(sentences), 32):  # `<s>` comes by the tokenizer itself
            sums += scores.sequence_score(sentences[start:start + 32],
                                          reduction=lambda log_probs: log_probs.sum().item())
        return torch.tensor(sums, dtype=torch.float64)
    return once


def hf_copy(lm):
    """A LlamaForCausalLM with the weights of a model.LM of arch llama."""
    config = lm.config
    model = hf_llama(vars(config), config.vocab_size, 2 * config.block_size)
    model.load_state_dict(to_theirs(lm.state_dict(), config))
    return model
