"""Hugging Face in and out: the same numbers, the same ids; strangers' folders are data."""
import collections
import json
import os
import pathlib
import random
import re
import shutil
import struct
import subprocess
import sys

import hf4
import pytest
import torch

import bpe
import data
import distill
import eval
from onecoach import files, run, scoring, suite
from onecoach.config import UserError
from tools.hf.__main__ import main as hf_main
from tools.hf.export import export
from tools.hf.importing import import_folder

transformers = pytest.importorskip("transformers")
pytest.importorskip("safetensors")
from safetensors.torch import load_file, save_file  # noqa: E402
from tokenizers import (  # noqa: E402
    AddedToken,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from tokenizers import Tokenizer as HF

transformers.logging.disable_progress_bar()

TINY = dict(n_layer=2, n_head=4, d_model=32, d_ff=48, block_size=32)
LLAMA3 = dict(n_kv_head=2, rope_theta=5000.0, rope_scaling=[8.0, 1.0, 4.0, 16.0])
SHAPES = {
    "llama": dict(),
    "tied": dict(tie=True),
    "gpt2": dict(arch="gpt2"),
    "llama 3": dict(tie=True, norm_eps=1e-5, **LLAMA3),
    "one head of keys": dict(n_kv_head=1, n_layer=3),
    "biases": dict(attn_bias=True, mlp_bias=True, n_kv_head=2),
}
WORDS = {"the": 5, " dog": 4, " cats": 3, " sees": 6, "é中": 2}
ODD = ("<s> a</s><pad>  b\t\n\n <|endoftext|> x<s", "don't'S 12 345½²٣é́ß中😀\r\n",
       "\u2028\x85\ufeff\x00", "", " ", "\n", "the" * 50)


def one_line(function, *args, words):
    with pytest.raises(UserError) as e:
        function(*args)
    assert "\n" not in str(e.value), str(e.value)
    assert all(word in str(e.value) for word in words), str(e.value)


def random_texts(n, seed=0):
    rng = random.Random(seed)
    ranges = [(32, 127), (32, 127), (1, 0x3000), (0xE000, 0x110000)]
    for _ in range(n):
        letters = (rng.randrange(*rng.choice(ranges)) for _ in range(rng.randrange(60)))
        yield "".join(map(chr, letters))


@pytest.fixture
def make_run(tmp_path, make_config):
    """A run's folder with random weights, large enough that every part of them shows."""
    def make(name="some", **keys):
        config = make_config(name=name, **{**TINY, **keys})
        folder = config.folder
        folder.mkdir(parents=True)
        tokenizer = bpe.Tokenizer(bpe.train_bpe(WORDS))
        tokenizer.save(folder / "tokenizer.json")
        run.write_config(config, "float32", tokenizer, words=1234)
        files.save_checkpoint(folder / "best.pt", {"model": random_weights(config, tokenizer),
                                                   "step": 7})
        return folder
    return make


def random_weights(config, tokenizer, seed=0):
    torch.manual_seed(seed)
    lm = run.make_model(config, tokenizer.vocab_size)
    with torch.no_grad():
        for p in lm.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return lm.state_dict()


def same_logits(lm, theirs, tolerance=1e-5):
    V, T = lm.config.vocab_size, lm.config.block_size
    ids = torch.randint(0, V, (3, T), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = lm.logits(lm(ids))
        reference = theirs.eval()(input_ids=ids).logits
    assert reference.dtype == torch.float32 and reference.std() > 0.5  # the weights do show
    assert (ours - reference).abs().max() < tolerance


def loaded(folder):
    return (transformers.AutoModelForCausalLM.from_pretrained(folder),
            transformers.AutoTokenizer.from_pretrained(folder))


# ---------------------------------------------------------------- out

@pytest.mark.parametrize("shape", SHAPES)
def test_an_exported_run_is_the_same_model_and_comes_back_byte_for_byte(shape, make_run, tmp_path):
    folder = make_run(**SHAPES[shape])
    export(folder, tmp_path / "once")
    theirs, tokenizer = loaded(tmp_path / "once")
    same_logits(run.load(folder)[0], theirs)
    assert tokenizer("the dog").input_ids == [1, *run.load(folder)[1].encode("the dog")]

    import_folder(tmp_path / "once", tmp_path / "out/back")
    export(tmp_path / "out/back", tmp_path / "twice")
    for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json",
                 "special_tokens_map.json", "generation_config.json"):
        once, twice = ((tmp_path / when / name).read_bytes() for when in ("once", "twice"))
        assert once == twice, name


def test_ids_are_ours_and_offsets_are_the_texts(make_run, tmp_path):
    folder = make_run()
    export(folder, tmp_path / "out/hf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out/hf")
    ours = run.load(folder)[1]
    for text in [*ODD, *random_texts(300)]:
        assert tokenizer(text).input_ids == [1, *ours.encode(text)], text
    assert (tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token) == bpe.SPECIAL

    text = "the dog sees 中 cats"
    found = tokenizer(text, return_offsets_mapping=True)
    for i, (start, end) in zip(found.input_ids[1:], found.offset_mapping[1:]):
        if len(piece := ours.decode([i])) and "\ufffd" not in piece:  # a whole character at least
            assert text[start:end] == piece
    both = tokenizer(["the dog", "the"], padding=True, return_tensors="pt")
    assert ((both.input_ids == 0) == (both.attention_mask == 0)).all()
    assert both.attention_mask.sum() < both.input_ids.numel()


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["llama", "gpt2"])
@pytest.mark.parametrize("oldest", [True, False])
def test_a_client_gets_our_numbers_by_transformers_4_and_5(oldest, arch, make_run, tmp_path):
    """logits(**tokenizer(text)), generate, padding on the left, a classifier on the trunk."""
    packages = None
    if oldest:
        try:
            packages = hf4.install()
        except (RuntimeError, OSError) as e:
            pytest.skip(str(e))
    folder = make_run(arch=arch)
    export(folder, tmp_path / "hf")
    client = hf4.use(tmp_path / "hf", packages)
    assert client["version"] == ("4.51.3" if oldest else transformers.__version__)
    assert client["names"] == ["attention_mask", "input_ids"]
    assert client["classes"] == [2, 3] and client["same_trunk"]

    lm, tokenizer, _ = run.load(folder)
    texts = [torch.tensor([[1, *tokenizer.encode(text)]]) for text in hf4.TEXTS]
    with torch.no_grad():
        ours = lm.logits(lm(texts[0]))[0]
    assert (torch.tensor(client["logits"]) - ours).abs().max() < 1e-5
    written = [lm.generate(ids, 8, temperature=0)[0].tolist() for ids in texts]
    assert without_end(client["alone"]) == without_end(written[0])
    for theirs, mine in zip(client["padded"], written):
        while theirs[0] == 0:
            theirs.pop(0)
        assert without_end(theirs) == without_end(mine)


def without_end(ids):
    """Return the ids before </s>, where transformers stops."""
    return ids[:ids.index(2)] if 2 in ids else ids


def test_writing_stops_at_a_newline_only_where_each_line_is_opened_by_the_mark(make_run, tmp_path):
    for mark, ends in (("line", [2, bpe.Tokenizer.newline_id]), ("half", 2), ("none", 2)):
        export(make_run(mark, mark=mark), tmp_path / f"hf-{mark}")
        saved = files.read_json(tmp_path / f"hf-{mark}/generation_config.json")
        assert saved["eos_token_id"] == ends


@pytest.mark.slow
def test_ids_are_ours_on_all_of_the_development_text(babylm, tmp_path, make_config):
    paths = sorted((babylm / "data/babylm_10m/dev").iterdir())
    texts = [path.read_text(encoding="utf-8") for path in paths]
    words = bpe.collections.Counter(bpe.pre_tokens("".join(text[:100_000] for text in texts)))
    ours = bpe.Tokenizer(bpe.train_bpe(words, 3000))
    theirs = HF.from_str(ours.to_json())
    theirs.encode_special_tokens = True  # as split_special_tokens has it
    for text in texts:
        lines = text.splitlines(keepends=True)
        for i in range(0, len(lines), 2000):
            piece = "".join(lines[i:i + 2000])
            assert theirs.encode(piece, add_special_tokens=False).ids == ours.encode(piece)


def test_merges_that_training_learns_are_joined_alike():
    """By every pair that makes a token, as tiktoken does, or by the learned ones alone."""
    rng = random.Random(0)
    for _ in range(30):
        words = {"".join(rng.choices("aab", k=rng.randint(1, 10))): rng.randint(1, 3)
                 for _ in range(20)}
        ours = bpe.Tokenizer(bpe.train_bpe(words))
        theirs = HF.from_str(ours.to_json())
        for _ in range(100):
            text = "".join(rng.choices("ab", k=rng.randint(1, 25)))
            assert theirs.encode(text, add_special_tokens=False).ids == ours.encode(text)


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_the_pipeline_writes_as_we_do(arch, make_run, tmp_path):
    folder = make_run(arch=arch)
    export(folder, tmp_path / "hf")
    write = transformers.pipeline("text-generation", str(tmp_path / "hf"))
    text = write("the dog", max_new_tokens=5, do_sample=False)[0]["generated_text"]
    lm, tokenizer, _ = run.load(folder)
    ids = torch.tensor([[1, *tokenizer.encode("the dog")]])
    ours = tokenizer.decode(lm.generate(ids, 5, temperature=0)[0, 1:])
    assert text == ours and text.startswith("the dog")


def test_the_card_says_what_the_runs_files_say(make_run, tmp_path):
    folder = make_run(teachers=["coach", "gone"], lr=1e-3)
    make_run("coach", init="lost")  # so nobody knows what its weights have read in all
    run.Metrics(folder / "metrics.jsonl", 0).write(step=9, words=5000, loss=1.0)
    files.write_json(folder / "eval.json", {
        "blimp": {"accuracy": 0.625, "chance": 0.5, "limit": 0},
        "supplement --data=some.where": {"accuracy": 0.75, "n": 4600,
                                         "lacks": ["hypernym: 800 of 842"]},
        "choice --data=zorro": {"accuracy": 0.875, "n": 40},
        "babytalk": {"kl_truth_student": 0.5, "mass_outside": 0.25, "kl_inside": 0.125},
        "blimp --limit=2": {"accuracy": 1.0, "limit": 2},
        "global_piqa_parallel": {"accuracy": 0.375, "chance": 0.25},
        "ppl --limit=200000": {"overall": {"mean_nats_per_byte": 1.25}, "limit": 200_000}})
    export(folder, tmp_path / "hf")
    text = (tmp_path / "hf/README.md").read_text()
    commit = files.read_json(folder / "config.json")["_commit"]
    for words in ("| BLiMP | 62.5% | 50.0% |", "zorro | 87.5% | - |",
                  "| Global PIQA, parallel | 37.5% | 25.0% |",
                  "of its first 200,000 tokens per domain | 1.2500 |",
                  "| 1,234 | 5,000 | 9 |", "step 7",
                  "| teacher coach | 1,234 | not known | not known |", "teacher gone | not known",
                  "lr = 0.001", str(commit or "not known")):
        assert words in text, words
    assert "100.0%" not in text  # a look at a part
    one_line(export, folder, tmp_path / "hf", words=["hf is there already"])
    one_line(export, folder, tmp_path / "hf2", True, words=["no checkpoints by words"])


def test_what_is_missing_is_named(make_run, tmp_path, monkeypatch):
    folder = make_run()
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    one_line(export, folder, tmp_path / "hf", words=["pip install safetensors"])
    one_line(import_folder, tmp_path, tmp_path / "new", words=["pip install safetensors"])


def test_without_the_package_tokenizers_our_own_are_read_and_others_ask_for_it(
        make_run, make_stranger, tmp_path, monkeypatch):
    folder, _ = make_stranger()
    import_folder(folder, tmp_path / "out/coach")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    one_line(run.load, tmp_path / "out/coach", words=["pip install tokenizers"])
    assert run.load(make_run())[1].encode("the dog")


def test_a_full_disk_is_one_line_and_leaves_nothing(make_run, tmp_path):
    resource = pytest.importorskip("resource")

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    done = subprocess.run([sys.executable, "-m", "tools.hf", "export", make_run(), tmp_path / "hf"],
                          capture_output=True, text=True, preexec_fn=limit,
                          cwd=pathlib.Path(__file__).parents[1])
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "could not be written" in done.stderr and not (tmp_path / "hf").exists()


# ---------------------------------------------------------------- checkpoints by words

def text_file(tmp_path, lines=400):
    rng = random.Random(0)
    file = tmp_path / "some.txt"
    words = ["the", "dog", "cat", "sees", "a", "bird", "runs", "now"]
    file.write_text("".join(" ".join(rng.choices(words, k=5)) + "\n" for _ in range(lines)))
    return str(file)


def test_checkpoints_by_words(make_config, tmp_path, monkeypatch):
    """Over epochs; kept where a run goes on, as if it had never stopped; loaded, exported."""
    keys = dict(corpus=text_file(tmp_path), vocab_size=270, **TINY, batch_size=4, epochs=3.0,
                log_every=1, eval_tokens=0, max_words=2000)
    distill.train(make_config(name="first", **keys))
    folder = tmp_path / "out/first"
    last = max(line.get("words", 0) for line in files.read_json_lines(folder / "metrics.jsonl"))
    end = last * 1.015 / 1e6  # a little beyond the last step, which stands for it
    keys["checkpoints"] = [0.001, 0.0025, end, 9]
    distill.train(make_config(name="whole", **keys))
    folder = tmp_path / "out/whole"
    kept = run.word_checkpoints(folder)
    assert kept == ["chck_0.001M", "chck_0.0025M", f"chck_{end:g}M"]  # not what it never came to
    words = {line["step"]: line["words"] for line in files.read_json_lines(folder / "metrics.jsonl")
             if "words" in line}
    for name in kept:
        state = files.load_checkpoint(folder / f"{name}.pt")
        mark = float(name[5:-1]) * 1e6
        step = state["step"]
        assert state["words"] == words[step]
        is_last = step == max(words)
        assert is_last == (name == kept[-1])
        assert words.get(step - 1, 0) < mark <= words[step] * (1.02 if is_last else 1)

    config = make_config(name="parts", **keys)
    save = run.Run.save

    def dies(self):
        save(self)
        if self.step > 10:
            raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(run.Run, "save", dies)
        with pytest.raises(KeyboardInterrupt):
            distill.train(config)
    assert run.word_checkpoints(tmp_path / "out/parts") != kept
    distill.train(config)
    for name in kept:
        a, b = (run.load(tmp_path / "out" / run_name, which=name)[0].state_dict()
                for run_name in ("whole", "parts"))
        assert all(torch.equal(a[k], b[k]) for k in a)
    one_line(run.load, folder, "cpu", "chck_2M", words=["chck_2M", kept[-1]])

    export(folder, tmp_path / "hf", checkpoints=True)
    lm = run.load(folder, which=kept[0])[0]
    with torch.no_grad():
        theirs = loaded(tmp_path / "hf" / kept[0])[0](torch.arange(20)[None]).logits
        assert (theirs - lm.logits(lm(torch.arange(20)[None]))).abs().max() < 1e-5
    assert "words had been read" in (tmp_path / "hf" / kept[0] / "README.md").read_text()
    distill.train(make_config(name="whole", **{**keys, "checkpoints": [], "resume": "no"}))
    assert run.word_checkpoints(folder) == []  # those of the run before are gone


def test_the_key_checkpoints(make_config):
    marks = make_config(checkpoints="babylm").word_marks()
    assert len(marks) == 19 and marks["chck_9M"] == 9_000_000 and marks["chck_100M"] == 10**8
    assert make_config(checkpoints=[2, 0.5]).word_marks() == {"chck_0.5M": 500_000,
                                                             "chck_2M": 2_000_000}
    assert make_config().word_marks() == {}
    for wrong in ("baby", [0], ["1"], 3):
        one_line(lambda: make_config(checkpoints=wrong), words=["checkpoints"])


# ---------------------------------------------------------------- in

def train_gpt2_style(pre_tokenizer, special=("<|endoftext|>",), added=()):
    """A tokenizer of Hugging Face's trainer, as GPT-2's and its followers' are."""
    tokenizer = HF(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=list(special), show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    rng = random.Random(1)
    words = "the dog's cats don't see 12 345 birds, do they?  No. é中 x\n".split(" ")
    words += ["".join(rng.choices("aeioustrn", k=6)) for _ in range(30)]
    tokenizer.train_from_iterator([" ".join(rng.choices(words, k=12)) for _ in range(200)], trainer)
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in added])
    return tokenizer


BYTES = dict(add_prefix_space=False)
LLAMA3_PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
                  r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def ways_to_split():
    from tokenizers import Regex
    byte_level = pre_tokenizers.ByteLevel(use_regex=False, **BYTES)
    return {
        "gpt2": pre_tokenizers.ByteLevel(**BYTES),
        "digits": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                           pre_tokenizers.ByteLevel(**BYTES)]),
        "llama 3": pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(LLAMA3_PATTERN), "isolated"), byte_level]),
    }


@pytest.fixture
def make_stranger(tmp_path):
    """A Hugging Face folder with random weights, made by transformers alone."""
    def make(kind="llama", tokenizer=None, shard="50GB", bos_token="<|endoftext|>",
             eos_token="<|endoftext|>", **keys):
        tokenizer = tokenizer or train_gpt2_style(ways_to_split()["gpt2"])
        V = tokenizer.get_vocab_size()
        torch.manual_seed(0)
        if kind == "llama":
            config = transformers.LlamaConfig(**{**dict(
                vocab_size=V, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                intermediate_size=48, max_position_embeddings=64), **keys})
            model = transformers.LlamaForCausalLM(config)
        else:
            config = transformers.GPT2Config(**{**dict(
                vocab_size=V, n_embd=32, n_layer=2, n_head=4, n_positions=64), **keys})
            model = transformers.GPT2LMHeadModel(config)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.2 * torch.randn_like(p))
        folder = tmp_path / "stranger"
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(folder, max_shard_size=shard)
        fast = transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, bos_token=bos_token, eos_token=eos_token)
        fast.save_pretrained(folder)
        return folder, model
    return make


LLAMA_3_ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "rope_theta": 500.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 32}


@pytest.mark.parametrize("kind, keys", [
    ("llama", {}), ("gpt2", {}), ("gpt2", dict(n_inner=40, layer_norm_epsilon=1e-3)),
    ("llama", dict(num_key_value_heads=2, tie_word_embeddings=True, rms_norm_eps=1e-5)),
    ("llama", dict(attention_bias=True, mlp_bias=True, num_key_value_heads=1)),
    ("llama", dict(rope_parameters=LLAMA_3_ROPE)),
    ("llama", dict(shard="20KB")), ("gpt2", dict(shard="20KB")),
    ("llama", dict(vocab_size=336)),
])
def test_a_strangers_folder_becomes_a_run(kind, keys, make_stranger, tmp_path):
    folder, theirs = make_stranger(kind, **keys)
    assert (folder / "model.safetensors.index.json").exists() == ("shard" in keys)
    import_folder(folder, tmp_path / "out/coach")
    lm, tokenizer, config = run.load(tmp_path / "out/coach")
    assert run.is_finished(tmp_path / "out/coach")
    assert "_imported" in files.read_json(tmp_path / "out/coach/config.json")
    ids = torch.randint(0, 330, (2, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        reference = theirs.eval()(ids).logits[..., :tokenizer.vocab_size]
        assert reference.std() > 0.5
        assert (lm.logits(lm(ids)) - reference).abs().max() < 1e-5
    assert tokenizer.bos_id == 0 and tokenizer.vocab_size == 330 and config.longest == 64


@pytest.mark.parametrize("way", ["gpt2", "digits", "llama 3"])
def test_a_tokenizer_is_taken_over_as_it_is(way, make_stranger, tmp_path):
    original = train_gpt2_style(ways_to_split()[way], added=("   ", "[X]"))
    folder, _ = make_stranger(tokenizer=original)
    import_folder(folder, tmp_path / "out/coach")
    ours = run.load(tmp_path / "out/coach")[1]
    original.encode_special_tokens = True
    for text in [*ODD, "a[X] [X]  [X]b     c", *random_texts(300)]:
        ids = original.encode(text, add_special_tokens=False).ids
        assert ours.encode(text) == ids and ours.decode(ids) == text
        assert ours.token_bytes[ids].sum() == len(text.encode())
    ids = [*ours.encode("a."), ours.newline_id, ours.newline_id, *ours.encode("b"), ours.newline_id]
    assert ours.encode_lines("a.\n\nb\n").tolist() == ids

    export(tmp_path / "out/coach", tmp_path / "back")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    for text in ODD:
        assert again(text).input_ids == [0, *ours.encode(text)]
    import_folder(tmp_path / "back", tmp_path / "out/coach2")
    assert run.load(tmp_path / "out/coach2")[1].hash == ours.hash


ALTERED = {
    "whitespace": (lambda f: f.update(pre_tokenizer={"type": "Whitespace"}), "not byte-level"),
    "none": (lambda f: f.update(pre_tokenizer=None), "not byte-level"),
    "unigram": (lambda f: f["model"].update(type="Unigram"), "damaged"),
    "sentencepiece": (lambda f: f["model"]["vocab"].update({"\u2581the": 330}), "in bytes"),
    "dropout": (lambda f: f["model"].update(dropout=0.1), "dropout"),
    "another pattern": (lambda f: f.update(pre_tokenizer={"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": "(("}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}]}), "damaged"),
    "no vocabulary": (lambda f: f["model"].pop("vocab"), "damaged"),
    "an id twice": (lambda f: f["model"]["vocab"].update(e=40), "from 0 on"),
    "half a pair": (lambda f: f["decoder"].update(type="\ud800"), "damaged"),
}


@pytest.mark.parametrize("name", ALTERED)
def test_a_tokenizer_that_would_encode_otherwise_is_refused_by_name(name, make_stranger, tmp_path):
    folder, _ = make_stranger()
    form = files.read_json(folder / "tokenizer.json")
    ALTERED[name][0](form)
    files.write_json(folder / "tokenizer.json", form)
    one_line(import_folder, folder, tmp_path / "out/coach",
             words=[ALTERED[name][1], "tokenizer"])
    assert not (tmp_path / "out/coach").exists()


def baby_llama_style(newline="\n"):
    """A tokenizer by Baby Llama's recipe, on a text that lacks most bytes."""
    tokenizer = HF(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.normalizer = normalizers.NFKC()
    trainer = trainers.BpeTrainer(vocab_size=330, min_frequency=2, show_progress=False,
                                  special_tokens=["<pad>", "<s>", "</s>"])
    words = "the dog's cats don't see birds do they a an in of ing".split()
    rng = random.Random(0)
    lines = [" ".join(rng.choices(words, k=8)) + newline for _ in range(300)]
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer


def test_a_tokenizer_by_baby_llamas_recipe_encodes_and_scores_as_the_original(
        make_stranger, tmp_path):
    """NFKC, a space before each text, bytes that no token has: the original's ids, our places."""
    original = baby_llama_style()
    folder, _ = make_stranger(tokenizer=original, eos_token="</s>", bos_token="<s>")
    import_folder(folder, tmp_path / "out/coach")
    lm, ours, _ = run.load(tmp_path / "out/coach")
    original.encode_special_tokens = True
    assert (ours.bos_id, ours.eos_id) == (1, 2) and ours.vocab_size == original.get_vocab_size()
    for text in ["the dogs", "\ufb01n \u2167 Zebra", " the\n cats", "12 \ud800", *ODD]:
        plain = text.replace("\ud800", "\ufffd")
        assert ours.encode(text) == original.encode(plain, add_special_tokens=False).ids, text
    line = ours.encode_lines("the dog\nthe cats\n")
    assert ours.token_bytes[line].sum() == len("the dog\nthe cats\n")
    assert ours.decode(line) == " the dog\n the cats\n"

    # a prefix's tokens, though each text has got a space before it, are not the completion's
    ids, ends = ours.encode_with_ends("the dog")
    whole = scoring.score_sentences(lm, ours, ["the dog", "the"]).tolist()
    assert ends.tolist()[-1] == 7 and len(ids) > 1
    part = scoring.score(lm, ours, ["the"], [" dog"]).item()
    assert part == pytest.approx(whole[0] - whole[1], abs=1e-4)


def test_a_vocabulary_that_lacks_bytes_counts_what_it_loses(
        make_stranger, make_config, tmp_path, capsys):
    """In the text of a run, and in other text; a line without a newline token ends in its eos."""
    folder, _ = make_stranger(tokenizer=baby_llama_style(newline=""), eos_token="</s>",
                              bos_token="<s>")
    import_folder(folder, tmp_path / "out/coach")
    ours = run.load(tmp_path / "out/coach")[1]
    assert f"lacks {len(ours.lacking)} of the 256 bytes" in capsys.readouterr().out
    assert ours.newline_id == ours.eos_id and b"\n" in [bytes([b]) for b in ours.lacking]
    text = tmp_path / "text.txt"
    text.write_text("the dog sees a \u4e2d bird\n" * 200, encoding="utf-8")
    lost = 3 * 196 + 3 * 4  # of training and development text
    prepared = data.prepare(make_config(corpus=str(text), tokenizer=str(tmp_path / "out/coach")))
    assert f"{lost} bytes of the text have no token" in capsys.readouterr().out
    assert prepared.train.tokens.max() < ours.vocab_size
    eval.evaluate(tmp_path / "out/coach", ["ppl"], dev=str(text), device="cpu")
    assert "600 bytes of the text have no token" in capsys.readouterr().out


# ---------------------------------------------------------------- strangers

def edit_json(path, **change):
    files.write_json(path, {**files.read_json(path), **change})


def edit_weights(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def pickled(folder):
    class Code:
        def __reduce__(self):
            return os.system, (f"touch {folder.parent / 'executed'}",)
    torch.save({"w": Code()}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def huge(folder):
    """A header with a tensor of 100 GB in a file of some bytes."""
    header = json.dumps({"model.embed_tokens.weight": {
        "dtype": "F32", "shape": [25_000_000, 1000], "data_offsets": [0, 10**11]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 64)


def shards(folder, *parts):
    """The weights in files model-0, model-1, ...: in each the tensors with a part of the name."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for i, part in enumerate(parts):
        save_file({name: w for name, w in tensors.items() if part in name},
                  folder / f"model-{i}.safetensors")


def config_says(**keys):
    return lambda folder: edit_json(folder / "config.json", **keys)


NORM = "model.norm.weight"
BROKEN = {
    "pickled": (pickled, "pickled (pytorch_model.bin)"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors"),
    "missing shard": (lambda f: shards(f, "model.layers", "model.norm"), "lack model.embed"),
    "shards of two": (lambda f: shards(f, "model.", "model.norm"), "model.norm.weight is twice"),
    "100 GB": (huge, "damaged"),
    "not safetensors": (lambda f: (f / "model.safetensors").write_bytes(b"x" * 99), "damaged"),
    "cut short": (lambda f: (f / "model.safetensors").write_bytes(
        (f / "model.safetensors").read_bytes()[:-100]), "damaged"),
    "wrong shape": (lambda f: edit_weights(f, lambda w: w.update({NORM: torch.ones(31)})), "[31]"),
    "a tensor less": (lambda f: edit_weights(f, lambda w: w.pop(NORM)), "lack model.norm"),
    "a tensor more": (lambda f: edit_weights(f, lambda w: w.update(more=torch.ones(1))), "more"),
    "whole numbers": (lambda f: edit_weights(
        f, lambda w: w.update({NORM: torch.ones(32, dtype=torch.int8)})), "type torch.int8"),
    "more layers": (config_says(num_hidden_layers=9_999_999), "layers = 9999999: must be"),
    "a layer more": (config_says(num_hidden_layers=3), "lack model.layers.2."),
    "fewer layers": (config_says(num_hidden_layers=1), "the weights have model.layers.1."),
    "no number": (config_says(num_hidden_layers="2"), "num_hidden_layers = '2'"),
    "too many": (config_says(vocab_size=10**12), "vocab_size"),
    "wide": (config_says(intermediate_size=10**18), "intermediate_size"),
    "a schedule": (config_says(max_position_embeddings="stages(0: 64)"), "must not be a string"),
    "too long": (config_says(max_position_embeddings=10**7), "max_position_embeddings"),
    "another size": (config_says(intermediate_size=64), "mlp.gate_proj"),
    "small vocabulary": (lambda f: config_says(vocab_size=300)(f) or edit_weights(
        f, lambda w: w.update({k: v[:300].clone() for k, v in w.items() if len(v) == 330})),
        "330 tokens"),
    "own code": (config_says(auto_map={"AutoModel": "evil.Model"}), "auto_map"),
    "another model": (config_says(model_type="mistral"), "'mistral'"),
    "quantized": (config_says(quantization_config={"bits": 4}), "quantization_config"),
    "yarn": (config_says(rope_parameters=None, rope_scaling={"type": "yarn"}), "yarn"),
    "gelu": (config_says(hidden_act="gelu"), "hidden_act = 'gelu'"),
    "wide heads": (config_says(head_dim=64), "head_dim"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer.json"),
    "no roles": (lambda f: (edit_json(f / "tokenizer_config.json", bos_token="<x>"),
                            (f / "special_tokens_map.json").unlink(missing_ok=True)), "'<x>'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_or_malicious_folder_is_refused_in_a_line(name, make_stranger, tmp_path):
    folder, _ = make_stranger()
    change, words = BROKEN[name]
    change(folder)
    one_line(import_folder, folder, tmp_path / "out/coach", words=[words, str(folder)])
    assert not (tmp_path / "out/coach").exists() and not (tmp_path / "executed").exists()


def test_the_bos_is_the_one_that_predicts_development_text_best_or_as_asked(
        make_stranger, tmp_path, capsys):
    """<|im_start|> is named, but its embedding is noise; a text begins with <|endoftext|>."""
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    original = train_gpt2_style(ways_to_split()["gpt2"], special=names)
    folder, _ = make_stranger(tokenizer=original, bos_token=names[1], eos_token=names[2])
    edit_weights(folder, lambda w: w["model.embed_tokens.weight"][1].mul_(30))
    (tmp_path / "dev.txt").write_text("the dog's cats don't see birds, do they?\n" * 50)

    import_folder(folder, tmp_path / "out/plain")
    assert run.load(tmp_path / "out/plain")[1].bos_id == 1
    import_folder(folder, tmp_path / "out/chosen", dev=str(tmp_path / "dev.txt"))
    said = dict(re.findall(r"opened by (\S+): ([\d.]+) nats", capsys.readouterr().out))
    best = min(said, key=lambda name: float(said[name]))
    assert set(said) == set(names) and best != names[1]
    assert run.load(tmp_path / "out/chosen")[1].bos_id == names.index(best)
    import_folder(folder, tmp_path / "out/asked", bos=names[2])
    assert run.load(tmp_path / "out/asked")[1].bos_id == 2
    one_line(import_folder, folder, tmp_path / "out/no", "<x>", words=["'<x>'", "bos token"])

    export(tmp_path / "out/asked", tmp_path / "back")
    assert loaded(tmp_path / "back")[1]("the").input_ids[0] == 2


OTHER_THINGS = {
    "model-Q4_K_M.gguf": "llama.cpp",
    "pytorch_model.bin": "pickled checkpoint",
    "model.pt": "pickled checkpoint",
    "adapter_config.json": "merge_and_unload",
    "model.safetensors": "weights alone",
    "notes.txt": "no config.json",
}


@pytest.mark.parametrize("name", OTHER_THINGS)
def test_a_thing_that_is_no_model_folder_is_called_by_its_name(name, make_run, tmp_path):
    """The file itself, and a folder that holds it; the message names all of them."""
    one_line(import_folder, tmp_path / "gone", tmp_path / "x", words=["no such folder"])
    one_line(import_folder, make_run(), tmp_path / "x", words=["a run of this program already"])
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / name).write_bytes(b"\x80\x04GGUF")
    for source in (tmp_path / "given", tmp_path / "given" / name):
        one_line(import_folder, source, tmp_path / "out/coach", words=[OTHER_THINGS[name]])
    assert not (tmp_path / "out/coach").exists()


def test_text_is_utf_8_whatever_the_locale_with_or_without_a_byte_order_mark(
        make_stranger, tmp_path):
    folder, _ = make_stranger()
    for path in folder.glob("*.json"):
        path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert not (folder / "tokenizer.json").read_bytes().isascii()
    done = subprocess.run([sys.executable, "-m", "tools.hf", "import", folder, tmp_path / "coach"],
                          capture_output=True, text=True, cwd=pathlib.Path(__file__).parents[1],
                          env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0",
                               "PYTHONCOERCECLOCALE": "0"})
    assert done.returncode == 0, done.stderr
    assert run.load(tmp_path / "coach")[1].encode("the dog")


@pytest.mark.parametrize("kind, embedding", [("llama", "model.embed_tokens.weight"),
                                             ("gpt2", "transformer.wte.weight")])
def test_a_head_of_its_own_in_a_tied_model_is_not_dropped(kind, embedding, make_stranger, tmp_path):
    folder, _ = make_stranger(kind, tie_word_embeddings=True)
    edit_weights(folder, lambda w: w.update({"lm_head.weight": w[embedding].clone()}))
    import_folder(folder, tmp_path / "out/same")
    edit_weights(folder, lambda w: w["lm_head.weight"].neg_())
    one_line(import_folder, folder, tmp_path / "out/coach", words=["lm_head.weight", str(folder)])

    if kind == "llama":  # as the error says
        edit_json(folder / "config.json", tie_word_embeddings=False)
        import_folder(folder, tmp_path / "out/coach")
        lm = run.load(tmp_path / "out/coach")[0]
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
        ids = torch.arange(50)[None]
        with torch.no_grad():
            assert (lm.logits(lm(ids)) - theirs(ids).logits).abs().max() < 1e-5


# ---------------------------------------------------------------- teachers from elsewhere

@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_student_of_an_imported_teacher(kind, make_stranger, make_config, tmp_path):
    """To its end: distilled with rollouts too, exported, loaded by transformers."""
    folder, _ = make_stranger(kind)
    import_folder(folder, tmp_path / "out/coach")
    keys = dict(corpus=text_file(tmp_path), **TINY, batch_size=4, max_steps=6, mark="line",
                teachers=["coach"], tokenizer=str(tmp_path / "out/coach"), log_every=1,
                eval_tokens=500, on_policy="stages(0: 0, 0.5: 1)")
    distill.train(make_config(name="kid", **keys))
    lm, tokenizer, _ = run.load(tmp_path / "out/kid")
    lines = files.read_json_lines(tmp_path / "out/kid/metrics.jsonl")
    assert lines[-1]["step"] == 6 and lines[-1]["val_rkl"] > 0
    assert tokenizer.hash == run.load(tmp_path / "out/coach")[1].hash
    prepared = data.prepare(make_config(name="kid", **keys))
    x, y = data.validation_blocks(prepared.dev, 32)
    assert (y[x == tokenizer.newline_id] == -100).all()  # `<s>`, by another number, is no label

    export(tmp_path / "out/kid", tmp_path / "hf")
    theirs, fast = loaded(tmp_path / "hf")
    with torch.no_grad():
        ids = torch.tensor([fast("the dog sees").input_ids])
        assert ids.tolist() == [[tokenizer.bos_id, *tokenizer.encode("the dog sees")]]
        assert (theirs(ids).logits - lm.logits(lm(ids))).abs().max() < 1e-5
    text = (tmp_path / "hf/README.md").read_text()
    assert "teacher coach | not known" in text


def test_an_imported_teachers_own_figures_stand_in_the_last_table(
        make_stranger, make_config, tmp_path, capsys):
    """Scored on the student's test split, once for a text, and anew for another."""
    folder, _ = make_stranger()
    import_folder(folder, tmp_path / "out/coach")
    keys = dict(corpus=text_file(tmp_path), **TINY, batch_size=4, max_steps=2, baseline="",
                teachers=["coach"], tokenizer=str(tmp_path / "out/coach"), eval_tokens=200)

    def nats(name, **more):
        capsys.readouterr()
        distill.train(make_config(name=name, **{**keys, **more}))
        said = capsys.readouterr().out
        row = next(line for line in said.split("teacher coach")[-1].splitlines()
                   if "of its first 200 tokens" in line)
        coach = files.read_json(tmp_path / "out/coach/eval.json")["ppl --limit=200"]
        assert f"{coach['overall']['mean_nats_per_byte']:.4f}" in row
        return said.count("ppl --limit=200 of"), row.split()[-2]

    times, first = nats("kid")
    assert times == 2  # student and teacher
    assert nats("kid") == (0, first)
    times, second = nats("other", corpus=text_file(tmp_path, lines=300))
    assert times == 2 and second != first


def test_a_teacher_of_another_vocabulary_is_refused_before_anything_is_trained(
        make_stranger, make_config, tmp_path):
    folder, _ = make_stranger()
    import_folder(folder, tmp_path / "out/coach")
    config = make_config(name="kid", corpus=text_file(tmp_path), vocab_size=270, **TINY,
                         batch_size=4, max_steps=2, teachers=["base_demo", "coach"])
    one_line(distill.train, config, words=[
        "teacher", "coach", "270 tokens here, 330 there", "id 0 is b'<pad>' here, b'<|endoftext|>'",
        f"--tokenizer={tmp_path / 'out/coach'}"])
    assert not (tmp_path / "out/base_demo").exists()


# ---------------------------------------------------------------- scored without us

def sums_by_transformers(folder, texts):
    """(n,) float64: log p of each text by AutoModelForCausalLM; those of one length in a batch."""
    model, tokenizer = loaded(folder)
    ids_of = [tokenizer(text).input_ids for text in texts]
    of_length = collections.defaultdict(list)
    for i, ids in enumerate(ids_of):
        of_length[len(ids)].append(i)
    sums = torch.zeros(len(texts), dtype=torch.float64)
    for numbers in of_length.values():
        for batch in torch.tensor(numbers).split(64):
            ids = torch.tensor([ids_of[i] for i in batch])
            with torch.no_grad():
                log_q = model(ids).logits[:, :-1].log_softmax(-1)
            sums[batch] = log_q.gather(2, ids[:, 1:, None]).double().sum((1, 2))
    return sums


def decisions(folder, exported, items):
    """What plain transformers decides on minimal pairs beside what we do.

    Returns the number of items, of those level to us, of those decided otherwise among the others,
    and the largest difference of a sentence's log-probability, nats.
    """
    texts = [text for item in items for _, text in item.candidates]
    lm, tokenizer, _ = run.load(folder)
    ours = eval.score_sentences(lm, tokenizer, texts)
    theirs = sums_by_transformers(exported, texts)
    gap = ours[0::2] - ours[1::2]
    other_gap = theirs[0::2] - theirs[1::2]
    level = gap.abs() <= suite.TIE
    differ = ((gap > 0) != (other_gap > 0)) & ~level
    return len(items), int(level.sum()), int(differ.sum()), (ours - theirs).abs().max().item()


def test_decisions_on_blimp_are_ours_by_plain_transformers(babylm, make_run, tmp_path):
    folder = make_run(block_size=64)
    export(folder, tmp_path / "hf")
    items = suite.read("blimp", babylm / "eval")[::700]
    n, level, differ, gap = decisions(folder, tmp_path / "hf", items)
    assert n > 50 and level < 5 and differ == 0 and gap < 1e-3


def test_the_command(make_run, tmp_path):
    folder = make_run()
    command = [sys.executable, "-m", "tools.hf"]
    done = subprocess.run([*command, "export", folder, tmp_path / "hf"], capture_output=True,
                          text=True, cwd=pathlib.Path(__file__).parents[1])
    assert done.returncode == 0 and "from_pretrained" in done.stdout, done.stderr
    one_line(hf_main, ["import", "a", "b", "--checkpoints"], words=["export"])
    one_line(hf_main, ["send", "a", "b"], words=["--help"])
