"""Folders as people have them: which files are weights, and which tensors count.

Where transformers loads the same folder, its logits are the truth.
"""

import json
import shutil
import time
import warnings

import pytest
import torch
from loading import refused
from safetensors.torch import load_file, save_file
from tiny_models import small_model

import minqwen
from minqwen.plan.contents import describe

IDS = torch.arange(3, 40)[None] % 290
INDEX = "model.safetensors.index.json"
WORDS = "model.language_model.embed_tokens.weight"
UP = "model.language_model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Three checkpoints, and the logits of each: {kind: (folder, logits)}."""
    kinds = {
        "one": dict(moe=False),
        "moe": dict(),
        "shards": dict(moe=False),
        "tied": dict(moe=False, tie_word_embeddings=True),
        "text": dict(moe=False, vision=False),
        "mtp": dict(moe=False, mtp_num_hidden_layers=1),
    }
    found = {}
    for kind, changes in kinds.items():
        folder, model = tmp_path_factory.mktemp(kind) / "f", small_model(**changes)
        size = 200_000 if kind == "shards" else 10**9
        minqwen.save(model, folder, max_shard_bytes=size)
        with torch.no_grad():
            found[kind] = folder, model(IDS)
    return found


@pytest.fixture
def copy(saved, tmp_path):
    """copy("one") is a folder to change, and its logits before that."""

    def made(kind):
        folder, logits = saved[kind]
        return shutil.copytree(folder, tmp_path / kind), logits

    return made


@torch.no_grad()
def opened(folder, *words):
    """Logits of our load, whose one warning has the words; none without any."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        logits = minqwen.load(folder)(IDS)
    said = [str(one.message) for one in heard]
    assert len(said) == bool(words), said
    for word in words:
        assert word in said[0], said
    return logits


@torch.no_grad()
def theirs(folder):
    """What transformers makes of the folder."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    kind = "CausalLM" if config.model_type.endswith("_text") else "ImageTextToText"
    auto = getattr(transformers, "AutoModelFor" + kind)
    return auto.from_pretrained(folder, dtype=torch.float32).eval()(IDS).logits


def near(a, b):
    return (a - b).abs().max() < 2e-5 * b.abs().max()


def edit(file, change):
    """Let `change` alter a JSON file, or give other tensors for a safetensors file."""
    if file.suffix == ".json":
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))
    else:
        tensors = change(load_file(file))
        tensors = {name: t.contiguous().clone() for name, t in tensors.items()}
        save_file(tensors, file, {"format": "pt"})


# ---- other files beside the weights ----


@pytest.mark.parametrize("kind", ["one", "shards"])
def test_files_that_are_no_weights(copy, kind):
    folder, logits = copy(kind)
    weights = {}
    for file in sorted(folder.glob("*.safetensors")):
        weights |= load_file(file)
    lora = {"base_model.model.model.layers.0.mlp.up_proj.lora_A.weight": torch.ones(2)}
    mistral = {n.replace("model.language_model.", ""): t for n, t in weights.items()}
    save_file(lora, folder / "adapter_model.safetensors")
    save_file(mistral, folder / "consolidated.safetensors")
    save_file({"state.0.exp_avg": torch.ones(2)}, folder / "optimizer.safetensors")
    save_file(weights, folder / "model.fp32.safetensors")
    (folder / "._model.safetensors").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    (folder / ("._" + INDEX)).write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    (folder / "broken.safetensors").write_bytes(b"half a downl")
    got = opened(
        folder, "left aside, as no weights", "adapter_model", "consolidated",
        "optimizer", "fp32", "._model.safetensors", "broken.safetensors announces",
    )  # fmt: skip
    assert torch.equal(got, logits) and near(theirs(folder), logits)


def test_a_trace_saved_beside_the_weights(copy):
    folder, logits = copy("moe")
    model = minqwen.load(folder)
    with minqwen.record(model) as trace, torch.no_grad():
        model(IDS)
    trace.save(folder / "seven.safetensors")
    assert torch.equal(opened(folder, "left aside", "seven.safetensors"), logits)


def test_two_files_of_other_names(copy):
    """Without an index all count that hold something of the model, and no other."""
    folder, logits = copy("one")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file({n: t for n, t in weights.items() if n > UP}, folder / "b.safetensors")
    save_file({n: t for n, t in weights.items() if n <= UP}, folder / "a.safetensors")
    save_file({"state": torch.ones(1)}, folder / "c.safetensors")
    assert torch.equal(opened(folder, "left aside", "c.safetensors"), logits)


@pytest.mark.parametrize("names", ["mtp", "lm_head", "model.visual"])
def test_a_part_in_a_file_that_no_index_names(copy, names):
    """As conversions that lost the MTP head, and got it back, have it."""
    folder, logits = copy("mtp")
    weights = load_file(folder / "model.safetensors")
    part = {n: t for n, t in weights.items() if n.startswith(names)}
    main = {n: t for n, t in weights.items() if n not in part}
    (folder / "model.safetensors").unlink()
    shard = "model-00001-of-00001.safetensors"
    save_file(main, folder / shard)
    save_file(part, folder / f"{names}.safetensors")
    said = {"metadata": {}, "weight_map": dict.fromkeys(main, shard)}
    (folder / INDEX).write_text(json.dumps(said))
    assert torch.equal(opened(folder), logits)
    assert hasattr(minqwen.load(folder), "mtp")


def test_a_file_with_more_layers_is_no_part(copy, saved):
    """A shard left of a deeper model has only names that this one lacks."""
    folder, logits = copy("one")
    old = {UP.replace("layers.1", f"layers.{n}"): torch.ones(3) for n in (4, 5)}
    save_file(old, folder / "model-00003-of-00003.safetensors")
    assert torch.equal(opened(folder, "model-00003-of-00003"), logits)


# ---- the index and the files ----


def test_an_index_that_is_wrong_loses_to_the_files(copy):
    folder, logits = copy("shards")
    index = json.loads((folder / INDEX).read_text())
    other = next(
        f for f in index["weight_map"].values() if f != index["weight_map"][UP]
    )
    cases = {
        "omits " + UP: lambda said: said.pop(UP),
        f"puts {UP} in another": lambda said: said.update({UP: other}),
        "lists ghost, which no file holds": lambda said: said.update(ghost=other),
    }
    for words, change in cases.items():
        spoilt = {**index, "weight_map": dict(index["weight_map"])}
        change(spoilt["weight_map"])
        (folder / INDEX).write_text(json.dumps(spoilt))
        assert torch.equal(opened(folder, INDEX, words), logits)
        assert near(theirs(folder), logits)


def test_an_index_that_omits_a_whole_shard(copy):
    """Or two: it belongs to the rest by its number, and not by what it holds alone."""
    folder, logits = copy("shards")
    lost = sorted(folder.glob("model-0*.safetensors"))[1:3]
    names = {file.name for file in lost}
    edit(folder / INDEX, lambda said: said.update(weight_map={
        n: f for n, f in said["weight_map"].items() if f not in names}))  # fmt: skip
    assert torch.equal(opened(folder), logits)
    other = folder / "model-00002-of-00099.safetensors"
    lost[0].rename(other)
    refused(folder, "missing model.language_model")


def test_shards_swapped_or_renamed(copy):
    folder, logits = copy("shards")
    first, *_, last = sorted(folder.glob("*.safetensors"))
    first.rename(folder / "aside")
    last.rename(first)
    (folder / "aside").rename(last)
    assert torch.equal(opened(folder, "in another file than holds it"), logits)
    for file in sorted(folder.glob("model-*.safetensors")):
        file.rename(folder / file.name.replace("model-", "model.safetensors-"))
    assert torch.equal(opened(folder, "in another file than holds it"), logits)


def test_the_index_of_the_base_beside_a_merged_file(copy):
    folder, logits = copy("one")
    said = dict.fromkeys(load_file(folder / "model.safetensors"), "x-1.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": said}))
    got = opened(folder, "names files that are not there, so model.safetensors is read")
    assert torch.equal(got, logits) and near(theirs(folder), logits)


# ---- the head, the tower, dtypes ----


def test_a_tied_head_that_is_stored_too(copy):
    folder, logits = copy("tied")
    file = folder / "model.safetensors"
    edit(file, lambda t: t | {"lm_head.weight": t[WORDS]})
    assert torch.equal(opened(folder), logits) and near(theirs(folder), logits)
    assert minqwen.load(folder).cfg.tie_word_embeddings
    edit(file, lambda t: t | {"lm_head.weight": t[WORDS].flip(0)})
    got = opened(folder, "lm_head.weight differs from the embedding", "is used")
    assert torch.equal(got, logits.flip(-1)) and near(theirs(folder), got)
    edit(file, lambda t: {n: x for n, x in t.items() if n != WORDS})  # the head alone
    assert near(theirs(folder), opened(folder))


def test_tied_is_said_where_text_is(copy):
    """The upper level counts, as in transformers; without it the lower one does."""
    folder, logits = copy("tied")
    edit(folder / "config.json", lambda c: c.pop("tie_word_embeddings"))
    edit(folder / "config.json", lambda c: c["text_config"].update(
        tie_word_embeddings=True))  # fmt: skip
    assert torch.equal(opened(folder), logits)
    edit(folder / "config.json", lambda c: c.update(tie_word_embeddings=False))
    refused(folder, "missing lm_head.weight")


@pytest.mark.parametrize("kind", ["one", "moe"])
def test_a_vision_tower_that_is_declared_and_absent(copy, kind, tmp_path):
    folder, logits = copy(kind)
    edit(folder / "model.safetensors",
         lambda t: {n: x for n, x in t.items() if "visual" not in n})  # fmt: skip
    assert torch.equal(opened(folder, "without the vision tower"), logits)
    count = describe(folder)
    assert "vision       none" in count and " vision\n" not in count
    with pytest.warns(UserWarning):
        text = minqwen.load(folder)
    assert text.cfg.vision is None and text.cfg.model_type.endswith("_text")
    minqwen.save(text, tmp_path / "again")
    assert torch.equal(opened(tmp_path / "again"), logits)
    assert near(theirs(tmp_path / "again"), logits)


def test_half_a_tower_is_refused(copy):
    folder, _ = copy("one")
    name = "model.visual.blocks.1.attn.qkv.weight"
    edit(folder / "model.safetensors", lambda t: {n: t[n] for n in t if n != name})
    refused(folder, "missing " + name)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "both"])
@pytest.mark.parametrize("part", ["visual", "lm_head", "layers.0", "norm"])
def test_dtypes_may_be_mixed(copy, kind, part):
    folder, _ = copy("one")
    rest = torch.float32 if kind != "both" else torch.bfloat16
    own = torch.float16 if kind == "both" else getattr(torch, kind)
    edit(folder / "model.safetensors", lambda t: {
        n: x.to(own if part in n else rest) for n, x in t.items()})  # fmt: skip
    assert near(theirs(folder), opened(folder))


def test_one_wrong_label_among_others_is_found(copy):
    """The same bytes under the name of the other 16-bit kind, either way."""
    kinds = torch.bfloat16, torch.float16
    for main, wrong in (kinds, kinds[::-1]):
        folder, _ = copy("one")
        edit(folder / "model.safetensors", lambda t, main=main, wrong=wrong: {
            n: x.to(main).view(wrong if n == UP else main) for n, x in t.items()
        })  # fmt: skip
        refused(folder, UP, "by its label", "by its bytes")
        shutil.rmtree(folder)


# ---- names ----

SPELLINGS = {
    "without model.": lambda n: n.removeprefix("model."),
    "language_model. on top": lambda n: "language_model." + n,
    "thrice, and around the tower": lambda n: n.replace(
        "model.visual", "model.language_model.visual").replace(
        "language_model.", "language_model.language_model."),
    "without language_model.": lambda n: n.replace(".language_model.", "."),
}  # fmt: skip


@pytest.mark.parametrize("how", SPELLINGS)
@pytest.mark.parametrize("kind", ["one", "moe", "mtp", "text"])
def test_levels_left_out_or_repeated(copy, kind, how):
    folder, logits = copy(kind)
    spell = SPELLINGS[how]
    edit(folder / "model.safetensors", lambda t: {spell(n): x for n, x in t.items()})
    assert torch.equal(opened(folder), logits)


def test_saved_from_the_base_class(copy, tmp_path):
    """It has no output head, so only a tied one can write."""
    import transformers

    folder, logits = copy("tied")
    transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).save_pretrained(
        tmp_path / "base"
    )
    assert near(opened(tmp_path / "base"), logits)
    folder, _ = copy("one")
    transformers.AutoModel.from_pretrained(folder).save_pretrained(tmp_path / "b2")
    refused(tmp_path / "b2", "missing lm_head.weight")


def test_one_tensor_by_two_names(copy):
    folder, _ = copy("one")
    again = UP.replace("model.language_model.", "model.")
    edit(folder / "model.safetensors", lambda t: t | {again: t[UP]})
    refused(folder, UP, "by another name too")


def test_tensors_that_nothing_is_computed_from(copy):
    folder, logits = copy("one")
    layer = "model.language_model.layers.3.self_attn."
    names = [
        layer + "rotary_emb.inv_freq", layer + "k_scale", layer + "v_proj.v_scale",
        "model.rotary_emb.inv_freq", "model.visual.rotary_pos_emb.inv_freq",
        "v_head.summary.weight", "v_head.summary.bias", "score.weight",
        "classifier.weight", "value_head.weight", "model.score.weight",
    ]  # fmt: skip
    more = {name: torch.ones(2) for name in names}
    edit(folder / "model.safetensors", lambda t: t | more)
    assert torch.equal(opened(folder, "left aside", "classifier.weight and 10"), logits)


@pytest.mark.parametrize("name", [
    "lm_head.bias", UP.replace("weight", "bias"), UP.replace("weight", "lora_A.weight"),
    UP.replace("layers.1", "layers.4"), "model.visual.merger_list.0.norm.weight",
    "model.language_model.layers.1.mlp.gate.e_score_correction_bias",
])  # fmt: skip
def test_tensors_that_would_change_the_numbers(copy, name):
    folder, _ = copy("one")
    edit(folder / "model.safetensors", lambda t: t | {name: torch.ones(2)})
    refused(folder, f"unexpected {name}")


@pytest.mark.parametrize("word", ["_orig_mod.", "module.", "base_model.model.", "net."])
def test_words_of_wrappers_are_told(copy, word):
    folder, _ = copy("moe")
    edit(folder / "model.safetensors", lambda t: {word + n: x for n, x in t.items()})
    text = refused(folder, word, "save the model inside")
    assert f"have '{word}' in them" in text or word.startswith("base_model.")


def test_words_within_names_are_told(copy):
    """Of an adapter that was not merged, and of checkpointed or sharded training."""
    for word in ("base_layer", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"):
        folder, _ = copy("one")
        edit(folder / "model.safetensors", lambda t, word=word: {
            n.replace("mlp.", f"mlp.{word}."): x for n, x in t.items()})  # fmt: skip
        refused(folder, f"have '{word}.' in them")
        shutil.rmtree(folder)


def test_unknown_names_are_told_beside_missing_ones(copy):
    folder, _ = copy("one")
    edit(folder / "model.safetensors",
         lambda t: {n.replace("layers", "h"): x for n, x in t.items()})  # fmt: skip
    refused(folder, "missing ", "unexpected model.language_model.h.0")


def test_names_without_end_are_refused_at_once(copy):
    """Nothing that looks for a pattern in names takes long over them."""
    names = ["a." * 30_000 + "a", "model." * 10_000 + "x", "a_head." * 20_000 + "-"]
    for name in names:
        folder, _ = copy("one")
        edit(folder / "model.safetensors", lambda t, n=name: t | {n: torch.ones(1)})
        key = "scor" * 100_000 + "_func" * 100_000
        edit(folder / "config.json", lambda c, k=key: c["text_config"].update({k: 1}))
        begun = time.perf_counter()
        refused(folder, "unexpected " + name[:50])
        assert time.perf_counter() - begun < 5
        shutil.rmtree(folder)


# ---- folders that are something else ----


def test_an_adapter_by_itself(tmp_path):
    save_file(
        {"x.lora_A.weight": torch.ones(2)}, tmp_path / "adapter_model.safetensors"
    )
    refused(tmp_path, "LoRA adapter for a model it does not name")
    said = {"base_model_name_or_path": "Qwen/Qwen3.5-0.8B"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(said))
    refused(tmp_path, "adapter for Qwen/Qwen3.5-0.8B", "merge_and_unload")
    (tmp_path / "adapter_model.safetensors").unlink()
    (tmp_path / "adapter_model.bin").touch()
    refused(tmp_path, "LoRA adapter")


def test_other_formats(tmp_path):
    inner = tmp_path / "run" / "checkpoint-500"
    inner.mkdir(parents=True)
    (inner / "model.safetensors").touch()
    refused(
        tmp_path / "run",
        "no config.json and no .safetensors file; give",
        "checkpoint-500",
    )
    (tmp_path / "run" / "global_step500").mkdir()
    refused(tmp_path / "run", "a training run wrote to go on from")
    refused(tmp_path / "none", "does not exist")


@pytest.mark.parametrize("text, words", [
    ("version https://git-lfs.github.com/spec/v1\noid sha256:4d\n", "git lfs pull"),
    ("<!DOCTYPE html><html>please log in</html>", "a web page"),
])  # fmt: skip
def test_what_downloads_leave_instead(copy, text, words):
    folder, _ = copy("shards")
    file = sorted(folder.glob("*.safetensors"))[1]
    file.write_text(text)
    refused(folder, file.name, words)


def test_mlx_files(copy):
    folder, _ = copy("one")
    file = folder / "model.safetensors"
    save_file(load_file(file), file, {"format": "mlx"})
    refused(folder, "written by MLX", "take the checkpoint it was made from")


def test_a_repository_of_the_hub_cache(copy, tmp_path):
    folder, logits = copy("one")
    repository = tmp_path / "models--org--name"
    snapshots = repository / "snapshots"
    snapshots.mkdir(parents=True)
    refused(repository, "no snapshot")
    folder.rename(snapshots / "0123abc")
    for given in (repository, snapshots):
        assert torch.equal(opened(given), logits)
    (snapshots / "4567def").mkdir()
    refused(repository, "two or more snapshots", "0123abc", "4567def")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abc")
    refused(repository, "main is 0123abc")
    (repository / "refs" / "main").write_bytes(b"\xff\x1b[2J")
    (snapshots / ".DS_Store").touch()
    refused(repository, "give one of them: 0123abc, 4567def")
