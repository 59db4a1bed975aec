"""A run as a folder that transformers loads without code of ours."""
import pathlib

from onecoach import files
from onecoach.config import UserError
from onecoach.corpora import building
from onecoach.imported import ImportedTokenizer
from onecoach.run import load, word_checkpoints
from tools.hf.card import card
from tools.hf.configs import config_json
from tools.hf.weights import safetensors, to_theirs


def export(folder, target, checkpoints=False):
    """Write the run in `folder` as a folder `target`, whole or not at all.

    checkpoints: also those by words, each a folder in it. UserError where target is there already.
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
    own = not isinstance(tokenizer, ImportedTokenizer)
    token = first_ambiguous_token(tokenizer.ids, tokenizer.merges) if own else None
    if token is not None:
        raise UserError(f"{folder / 'tokenizer.json'}: its own bytes are not merged to the token "
                        f"{token!r}; Hugging Face would encode otherwise. Train another one")
    tensors = to_theirs(lm.state_dict(), lm.config)
    special = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id,
               "pad_token_id": tokenizer.pad_id}
    names = tokenizer.tokens()
    tokens = {name.removesuffix("_id"): names[i].decode() for name, i in special.items()}
    # a model that has never gone on after a newline without `<s>` must stop there
    ends = [tokenizer.eos_id, tokenizer.newline_id] if config.mark == "line" else tokenizer.eos_id

    try:
        safetensors().torch.save_file(tensors, aside / "model.safetensors",
                                      metadata={"format": "pt"})
    except safetensors().SafetensorError as e:
        raise UserError(f"model.safetensors could not be written: {e}; make room, or choose "
                        "another DIR")
    files.write_json(aside / "config.json", {**config_json(lm.config), **special,
                                             "torch_dtype": "float32"})
    files.write_json(aside / "generation_config.json", {**special, "eos_token_id": ends})
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


def first_ambiguous_token(ids, merges):
    """Return the first token that tiktoken and Hugging Face may make in two ways, or None.

    ids: {bytes: id}; the id of a merge is its rank. tiktoken joins any neighbours that make a
    token, Hugging Face only the pairs that were learned. Both give the same ids for any text if
    every token has one way to be made: joins of lower rank turn the token's bytes into two tokens,
    and these two are a pair of `merges`. Reason: while no join crosses the ends of the token's
    bytes, the joins inside are the same in any text; when the token's rank is reached, that pair
    is all that is left, so other neighbours cannot make the token. Merges that `train_bpe` learned
    have this property: a pair that is counted has not been made in another way before.
    """
    pairs_of_merges = set(merges)
    for token, rank in ids.items():
        parts = [token[i:i + 1] for i in range(len(token))]
        while len(parts) > 2:
            ranks = [ids.get(a + b, rank) for a, b in zip(parts, parts[1:])]
            i = ranks.index(min(ranks))
            if ranks[i] >= rank:
                break
            parts[i:i + 2] = [parts[i] + parts[i + 1]]
        if len(token) > 1 and tuple(parts) not in pairs_of_merges:
            return token
    return None
