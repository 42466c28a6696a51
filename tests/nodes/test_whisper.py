"""A Whisper of a few random weights: whatever it hears is a sentence of the network, or nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizerFast

from qwen2vl_robot.nodes import whisper
from qwen2vl_robot.nodes.sound import RATE_HZ
from qwen2vl_robot.nodes.spoken import make_network, sentence
from qwen2vl_robot.nodes.whisper import WhisperRecogniser, likeness
from qwen2vl_robot.reading import read

SPECIAL = ("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")


def tokenizer() -> Any:
    """Whisper's kind of tokenizer, with bytes for pieces."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    return WhisperTokenizerFast(
        tokenizer_object=inner, unk_token=SPECIAL[0], bos_token=SPECIAL[0], eos_token=SPECIAL[0]
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whisper")
    tokens = tokenizer()
    end = tokens.convert_tokens_to_ids(SPECIAL[0])
    config = WhisperConfig(
        vocab_size=len(tokens), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, decoder_start_token_id=end + 1,
        pad_token_id=end, bos_token_id=end, eos_token_id=end,
    )  # fmt: skip
    WhisperForConditionalGeneration(config).save_pretrained(path)
    tokens.save_pretrained(path)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(path)
    return path


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_heard_is_a_sentence_that_is_listened_for(folder: Path, seed: int) -> None:
    listener, network = WhisperRecogniser(str(folder)), make_network(sentence())
    sound = np.random.default_rng(seed).normal(0, 0.1, 2 * RATE_HZ).astype(np.float32)
    found = listener.weigh(sound)
    if found is not None:
        places = network.begin()
        for word in found.text.split():
            places = network.follow(places, word)
        assert network.is_final(places)
        assert np.isfinite(found.worse)


def test_what_random_weights_hear_is_no_order(folder: Path) -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, RATE_HZ).astype(np.float32)
    heard = WhisperRecogniser(str(folder)).recognise(sound)
    assert heard is None or not read(heard).asks_for_motion


def test_a_sentence_may_end_only_where_it_is_whole() -> None:
    tokens = tokenizer()
    paths = whisper._Paths(tokens, make_network(sentence()))

    def of(text: str) -> tuple[int, ...]:
        return tuple(tokens(text, add_special_tokens=False).input_ids)

    assert paths.end not in paths.after(())
    assert paths.end not in paths.after(of(" Put the red block"))
    assert paths.end not in paths.after(of(" Put the red block on the blue"))
    for whole in (" Put the red block on the blue plate", " go home", " Stop.", " Please, stop!"):
        assert paths.end in paths.after(of(whole)), whole
    assert paths.words(of(" Go home.")) == ("go", "home")
    assert paths.words(of(" Go home and the")) is None
    assert paths.words(of(" The weather")) is None
    assert paths.after(of(" Qx")) == [paths.end]


def test_likeness_is_one_for_the_same_letters() -> None:
    assert likeness("go home", "Go home.") == 1.0
    assert likeness("go home", "xyz") == 0.0
