"""A run as a folder that transformers loads without code of ours."""
import pathlib

from onecoach import files
from onecoach.config import UserError
from onecoach.corpora import building
from onecoach.run import load, word_checkpoints
from tools.hf.card import card
from tools.hf.configs import config_json
from tools.hf.weights import safetensors, to_theirs


def export(folder, target, checkpoints=False):
    """Write the run in `folder` as a folder `target`, whole or not at all.

    checkpoints: also the checkpoints by words, each a folder in it. UserError if target exists.
    """
    folder, target = pathlib.Path(folder), pathlib.Path(target)
    safetensors()
    if target.exists():
        raise UserError(f"{target} is there already; remove it, or choose another DIR")
    kept = word_checkpoints(folder) if checkpoints else []
    if checkpoints and not kept:
        raise UserError(f"{folder} has no checkpoints by words; train it with "
                        "checkpoints = \"babylm\"")
    with building(target) as aside:
        export_one(folder, aside, "best")
        for which in kept:
            (aside / which).mkdir()
            export_one(folder, aside / which, which)
    print(f"{target} holds {', '.join([str(folder), *kept])}; "
          f"from_pretrained({str(target)!r}) loads it")


def export_one(folder, aside, which):
    lm, tokenizer, config = load(folder, which=which)
    tensors = to_theirs(lm.state_dict(), lm.config)
    with files.replacing(aside / "model.safetensors") as f:
        f.write(safetensors().torch.save(tensors, metadata={"format": "pt"}))

    ids = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "pad": tokenizer.pad_id}
    special = {f"{role}_token_id": i for role, i in ids.items()}
    # a model that has never gone on after a newline without `<s>` must stop there
    ends = [tokenizer.eos_id, tokenizer.newline_id] if config.mark == "line" else tokenizer.eos_id
    files.write_json(aside / "config.json", {**config_json(lm.config), **special,
                                             "torch_dtype": "float32"})
    files.write_json(aside / "generation_config.json", {**special, "eos_token_id": ends})

    names = tokenizer.tokens()
    tokens = {f"{role}_token": names[i].decode() for role, i in ids.items()}
    files.write_text(aside / "tokenizer.json", tokenizer.to_json())
    files.write_json(aside / "special_tokens_map.json", tokens)
    files.write_json(aside / "tokenizer_config.json", {
        **tokens,
        "tokenizer_class": "PreTrainedTokenizerFast",  # 5.x has other names, which 4.x lacks
        # 4.x would add token_type_ids, which a GPT-2 embeds and a Llama's generate refuses
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": lm.config.block_size,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,  # "<s>" in a text is text, as in bpe.py
        "padding_side": "right"})
    files.write_text(aside / "README.md", card(folder, which, lm))
