"""Hugging Face's models, from configurations and so with random weights: nothing is downloaded.

Needs transformers, imported where a model is built, so that the process of one model holds no other. Each takes
its batch by names and returns its own loss. Depths and widths are reduced, the structure is the library's.
"""

# mypy: disable-error-code="call-arg, no-any-return, import-not-found"
# Configurations take keywords that their signatures do not name; and the library need not be there.

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.architectures.architecture import Architecture, adafactor, masked_tokens, named_images, tokens

VOCABULARY = 16_000
LENGTH = 128
SIDE = 96
CLASSES = 100
FRAMES = 500  # of 10 ms: five seconds of speech
SAMPLES = 16_000  # one second of sound
LETTERS = 32


def gpt2() -> nn.Module:
    """A causal language model."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=LENGTH,
            n_embd=384,
            n_layer=6,
            n_head=6,
            bos_token_id=1,
            eos_token_id=2,
        )
    )


def llama() -> nn.Module:
    """A causal language model with rotary positions, grouped queries and gated layers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=384,
            intermediate_size=1024,
            num_hidden_layers=6,
            num_attention_heads=6,
            num_key_value_heads=2,
            max_position_embeddings=LENGTH,
        )
    )


def mixtral() -> nn.Module:
    """A mixture of eight experts, two for each token: which ones, only the data tells."""
    from transformers import MixtralConfig, MixtralForCausalLM

    return MixtralForCausalLM(
        MixtralConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=8,
            num_key_value_heads=4,
            num_local_experts=8,
            num_experts_per_tok=2,
            max_position_embeddings=LENGTH,
        )
    )


def _bert_sizes() -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "max_position_embeddings": LENGTH,
    }


def bert() -> nn.Module:
    """A masked language model."""
    from transformers import BertConfig, BertForMaskedLM

    return BertForMaskedLM(BertConfig(**_bert_sizes()))


def albert() -> nn.Module:
    """A masked language model whose layers share their parameters: activations without weights."""
    from transformers import AlbertConfig, AlbertForMaskedLM

    return AlbertForMaskedLM(AlbertConfig(embedding_size=128, **_bert_sizes()))


def distilbert() -> nn.Module:
    """A masked language model, distilled."""
    from transformers import DistilBertConfig, DistilBertForMaskedLM

    return DistilBertForMaskedLM(
        DistilBertConfig(
            vocab_size=VOCABULARY, max_position_embeddings=LENGTH, dim=384, hidden_dim=1536, n_layers=4, n_heads=6
        )
    )


def t5() -> nn.Module:
    """An encoder and a decoder, with positions as an additive bias of the attention."""
    from transformers import T5Config, T5ForConditionalGeneration

    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=VOCABULARY,
            d_model=384,
            d_kv=64,
            d_ff=1024,
            num_layers=4,
            num_heads=6,
            decoder_start_token_id=0,
        )
    )


def vit() -> nn.Module:
    """A transformer over patches of an image."""
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(
        ViTConfig(
            image_size=SIDE,
            patch_size=8,
            hidden_size=384,
            intermediate_size=1536,
            num_hidden_layers=6,
            num_attention_heads=6,
            num_labels=CLASSES,
        )
    )


def swin() -> nn.Module:
    """A transformer over windows of an image, shifted from layer to layer."""
    from transformers import SwinConfig, SwinForImageClassification

    return SwinForImageClassification(
        SwinConfig(
            image_size=SIDE,
            patch_size=2,
            embed_dim=64,
            depths=[2, 2, 4, 2],
            num_heads=[2, 4, 8, 16],
            window_size=6,
            num_labels=CLASSES,
        )
    )


def segformer() -> nn.Module:
    """A segmentation of images, by attention to a coarser grid."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    return SegformerForSemanticSegmentation(SegformerConfig(num_labels=20))


def pixels(batch_size: int) -> dict[str, Tensor]:
    """Images, and the class of each pixel."""
    labels = torch.randint(20, (batch_size, SIDE, SIDE))
    return {"pixel_values": torch.randn(batch_size, 3, SIDE, SIDE), "labels": labels}


def whisper() -> nn.Module:
    """Speech to text: convolutions and a transformer over a spectrogram, then a decoder."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    return WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=VOCABULARY,
            d_model=384,
            encoder_layers=4,
            decoder_layers=4,
            encoder_attention_heads=6,
            decoder_attention_heads=6,
            encoder_ffn_dim=1536,
            decoder_ffn_dim=1536,
            max_source_positions=FRAMES // 2,
            max_target_positions=LENGTH,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
            begin_suppress_tokens=None,
        )
    )


def spectrograms(batch_size: int) -> dict[str, Tensor]:
    """Spectrograms (n, 80, 500) and their transcripts (n, 32)."""
    return {
        "input_features": torch.randn(batch_size, 80, FRAMES),
        "labels": torch.randint(VOCABULARY, (batch_size, 32)),
    }


def wav2vec2() -> nn.Module:
    """Sound to letters, aligned by the loss (connectionist temporal classification)."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    return Wav2Vec2ForCTC(
        Wav2Vec2Config(
            vocab_size=LETTERS,
            hidden_size=384,
            intermediate_size=1536,
            num_hidden_layers=4,
            num_attention_heads=6,
            conv_dim=(256,) * 7,
            num_conv_pos_embedding_groups=8,
            layerdrop=0.0,  # a layer left out at random would make every step another one
            ctc_loss_reduction="mean",
        )
    )


def sounds(batch_size: int) -> dict[str, Tensor]:
    """One second of sound (n, 16000) and ten letters of each (n, 10); 0 is the blank."""
    return {
        "input_values": torch.randn(batch_size, SAMPLES),
        "labels": torch.randint(1, LETTERS, (batch_size, 10)),
    }


def clip() -> nn.Module:
    """Images against texts: the loss compares each with each, so memory grows with the square of the batch."""
    from transformers import CLIPConfig, CLIPModel

    common = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4}
    ends = {"bos_token_id": 0, "eos_token_id": 1}
    return CLIPModel(
        CLIPConfig(
            text_config={**common, "vocab_size": VOCABULARY, "max_position_embeddings": 32, **ends},
            vision_config={**common, "image_size": SIDE, "patch_size": 8},
            projection_dim=256,
        )
    )


def captioned_images(batch_size: int) -> dict[str, Any]:
    """Images and a text of 32 tokens for each."""
    return {
        "pixel_values": torch.randn(batch_size, 3, SIDE, SIDE),
        "input_ids": torch.randint(2, VOCABULARY, (batch_size, 32)),
        "return_loss": True,
    }


HUGGING_FACE = (
    Architecture(
        name="gpt2",
        build_model=gpt2,
        make_batch=tokens(VOCABULARY, LENGTH),
        source="Radford et al. 2019, Language Models are Unsupervised Multitask Learners",
    ),
    Architecture(
        name="llama",
        build_model=llama,
        make_batch=tokens(VOCABULARY, LENGTH),
        source="Touvron et al. 2023, arXiv 2302.13971",
    ),
    Architecture(
        name="mixtral",
        build_model=mixtral,
        make_batch=tokens(VOCABULARY, LENGTH),
        source="Jiang et al. 2024, arXiv 2401.04088",
    ),
    Architecture(
        name="bert",
        build_model=bert,
        make_batch=masked_tokens(VOCABULARY, LENGTH),
        source="Devlin et al. 2018, arXiv 1810.04805",
    ),
    Architecture(
        name="albert",
        build_model=albert,
        make_batch=tokens(VOCABULARY, LENGTH),
        source="Lan et al. 2019, arXiv 1909.11942",
    ),
    Architecture(
        name="distilbert",
        build_model=distilbert,
        make_batch=masked_tokens(VOCABULARY, LENGTH),
        source="Sanh et al. 2019, arXiv 1910.01108",
    ),
    Architecture(
        name="t5",
        build_model=t5,
        make_batch=tokens(VOCABULARY, LENGTH // 2),
        optimizer=adafactor,
        source="Raffel et al. 2019, arXiv 1910.10683",
    ),
    Architecture(
        name="vit",
        build_model=vit,
        make_batch=named_images(SIDE, CLASSES),
        source="Dosovitskiy et al. 2020, arXiv 2010.11929",
    ),
    Architecture(
        name="swin",
        build_model=swin,
        make_batch=named_images(SIDE, CLASSES),
        source="Liu et al. 2021, arXiv 2103.14030",
    ),
    Architecture(
        name="segformer",
        build_model=segformer,
        make_batch=pixels,
        source="Xie et al. 2021, arXiv 2105.15203",
    ),
    Architecture(
        name="whisper",
        build_model=whisper,
        make_batch=spectrograms,
        source="Radford et al. 2022, arXiv 2212.04356",
    ),
    Architecture(
        name="wav2vec2",
        build_model=wav2vec2,
        make_batch=sounds,
        source="Baevski et al. 2020, arXiv 2006.11477",
    ),
    Architecture(
        name="clip",
        build_model=clip,
        make_batch=captioned_images,
        source="Radford et al. 2021, arXiv 2103.00020",
    ),
)
