"""LayerNorms of networks as packages build them, with random weights: made RMSNorms exactly, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import normfold
from torch_nets import define_vision_operators

EXACT = 1e-12
WORDS, WIDTH = 50, 32
SMALL = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def shaken(module: nn.Module) -> nn.Module:
    """In float64, with no constant at its initial value."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return module.double().eval()


def words() -> dict[str, Any]:
    return {"input_ids": torch.randint(0, WORDS, (2, 7))}


def gpt2(transformers: Any) -> tuple[nn.Module, Any]:
    config = transformers.GPT2Config(n_embd=WIDTH, n_layer=2, n_head=2, vocab_size=WORDS, n_positions=32)
    return transformers.GPT2Model(config), words() | {"use_cache": False}


def llama(transformers: Any) -> tuple[nn.Module, Any]:
    """With LayerNorms, as models of its shape had them."""
    module = transformers.LlamaModel(transformers.LlamaConfig(**SMALL, num_key_value_heads=2, vocab_size=WORDS))
    for layer in module.layers:
        layer.input_layernorm, layer.post_attention_layernorm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
    module.norm = nn.LayerNorm(WIDTH)
    return module, words() | {"use_cache": False}


def t5(transformers: Any) -> tuple[nn.Module, Any]:
    config = transformers.T5Config(d_model=WIDTH, d_ff=64, num_layers=2, num_heads=2, d_kv=16, vocab_size=WORDS)
    return transformers.T5EncoderModel(config), words()


def bert(transformers: Any) -> tuple[nn.Module, Any]:
    return transformers.BertModel(transformers.BertConfig(**SMALL, vocab_size=WORDS)), words()


def wav2vec2(transformers: Any) -> tuple[nn.Module, Any]:
    config = transformers.Wav2Vec2Config(
        **SMALL,
        conv_dim=(16, 16),
        conv_stride=(5, 2),
        conv_kernel=(10, 3),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        do_stable_layer_norm=True,
        feat_extract_norm="layer",
    )
    return transformers.Wav2Vec2Model(config), {"input_values": torch.randn(1, 400, dtype=torch.float64)}


def vit(name: str, **options: Any) -> Callable[[Any], tuple[nn.Module, Any]]:
    def make(_: Any) -> tuple[nn.Module, Any]:
        timm = pytest.importorskip("timm")
        small = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
        return timm.create_model(name, **small, **options), (torch.randn(2, 3, 32, 32, dtype=torch.float64),)

    return make


def ran(module: nn.Module, example: Any) -> torch.Tensor:
    with torch.no_grad():
        out = module(**example) if isinstance(example, dict) else module(*example)
    return out if isinstance(out, torch.Tensor) else out.last_hidden_state


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        gpt2,
        llama,
        vit("vit_tiny_patch16_224"),
        vit("vit_tiny_patch16_224", global_pool="avg"),
        vit("deit_tiny_distilled_patch16_224"),
    ],
)
def test_converted_whole(make: Callable[[Any], tuple[nn.Module, Any]]) -> None:
    define_vision_operators()
    module, example = make(pytest.importorskip("transformers"))
    module = shaken(module)
    done = normfold.convert(module, example, to="rms")
    assert {(one.outcome, one.label) for one in done.decisions} == {("converted", "exact")}
    assert len(done.decisions) == 5
    assert not any(isinstance(inner, nn.LayerNorm) for inner in done.model.modules())
    wanted, got = ran(module, example), ran(done.model, example)
    assert float((got - wanted).abs().max()) <= EXACT * float(wanted.max() - wanted.min())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "converted", "reasons"),
    [
        # The norms are RMSNorms.
        (t5, 0, {"convertible"}),
        # Post-LN: norms write the stream, and attention reads it as it is.
        (bert, 0, {"linear-producer", "linear-consumer", "room"}),
        # A convolution of positions reads the stream, and what it makes is added through a GELU.
        (wav2vec2, 2, {"linear-producer", "linear-consumer", "constant"}),
        # Scales by channel that a block's forward applies itself.
        (vit("beit_base_patch16_224"), 0, {"needs-structure"}),
    ],
)
def test_refused_with_the_reason(
    make: Callable[[Any], tuple[nn.Module, Any]], converted: int, reasons: set[str]
) -> None:
    define_vision_operators()
    module, example = make(pytest.importorskip("transformers"))
    module = shaken(module)
    done = normfold.convert(module, example, to="rms")
    assert sum(one.outcome == "converted" for one in done.decisions) == converted
    refused = {str(refusal.premise) for one in done.decisions for refusal in one.refused_by}
    assert refused - {"calibration-data"} == reasons
    wanted, got = ran(module, example), ran(done.model, example)
    assert float((got - wanted).abs().max()) <= EXACT * float(wanted.max() - wanted.min())
