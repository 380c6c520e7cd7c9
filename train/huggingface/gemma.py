"""Maps Castor's parameters to Hugging Face's Gemma and back: names, shapes and config.json.

The functions are pure and do not access files. `GemmaForCausalLM` (transformers) is the same model as Castor's. It has
pre-norm blocks, RMSNorm by 1 + weight with epsilon 1e-6, RoPE on the halves of a head, and gated GELU with tanh. Its
one embedding serves input and output and is multiplied by sqrt(width) at the input. Gemma stores matrices as [out, in]
and each layer separately. Castor stores [in, out], with a separate axis for heads and stacked layers.

    embedding [V, D]               model.embed_tokens.weight [V, D]
    layers/query [N, D, H, K]      model.layers.n.self_attn.q_proj.weight [H K, D]
    layers/key, value [N, D, G, K] model.layers.n.self_attn.k_proj, v_proj .weight [G K, D]
    layers/out [N, H, K, D]        model.layers.n.self_attn.o_proj.weight [D, H K]
    layers/gate, up [N, D, F]      model.layers.n.mlp.gate_proj, up_proj .weight [F, D]
    layers/down [N, F, D]          model.layers.n.mlp.down_proj.weight [D, F]
    layers/attention_norm/scale    model.layers.n.input_layernorm.weight [D]
    layers/mlp_norm/scale          model.layers.n.post_attention_layernorm.weight [D]
    final_norm/scale [D]           model.norm.weight [D]

Gemma has no muP factors, so they are multiplied into the weights: the queries' into q_proj, the logits' into the last
norm.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from castor.tasks.checks import check_integer, is_number
from castor.tasks.errors import CheckpointError, ConfigurationError
from castor.tasks.integrations.huggingface_tokenizer import PADDING_ID
from castor.tasks.vocabulary.vocabulary import EOS_ID, PAD_ID
from castor.train.model.decoder import DecoderConfig

NORM_EPSILON = 1e-6
_HEAD = "lm_head.weight"

_LAYER_NAMES = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "out": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
}
# The entries config.json must have for this model. Absent keys take Gemma's defaults, which are these values.
_FIXED = {
    "model_type": ("gemma",),
    "hidden_act": (
        "gelu_pytorch_tanh",
        "gelu",
    ),  # transformers treats "gelu" of the first Gemma releases as the tanh form
    "hidden_activation": ("gelu_pytorch_tanh", None),
    "rms_norm_eps": (NORM_EPSILON,),
    "tie_word_embeddings": (True,),
    "attention_bias": (False,),
    "use_bidirectional_attention": (None, False),
    "quantization_config": (None,),
}
_SIZES = {
    "vocab_size": "vocab_size",
    "embed": "hidden_size",
    "mlp": "intermediate_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
}
_LARGEST = 1 << 24  # of any size; the product of two of them still fits an int64
_MOST_LAYERS = 10_000


# ---------------------------------------------------------------------------------------------------------- config.json


def to_config(model: DecoderConfig, max_length: int, dtype: str = "float32") -> dict[str, Any]:
    """The content of config.json. max_length: tokens per row in training. dtype: of the tensors."""
    return {
        "architectures": ["GemmaForCausalLM"],
        **{key: getattr(model, field) for field, key in _SIZES.items()},
        "model_type": "gemma",
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": NORM_EPSILON,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "max_position_embeddings": max_length,
        "rope_theta": float(model.rope_theta),  # transformers 4
        "rope_parameters": {"rope_type": "default", "rope_theta": float(model.rope_theta)},  # transformers 5
        "bos_token_id": PAD_ID,  # the first token of a row, in training and here
        "eos_token_id": EOS_ID,
        "pad_token_id": PADDING_ID,
        "torch_dtype": dtype,
        "dtype": dtype,
    }


def from_config(config: Mapping[str, Any], dtype: str = "float32") -> tuple[DecoderConfig, int]:
    """(model, tokens per row) from the content of a config.json. dtype: of the model's matrix products.

    Raises ConfigurationError for the first entry that this model does not support.
    """
    if not isinstance(config, Mapping):
        raise ConfigurationError("config.json is not an object.", "Give the folder of a Gemma model.")
    for key, allowed in _FIXED.items():
        value = config.get(key, allowed[0])
        if value not in allowed:
            raise ConfigurationError(
                f"config.json has {key} = {value!r}; Castor's model has {allowed[0]!r}.",
                "Only models of type gemma can be imported.",
            )
    sizes = {}
    for field, key in _SIZES.items():
        value, most = config.get(key), _MOST_LAYERS if field == "layers" else _LARGEST
        sizes[field] = check_integer(f"config.json: {key}", value, at_least=1, at_most=most)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, Mapping) or rope.get("rope_type", rope.get("type", "default")) != "default":
        raise ConfigurationError(
            f"config.json scales RoPE: {rope!r}.", "Castor's model supports only plain RoPE (rope_type default)."
        )
    theta, length = (
        rope.get("rope_theta", config.get("rope_theta", 10_000.0)),
        config.get("max_position_embeddings", 8192),
    )
    for key, value in (("rope_theta", theta), ("max_position_embeddings", length)):
        if not is_number(value) or value <= 0:
            raise ConfigurationError(f"config.json has {key} = {value!r}.", "Give a positive number.")
    return DecoderConfig(**sizes, rope_theta=float(theta), dtype=dtype), int(length)


# ----------------------------------------------------------------------------------------------------------- parameters


def shapes(model: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of the state dict, in layer order."""
    D, H, G, K, F = model.embed, model.heads, model.kv_heads, model.head_dim, model.mlp
    of_layer = {
        "query": (H * K, D),
        "key": (G * K, D),
        "value": (G * K, D),
        "out": (D, H * K),
        "gate": (F, D),
        "up": (F, D),
        "down": (D, F),
    }
    result = {"model.embed_tokens.weight": (model.vocab_size, D)}
    for n in range(model.layers):
        result |= {
            f"model.layers.{n}.{tensor_name}.weight": of_layer.get(parameter, (D,))
            for parameter, tensor_name in _LAYER_NAMES.items()
        }
    return result | {"model.norm.weight": (D,)}


def to_state_dict(parameters: Mapping[str, Any], model: DecoderConfig) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (name, float32 tensor) in the order of `shapes`; only one tensor is in memory at a time."""
    layers = parameters["layers"]
    yield "model.embed_tokens.weight", np.asarray(parameters["embedding"], np.float32)
    for n in range(model.layers):
        for parameter, tensor_name in _LAYER_NAMES.items():
            leaf = layers[parameter]["scale"] if parameter.endswith("norm") else layers[parameter]
            yield (
                f"model.layers.{n}.{tensor_name}.weight",
                _to_tensor(parameter, np.asarray(leaf[n], np.float32), model),
            )
    scale = np.asarray(parameters["final_norm"]["scale"], np.float32)
    factor = np.float32(model.logit_scale)
    yield "model.norm.weight", scale if factor == 1 else factor * (1 + scale) - 1


def from_state_dict(read: Callable[[str], np.ndarray], names: set[str], model: DecoderConfig) -> dict[str, Any]:
    """The parameter tree of a model without muP, as float32 numpy arrays.

    read: name -> tensor of any float dtype.
    names: the tensors that exist.
    model: the decoder that config.json describes.

    Raises CheckpointError for tensors that are missing, misshapen, not finite or not part of the model.
    """
    wanted = shapes(model)
    missing = [name for name in wanted if name not in names]
    if missing:
        raise CheckpointError(
            f"the weights lack {missing[0]}"
            + (f" and {len(missing) - 1} more tensors that config.json asks for." if missing[1:] else "."),
            "Download all files of the folder again.",
        )
    surplus = sorted(name for name in names - wanted.keys() - {_HEAD} if not name.endswith("rotary_emb.inv_freq"))
    if surplus:
        raise CheckpointError(
            f"the weights contain {surplus[0]}, which a Gemma model with this config.json does not have.",
            "Is it another architecture?",
        )

    def tensor(name: str) -> np.ndarray:
        found = read(name)
        if found.shape != wanted[name]:
            what = f"{name} is {list(found.shape)}; config.json asks for {list(wanted[name])}."
            raise CheckpointError(what, "Use the config.json that belongs to the weights.")
        if not np.issubdtype(found.dtype, np.floating) and found.dtype.name != "bfloat16":
            raise CheckpointError(
                f"{name} holds {found.dtype}, not floats.",
                "Quantized weights are not supported: use the original ones.",
            )
        found = np.asarray(found, np.float32)
        if not np.isfinite(found).all():
            raise CheckpointError(f"{name} has values that are not finite.", "The weights are damaged.")
        return found

    def stacked(parameter: str) -> np.ndarray:
        parts = (
            _to_parameter(parameter, tensor(f"model.layers.{n}.{_LAYER_NAMES[parameter]}.weight"), model)
            for n in range(model.layers)
        )
        first = next(parts)
        result = np.empty((model.layers, *first.shape), np.float32)
        result[0] = first
        for n, part in enumerate(parts, 1):
            result[n] = part
        return result

    embedding = tensor("model.embed_tokens.weight")
    if _HEAD in names and not np.array_equal(np.asarray(read(_HEAD), np.float32), embedding):
        raise CheckpointError(
            f"{_HEAD} differs from model.embed_tokens.weight.",
            "Castor's model has one table for input and output.",
        )
    layers = {
        parameter: {"scale": stacked(parameter)} if parameter.endswith("norm") else stacked(parameter)
        for parameter in _LAYER_NAMES
    }
    return {"embedding": embedding, "layers": layers, "final_norm": {"scale": tensor("model.norm.weight")}}


def _to_tensor(parameter: str, array: np.ndarray, model: DecoderConfig) -> np.ndarray:
    """A layer's parameter -> Gemma's tensor."""
    if parameter.endswith("norm"):
        return array
    if parameter == "query" and model.query_scale != 1.0:
        array = array * np.float32(model.query_scale)
    matrix = array.reshape(-1, array.shape[-1]) if parameter == "out" else array.reshape(array.shape[0], -1)
    return np.ascontiguousarray(matrix.T)


def _to_parameter(parameter: str, tensor: np.ndarray, model: DecoderConfig) -> np.ndarray:
    """Gemma's tensor -> the layer's parameter."""
    H, G, K = model.heads, model.kv_heads, model.head_dim
    if parameter.endswith("norm"):
        return tensor
    if parameter == "out":
        return tensor.T.reshape(H, K, -1)
    heads = {"query": H, "key": G, "value": G}.get(parameter)
    return tensor.T.reshape(-1, heads, K) if heads else tensor.T
