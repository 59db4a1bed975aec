"""What a user would run instead, as small functions for tools.bench. Each imports its package when it is called.

The loss with materialised logits and Liger's chunked one, a distillation step in transformers, a tokenizer by Hugging Face
tokenizers, and minicons' sentence scores.
"""
import itertools
import json
import time

import numpy as np
import torch
import torch.nn.functional as F

from bpe import CHARACTER, PATTERN, SPECIAL
from tools import measure

TAU, ALPHA = 2.0, 0.5


def materialised(h, W, h_p, W_p, y):
    z_q, z_p = h @ W.T, h_p @ W_p.T
    log_q, log_p = F.log_softmax(z_q / TAU, -1), F.log_softmax(z_p / TAU, -1)
    return ALPHA * F.cross_entropy(z_q, y) + (1 - ALPHA) * TAU**2 * (log_q.exp() * (log_q - log_p)).sum(-1).mean()


def liger(h, W, h_p, W_p, y):
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss
    jsd = LigerFusedLinearJSDLoss(weight_hard_loss=ALPHA, weight_soft_loss=1 - ALPHA, beta=1.0, temperature=TAU,
                                  compiled=False, chunk_size=256)
    out = jsd(h, W, h_p, W_p, y)
    return out[0] if isinstance(out, tuple) else out


def hf_llama(sizes, vocab_size, positions):
    """A LlamaForCausalLM of the sizes {d_model, n_layer, d_ff, n_head}."""
    from transformers import LlamaConfig, LlamaForCausalLM
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=vocab_size, hidden_size=sizes["d_model"], num_hidden_layers=sizes["n_layer"], intermediate_size=sizes["d_ff"],
        num_attention_heads=sizes["n_head"], max_position_embeddings=positions))


def hf_step(sizes, vocab_size, B, T):
    """() -> None: a Baby Llama step: fp32, forward KL (batchmean) of materialised logits; sizes: of student and teacher."""
    student, teacher = (hf_llama(s, vocab_size, 2 * T).to(measure.device) for s in sizes)
    teacher.eval()
    optimizer = torch.optim.AdamW(student.parameters(), lr=2.5e-4, weight_decay=0.1)

    def once():
        x = torch.randint(0, vocab_size, (B, T), device=measure.device)
        out = student(input_ids=x, labels=x)
        with torch.no_grad():
            z_p = teacher(input_ids=x).logits
        kl = F.kl_div(F.log_softmax(out.logits / TAU, -1), F.softmax(z_p / TAU, -1), reduction="batchmean") * TAU**2
        loss = ALPHA * out.loss + (1 - ALPHA) * kl
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return once


def hf_bpe(texts, vocab_size, out):
    """() -> seconds of training and encoding, and the merges as pairs of bytes; the ids (uint16) go to the file `out`."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    byte_of = {c: b for b, c in CHARACTER.items()}

    def once():
        start = time.perf_counter()
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(PATTERN), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        tokenizer.train([str(file) for file in texts.values()], trainers.BpeTrainer(
            vocab_size=vocab_size or 10**6, special_tokens=list(SPECIAL), show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
        trained = time.perf_counter()
        with open(out, "wb") as body:
            for file in texts.values():
                with open(file, encoding="utf-8", newline="\n") as f:
                    while lines := f.readlines(1 << 22):
                        ids = itertools.chain.from_iterable(e.ids for e in tokenizer.encode_batch_fast(lines))
                        body.write(np.fromiter(ids, np.uint16).tobytes())
        encoded = time.perf_counter()
        merges = json.loads(tokenizer.to_str())["model"]["merges"]
        return dict(train=trained - start, encode=encoded - trained), [
            tuple(bytes(byte_of[c] for c in part) for part in pair) for pair in merges]
    return once


def minicons_score(lm, tokenizer, sentences, device):
    """() -> (n,) log p(sentence | <s>) by minicons, of a transformers model with lm's weights; tokenizer: a tokenizer.json."""
    from minicons import scorer
    from transformers import PreTrainedTokenizerFast
    c, w = lm.config, lm.state_dict()
    model, weights = hf_llama(vars(c), c.vocab_size, 2 * c.block_size), {
        "model.embed_tokens.weight": w["embed.weight"], "lm_head.weight": w["head.weight"], "model.norm.weight": w["norm.weight"]}
    for i in range(c.n_layer):
        ours, theirs = f"blocks.{i}.", f"model.layers.{i}."
        parts = {f"self_attn.{name}_proj": part for name, part in zip("qkv", w[ours + "attn.qkv.weight"].chunk(3))}
        parts |= zip(("mlp.gate_proj", "mlp.up_proj"), w[ours + "mlp.gate_up.weight"].chunk(2))
        parts |= {name: w[f"{ours}{own}.weight"] for name, own in (
            ("self_attn.o_proj", "attn.proj"), ("mlp.down_proj", "mlp.proj"), ("input_layernorm", "norm1"),
            ("post_attention_layernorm", "norm2"))}
        weights |= {f"{theirs}{name}.weight": part for name, part in parts.items()}
    model.load_state_dict(weights)
    fast = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer), bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    scores = scorer.IncrementalLMScorer(model.eval(), str(device), tokenizer=fast)

    def once():
        return torch.tensor([s for i in range(0, len(sentences), 32) for s in scores.sequence_score(
            sentences[i:i + 32], reduction=lambda x: x.sum().item())], dtype=torch.float64)
    return once
