"""train/huggingface/: the same model in Castor and transformers, and untrusted folders."""

import dataclasses
import functools
import io
import json
import re
import struct

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from castor.tasks.errors import CheckpointError, ConfigurationError, VocabularyError
from castor.train.checkpoints.parameters import load_parameters
from castor.train.huggingface import gemma as huggingface
from castor.train.huggingface import safetensors_files
from castor.train.huggingface.import_checkpoint import import_checkpoint
from castor.train.inference import inference
from castor.train.model.decoder import Decoder, DecoderConfig, abstract_parameters
from castor.train.partitioning import Partitioner

MODEL = DecoderConfig(vocab_size=128, embed=24, layers=3, heads=4, kv_heads=1, head_dim=8, mlp=40)
MODELS = [
    MODEL,
    dataclasses.replace(MODEL, kv_heads=2, rope_theta=500.0),
    dataclasses.replace(MODEL, mup_base_embed=6, mup_base_head_dim=2),
]


@functools.cache
def make_parameters(model: DecoderConfig):
    """Parameters as after some training: norms that are not 1, and logits of some size."""
    random = np.random.default_rng(0)

    def make(leaf):
        deviation = 0.2 if leaf.ndim < 3 else leaf.shape[1] ** -0.5
        return (deviation * random.normal(size=leaf.shape)).astype(np.float32)

    return jax.tree.map(make, nn.unbox(abstract_parameters(model)))


@functools.partial(jax.jit, static_argnums=0)
def logits(model: DecoderConfig, parameters, tokens):
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    return Decoder(model).apply({"params": parameters}, tokens, positions, jnp.ones_like(positions))


def our_logits(model: DecoderConfig, parameters, tokens: np.ndarray) -> np.ndarray:
    return np.asarray(logits(model, parameters, tokens))


def their_logits(folder, tokens: np.ndarray) -> np.ndarray:
    """The logits of transformers for a folder."""
    pytest.importorskip("torch", reason="needs torch: pip install castor[huggingface]")
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install castor[huggingface]")
    import torch

    model = transformers.AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    assert type(model).__name__ == "GemmaForCausalLM"
    with torch.no_grad():
        return model(torch.from_numpy(tokens.astype(np.int64))).logits.numpy()


def write(folder, model: DecoderConfig, parameters, **options) -> None:
    """An exported folder without a tokenizer."""
    folder.mkdir()
    sizes = {name: int(np.prod(shape)) for name, shape in huggingface.shapes(model).items()}
    safetensors_files.write(
        folder, sizes, huggingface.to_state_dict(parameters, model), **{"dtype": "float32", **options}
    )
    (folder / "config.json").write_text(json.dumps(huggingface.to_config(model, 64)))


def read(folder):
    """(model, parameters) of a folder."""
    model, _ = huggingface.from_config(json.loads((folder / "config.json").read_text()))
    with safetensors_files.Reader(folder) as reader:
        return model, huggingface.from_state_dict(reader, reader.names, model)


def stored(model_dir, model: DecoderConfig):
    """The parameters of a MODEL_DIR's latest checkpoint, as numpy arrays."""
    return jax.tree.map(
        np.asarray, load_parameters(str(model_dir), model, Partitioner.create({}, jax.devices()[:1]))[1]
    )


# ---------------------------------------------------------------------------------------------------------- the mapping


@settings(deadline=None, max_examples=20)
@given(*(st.integers(1, 3) for _ in range(5)), st.booleans())
def test_there_and_back_is_the_same(layers, groups, per_group, half, mlp, wide):
    model = DecoderConfig(
        vocab_size=7,
        embed=5 + wide,
        layers=layers,
        heads=groups * per_group,
        kv_heads=groups,
        head_dim=2 * half,
        mlp=mlp,
    )
    random = np.random.default_rng(layers)
    abstract = nn.unbox(abstract_parameters(model))
    parameters = jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(np.float32), abstract)
    state = dict(huggingface.to_state_dict(parameters, model))
    assert {name: tensor.shape for name, tensor in state.items()} == huggingface.shapes(model) and list(state) == list(
        huggingface.shapes(model)
    )
    again = huggingface.from_state_dict(state.__getitem__, set(state), model)
    jax.tree.map(np.testing.assert_array_equal, again, parameters)
    assert huggingface.from_config(huggingface.to_config(model, 99)) == (model, 99)


def test_muP_is_multiplied_in(tmp_path):
    """The plain model that is read back has the logits of the one with multipliers."""
    model, tokens = MODELS[2], np.arange(32).reshape(2, 16) % 128
    parameters = make_parameters(model)
    write(tmp_path / "m", model, parameters)
    plain, folded = read(tmp_path / "m")
    assert plain == dataclasses.replace(model, mup_base_embed=0, mup_base_head_dim=0)
    np.testing.assert_allclose(our_logits(plain, folded, tokens), our_logits(model, parameters, tokens), atol=2e-5)


# -------------------------------------------------------------------------------------------------- transformers itself


@pytest.mark.parametrize("model", MODELS, ids=["multi-query", "two groups, another theta", "muP"])
def test_transformers_gives_the_same_logits(tmp_path, model):
    parameters, tokens = make_parameters(model), np.random.default_rng(1).integers(0, 128, (3, 40)).astype(np.int32)
    write(tmp_path / "m", model, parameters, max_shard_bytes=10_000)
    assert len(list((tmp_path / "m").glob("model-*-of-*.safetensors"))) > 3
    ours, theirs = our_logits(model, parameters, tokens), their_logits(tmp_path / "m", tokens)
    assert np.std(ours) > 0.1 and np.abs(ours - theirs).max() < 1e-4


def test_a_model_of_transformers_is_read(tmp_path):
    torch = pytest.importorskip("torch", reason="needs torch: pip install castor[huggingface]")
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install castor[huggingface]")
    config = transformers.GemmaConfig(
        vocab_size=256,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=16,
    )
    torch.manual_seed(0)
    model = transformers.GemmaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    model.save_pretrained(tmp_path / "theirs")
    ours, parameters = read(tmp_path / "theirs")
    tokens = np.random.default_rng(2).integers(0, 256, (2, 24)).astype(np.int32)
    assert np.abs(our_logits(ours, parameters, tokens) - their_logits(tmp_path / "theirs", tokens)).max() < 1e-4


def sentencepiece_model(texts, **options) -> bytes:
    """A tokenizer like Gemma's: byte-pair pieces; pad, eos, bos and unk first; byte fallback; no space added."""
    import sentencepiece

    buffer = io.BytesIO()
    gemma = {
        "pad_id": 0,
        "eos_id": 1,
        "bos_id": 2,
        "unk_id": 3,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
    }
    plain = {
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "minloglevel": 2,
        "vocab_size": 320,
        "model_type": "bpe",
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=buffer, **gemma | plain | options
    )
    return buffer.getvalue()


def test_a_model_from_elsewhere_brings_its_tokenizer(tmp_path):
    """A text's logits equal those of transformers on its own ids; control tokens start at the mean of all
    embeddings.
    """
    import sentencepiece

    texts = ["the small red house runs", "and then the tree", "one two three"] * 4
    model = dataclasses.replace(MODEL, vocab_size=384)
    parameters = make_parameters(model)
    write(tmp_path / "theirs", model, parameters)
    configured(bos_token_id=2, eos_token_id=[1, 7], pad_token_id=0)(tmp_path / "theirs")
    (tmp_path / "theirs" / "tokenizer.model").write_bytes(sentencepiece_model(texts))
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "theirs" / "tokenizer.model"))

    import_checkpoint(str(tmp_path / "theirs"), str(tmp_path / "m"))
    ours = inference.Model.load(str(tmp_path / "m"))
    text, pieces = "the  tree runs\n\tü", len(theirs)
    ids = theirs.encode(text)
    assert (
        ours.vocabulary.encode(text) == [256 + i for i in ids]
        and ours.vocabulary.decode(ours.vocabulary.encode(text)) == text
    )
    assert ours.config.vocab_size == ours.vocabulary.vocab_size == 640 and isinstance(
        ours.generate_text("the", max_tokens=3), str
    )
    kept = stored(tmp_path / "m", ours.config)
    embedding = kept["embedding"]
    np.testing.assert_array_equal(embedding[256 : 256 + pieces], parameters["embedding"][:pieces])
    np.testing.assert_array_equal(embedding[:2], parameters["embedding"][[2, 1]])
    np.testing.assert_allclose(
        embedding[[2, 255, 639]], np.tile(parameters["embedding"].mean(axis=0), (3, 1)), atol=1e-6
    )
    found = our_logits(ours.config, kept, np.array([[0, *(256 + i for i in ids)]], np.int32))
    expected = our_logits(model, parameters, np.array([[2, *ids]], np.int32))
    np.testing.assert_allclose(found[:, :, 256 : 256 + pieces], expected[:, :, :pieces], atol=2e-5)

    (tmp_path / "theirs" / "tokenizer.model").write_bytes(sentencepiece_model(texts, add_dummy_prefix=True))
    with pytest.raises(VocabularyError, match="normalizes text before segmentation .add_dummy_prefix"):
        import_checkpoint(str(tmp_path / "theirs"), str(tmp_path / "other"))


@pytest.fixture(scope="module")
def trained(castor, tmp_path_factory):
    """A tiny run that has ended."""
    model_dir = tmp_path_factory.mktemp("huggingface") / "m"
    code, _, err = castor("train", *castor.bindings(model_dir, TRAIN_STEPS=4, EVAL_PERIOD=0))
    assert code == 0, err
    return model_dir


def test_a_checkpoint_goes_out_and_comes_back(castor, trained, vocabulary, tmp_path):
    code, out, err = castor("export", f"--model_dir={trained}", f"--output={tmp_path / 'out'}")
    assert code == 0 and re.search(r"checkpoint 4 of .*: model.safetensors$", out.strip()), (out, err)
    assert (
        castor("export", f"--model_dir={trained}", f"--output={tmp_path / 'out'}")[0] == 2
    )  # existing files are not overwritten

    code, out, err = castor("import", f"--from={tmp_path / 'out'}", f"--model_dir={tmp_path / 'back'}")
    assert code == 0 and "checkpoint 0" in out, (out, err)
    before, after = inference.Model.load(str(trained)), inference.Model.load(str(tmp_path / "back"))
    assert dataclasses.replace(before.config, attention="auto") == dataclasses.replace(
        after.config, remat=before.config.remat, attention="auto"
    )
    parameters = stored(trained, before.config)
    jax.tree.map(np.testing.assert_array_equal, stored(tmp_path / "back", after.config), parameters)
    assert (
        after.generate_text("the red", max_tokens=5) == before.generate_text("the red", max_tokens=5)
        and after.max_length == before.max_length
    )
    assert castor("import", f"--from={tmp_path / 'out'}", f"--model_dir={trained}")[0] == 2  # nor is a run

    code, _, err = castor(
        "train", f"--warm_start={tmp_path / 'back'}", *castor.bindings(tmp_path / "next", TRAIN_STEPS=1, EVAL_PERIOD=0)
    )
    assert code == 0, err
    first, goes_on = (
        json.loads((folder / "metrics.jsonl").read_text().splitlines()[0]) for folder in (trained, tmp_path / "next")
    )
    assert goes_on["loss"] < first["loss"] - 0.05  # the same batch after four updates
    # The folder's checkpoint is not a run to continue: the error lists what exists.
    code, _, err = castor("train", *castor.bindings(tmp_path / "back", TRAIN_STEPS=1, EVAL_PERIOD=0))
    assert code == 2 and err.count("\n") == 1, err

    tokens = np.array([[0, *vocabulary.encode("the small house runs and then")]], np.int32)
    assert np.abs(our_logits(before.config, parameters, tokens) - their_logits(tmp_path / "out", tokens)).max() < 1e-4


def test_transformers_reads_the_tokenizer(castor, trained, vocabulary, tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install castor[huggingface]")
    assert castor("export", f"--model_dir={trained}", f"--output={tmp_path / 'out'}", "--dtype=bfloat16")[0] == 0
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "out"))
    for text in ("the red square", "  12345\n\ttabs and  blanks ", "ü 漢字 🎈", "<image> <0x41> <image_code_0>", ""):
        ids = tokenizer(text, split_special_tokens=True)["input_ids"]
        assert ids == [0, *vocabulary.encode(text)] and tokenizer.decode(ids[1:]) == text
    picture = tokenizer("<image><size_2><size_2>")["input_ids"]
    assert picture == [0, vocabulary.control("<image>"), *2 * [vocabulary.control("<size_2>")]]
    assert tokenizer.convert_ids_to_tokens(vocabulary.image_range.start + 3) == "<image_code_3>"
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1, 9)


# ---------------------------------------------------------------------------------------------------------------- files


def test_shards_are_cut_by_size_and_bfloat16_comes_back(tmp_path):
    parameters = make_parameters(MODEL)
    write(tmp_path / "one", MODEL, parameters, dtype="bfloat16")
    write(tmp_path / "many", MODEL, parameters, dtype="bfloat16", max_shard_bytes=6_000)
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 2 * sum(leaf.size for leaf in jax.tree.leaves(parameters))
    assert index["weight_map"].keys() == huggingface.shapes(MODEL).keys()
    _, one = read(tmp_path / "one")
    _, many = read(tmp_path / "many")
    jax.tree.map(np.testing.assert_array_equal, one, many)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2**-8), one, parameters)


def damage_header(folder):
    with open(folder / "model.safetensors", "r+b") as file:
        file.write(struct.pack("<Q", 1 << 40))


def drop(name):
    def change(folder):
        from safetensors.numpy import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        del tensors[name]
        save_file(tensors, folder / "model.safetensors")

    return change


def replace(name, tensor):
    def change(folder):
        from safetensors.numpy import load_file, save_file

        save_file(load_file(folder / "model.safetensors") | {name: tensor}, folder / "model.safetensors")

    return change


def configured(**entries):
    def change(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | entries))

    return change


def indexed(weight_map):
    def change(folder):
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return change


def pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncated(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


NORM = "model.layers.1.input_layernorm.weight"


@pytest.mark.parametrize(
    "change, error, match",
    [
        (damage_header, CheckpointError, r"claims a header of 1,099,511,627,776 bytes"),
        (truncated, CheckpointError, r"model.safetensors cannot be read"),
        (pickled, CheckpointError, r"neither model.safetensors .*pytorch_model.bin may run code"),
        (drop(NORM), CheckpointError, rf"lack {NORM}\."),
        (replace(NORM, np.zeros(23, np.float32)), CheckpointError, rf"{NORM} is \[23\]; config.json asks for \[24\]"),
        (replace(NORM, np.full(24, np.nan, np.float32)), CheckpointError, rf"{NORM} has values that are not finite"),
        (replace(NORM, np.zeros(24, np.int8)), CheckpointError, rf"{NORM} holds int8, not floats"),
        (
            replace("model.layers.3.mlp.up_proj.weight", np.zeros(24, np.float32)),
            CheckpointError,
            r"contain model.layers.3.mlp.up_proj.weight, which",
        ),
        (
            replace("lm_head.weight", np.zeros((128, 24), np.float32)),
            CheckpointError,
            r"lm_head.weight differs from model.embed_tokens.weight",
        ),
        (configured(model_type="llama"), ConfigurationError, r"model_type = 'llama'"),
        (configured(hidden_act="silu"), ConfigurationError, r"hidden_act = 'silu'"),
        (configured(num_hidden_layers=10**9), ConfigurationError, r"num_hidden_layers = 1000000000"),
        (configured(vocab_size="128"), ConfigurationError, r"vocab_size = '128'"),
        (configured(rope_parameters={"rope_type": "yarn"}), ConfigurationError, r"scales RoPE.*yarn"),
        (configured(num_key_value_heads=3), ConfigurationError, r"multiple of kv_heads"),
        (indexed({NORM: "../model.safetensors"}), CheckpointError, r"names the shard '../model.safetensors'"),
        (indexed({NORM: "weights.bin"}), CheckpointError, r"names the shard 'weights.bin'"),
        (indexed({"other": "model.safetensors"}), CheckpointError, r"lacks other, which"),
        (indexed([]), CheckpointError, r"has no weight_map"),
    ],
)
def test_folders_that_are_not_what_they_say(tmp_path, change, error, match):
    write(tmp_path / "m", MODEL, make_parameters(MODEL))
    change(tmp_path / "m")
    with pytest.raises(error, match=match):
        import_checkpoint(str(tmp_path / "m"), str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()
