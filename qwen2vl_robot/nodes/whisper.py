"""An utterance → the sentence that a Whisper checkpoint hears in it, among those that the robot listens for, or None.

The sound is decoded twice: freely, and along the network of `nodes.spoken`. Where the robot's sentences explain the
sound much worse than any words do, it was something else, and nothing was heard.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from qwen2vl_robot.bounds import UTTERANCE_S, shown
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.nodes.sound import RATE_HZ
from qwen2vl_robot.nodes.spoken import Network, ends_in_stop, is_cut_off, make_network, sentence
from qwen2vl_robot.reading import asks_to_stop, read

Row: TypeAlias = tuple[int, ...]  # tokens
_BEAMS = 4
_MOST_TOKENS = 30
_PIECE_TOKENS = 12  # of a second or two in which a stop may be; what says more is none
# How much less likely the robot's sentence may be than free words (natural logarithm), from `bench voice --seed 0`.
_MOST_WORSE = 4.5
_MOST_WORSE_ALIKE = 8.0  # where free words sound alike: "lunch the ring can" for "nudge the green can"
_LEAST_ALIKE = 0.5  # share of letters in the same order
_MOST_WORSE_QUIET = 3.0  # of what moves nothing: such sentences are short, and fit to many sounds
_MOST_WORSE_STOP = 5.0  # where free words are no stop
_USUAL_WEIGHT = 0.3  # of how likely a sentence is without any sound
_SLACK = 2.5  # how much less likely than the likeliest a sentence may be that is weighed
_WEIGHED = 12  # sentences
_LEVEL = 0.7  # of full scale, to which the loudest sample is brought
_MOST_KNOWN = 20_000  # rows of tokens whose places are kept


@dataclass(frozen=True, slots=True)
class Weighed:
    """The likeliest of the robot's sentences for a sound, the likeliest free words, and how much likelier these are."""

    text: str
    free: str
    worse: float


class WhisperRecogniser:
    """Recognises whole utterances with the weights of a folder, or of the hub's local cache. Nothing is downloaded.

    Args:
        model: a folder, or a name of the hub such as "openai/whisper-base".

    Raises:
        BadInputError: torch or transformers is missing, or the weights are not on this machine.
    """

    def __init__(self, model: str) -> None:
        self.name = model
        where = {"local_files_only": True}
        try:
            self._torch: Any = importlib.import_module("torch")
            library: Any = importlib.import_module("transformers")
            self._model: Any = library.WhisperForConditionalGeneration.from_pretrained(model, **where).eval()
            self._tokens: Any = library.WhisperTokenizerFast.from_pretrained(model, **where)
            self._features: Any = library.WhisperFeatureExtractor.from_pretrained(
                model, chunk_length=int(UTTERANCE_S), **where
            )
            self._output: Any = importlib.import_module("transformers.modeling_outputs").BaseModelOutput
        except ImportError as error:
            raise BadInputError(f"--recogniser {shown(model)} needs torch and transformers") from error
        except (OSError, ValueError, RuntimeError) as error:
            raise BadInputError(f"--recogniser {shown(model)}: {_why(model, error)}") from error
        self._torch.set_num_threads(1)  # more of them wait for one another wherever other processes work
        self._shorten()
        self._prefix = self._tokens.convert_tokens_to_ids(
            ["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
        )
        self._paths = _Paths(self._tokens, make_network(sentence()))

    def _shorten(self) -> None:
        """Let the encoder see one utterance's time instead of 30 s, which costs a third of the time."""
        encoder, config = self._model.model.encoder, self._model.config
        places = int(UTTERANCE_S * 50)
        weight = encoder.embed_positions.weight.detach()[:places].clone()
        encoder.embed_positions = self._torch.nn.Embedding.from_pretrained(weight)
        config.max_source_positions = encoder.config.max_source_positions = places

    def recognise(self, samples: npt.NDArray[np.float32]) -> str | None:
        """Return the sentence of an utterance (mono, 16 kHz, -1 to 1), None where it is none of the robot's."""
        found = self.weigh(samples)
        if found is None:
            return None
        if asks_to_stop(found.text):
            return found.text if found.worse <= _MOST_WORSE_STOP or asks_to_stop(found.free) else None
        if not read(found.text).asks_for_motion:
            return found.text if found.worse <= _MOST_WORSE_QUIET else None
        if is_cut_off(found.free):
            return None
        is_alike = found.worse <= _MOST_WORSE_ALIKE and likeness(found.text, found.free) >= _LEAST_ALIKE
        return found.text if is_alike or found.worse <= _MOST_WORSE else None

    def is_stop(self, samples: npt.NDArray[np.float32]) -> bool:
        """Return whether free words hear a stop at the end of a piece of running sound."""
        seen = self._see(samples)
        return seen is not None and ends_in_stop(self._text(self._begin(seen)))

    def _begin(self, seen: Any) -> Row:
        """Return the first free words, among which a stop would be."""
        found = self._search(seen, 1, None, most=_PIECE_TOKENS)
        return found[0][1] if found else ()

    def weigh(self, samples: npt.NDArray[np.float32]) -> Weighed | None:
        """Return the likeliest of the robot's sentences, however unlikely it is."""
        seen = self._see(samples)
        if seen is None:
            return None
        free = self._search(seen, 1, None)
        rows = self._search(seen, _BEAMS, self._paths.after)[:_WEIGHED]
        if not rows or not free:
            return None
        # Whisper knows what people usually write: more of balls than of bowls. A part of that is taken out again.
        usual = self._usual([row for _, row in rows])
        score, row = max(zip(rows, usual, strict=True), key=lambda pair: pair[0][0] - _USUAL_WEIGHT * pair[1])[0]
        words = self._paths.words(row)
        return None if words is None else Weighed(" ".join(words), self._text(free[0][1]), free[0][0] - score)

    def _text(self, row: Row) -> str:
        return str(self._tokens.decode(row, skip_special_tokens=True)).strip()

    def _see(self, samples: npt.NDArray[np.float32]) -> Any:
        """Return the encoder's output; None for silence, and for what is too long."""
        loudest = float(np.abs(samples).max(initial=0.0))
        if not loudest > 0.0 or len(samples) > UTTERANCE_S * RATE_HZ:
            return None
        features = self._features(samples / loudest * _LEVEL, sampling_rate=RATE_HZ, return_tensors="pt")
        with self._torch.inference_mode():
            return self._model.model.encoder(features.input_features).last_hidden_state

    def _usual(self, rows: list[Row]) -> list[float]:
        """Return how likely each row is without any sound: the sums of its log-likelihoods."""
        torch, end, first = self._torch, self._paths.end, len(self._prefix) - 1
        longest = max(map(len, rows)) + 1
        tokens = torch.tensor([[*self._prefix, *row, *[end] * (longest - len(row))] for row in rows])
        nothing = torch.zeros(len(rows), 1, self._model.config.d_model)
        with torch.inference_mode():
            logits = self._model(encoder_outputs=self._output(nothing), decoder_input_ids=tokens).logits
        logs = torch.log_softmax(logits[:, first:-1], -1).gather(-1, tokens[:, first + 1 :, None])[..., 0]
        return [float(logs[i, : len(row) + 1].sum()) for i, row in enumerate(rows)]

    def _search(
        self, seen: Any, beams: int, after: Callable[[Row], list[int]] | None, most: int = _MOST_TOKENS
    ) -> list[tuple[float, Row]]:
        """Return rows of tokens behind the prefix with the sums of their log-likelihoods, the likeliest first.

        Args:
            seen: the encoder's output.
            beams: how many rows of tokens are followed.
            after: the tokens that may follow a row; None for any.
            most: tokens of a row; one that is longer is left out.
        """
        torch, end = self._torch, self._paths.end
        rows: list[tuple[float, Row]] = [(0.0, ())]
        slack = 0.0 if after is None else _SLACK
        whole: list[tuple[float, Row]] = []
        cache, feed = None, torch.tensor([self._prefix])
        for _ in range(most):
            with torch.inference_mode():
                out = self._model(
                    encoder_outputs=self._output(seen.expand(len(rows), -1, -1)),
                    decoder_input_ids=feed,
                    past_key_values=cache,
                    use_cache=True,
                )
            cache, logs = out.past_key_values, torch.log_softmax(out.logits[:, -1], -1)
            found = []
            for index, (score, row) in enumerate(rows):
                allowed = [int(logs[index].argmax())] if after is None else after(row)
                values = logs[index][allowed].tolist()
                found += [(score + value, index, token) for value, token in zip(values, allowed, strict=True)]
            found.sort(reverse=True)
            whole += [(score, rows[index][1]) for score, index, token in found if token == end]
            best = max((score for score, _ in whole), default=-math.inf)
            live = [option for option in found if option[2] != end and option[0] > best - slack][:beams]
            if not live:  # what follows only makes a row less likely
                break
            cache.reorder_cache(torch.tensor([index for _, index, _ in live]))
            rows = [(score, (*rows[index][1], token)) for score, index, token in live]
            feed = torch.tensor([[token] for _, _, token in live])
        return sorted(whole, reverse=True)


class _Paths:
    """The network's sentences as Whisper writes them: a capital first, commas anywhere, a mark at the end or none."""

    def __init__(self, tokenizer: Any, network: Network) -> None:
        self._network = network
        self.end = int(tokenizer.eos_token_id)
        self._encode: Any = tokenizer
        self._spelled: dict[tuple[str, bool], tuple[int, ...]] = {}
        self._comma, *self._marks = (self._ids(mark)[0] for mark in (",", ".", "?", "!"))
        self._known: dict[tuple[int, ...], tuple[_At, ...]] = {(): (_At(network.begin(), (), (), is_first=True),)}

    def _ids(self, text: str) -> tuple[int, ...]:
        # The longest piece first, as Whisper writes; not every tokenizer's file has the merges for that.
        whole = self._encode.convert_tokens_to_ids(text.replace(" ", "\u0120"))
        is_one = whole is not None and whole != self._encode.unk_token_id and whole != self.end
        return (whole,) if is_one else tuple(self._encode(text, add_special_tokens=False).input_ids)

    def _word(self, word: str, *, is_first: bool) -> tuple[int, ...]:
        key = word, is_first
        if key not in self._spelled:
            written = word.capitalize() if is_first or word == "i" else word
            self._spelled[key] = self._ids(f" {written}")
        return self._spelled[key]

    def after(self, tokens: tuple[int, ...]) -> list[int]:
        """Return the tokens that may follow; the end where nothing else may."""
        allowed: set[int] = set()
        for at in self._at(tokens):
            if at.is_over:
                continue
            if at.rest:
                allowed.add(at.rest[0])
                continue
            allowed |= {self._word(w, is_first=at.is_first)[0] for w in self._network.words(at.places)}
            if at.words:
                allowed.add(self._comma)
                if self._network.is_final(at.places):
                    allowed |= {self.end, *self._marks}
        return list(allowed) or [self.end]

    def words(self, tokens: tuple[int, ...]) -> tuple[str, ...] | None:
        """Return the words of a whole sentence's tokens, None where they are none."""
        while tokens and tokens[-1] == self.end:
            tokens = tokens[:-1]
        whole = (at.words for at in self._at(tokens) if not at.rest and self._network.is_final(at.places))
        return next((words for words in whole if words), None)

    def _at(self, tokens: tuple[int, ...]) -> tuple[_At, ...]:
        if tokens not in self._known:
            if len(self._known) > _MOST_KNOWN:
                self._known = {(): self._known[()]}
            self._known[tokens] = tuple(each for at in self._at(tokens[:-1]) for each in self._step(at, tokens[-1]))
        return self._known[tokens]

    def _step(self, at: _At, token: int) -> list[_At]:
        if at.rest:
            return [_At(at.places, at.words, at.rest[1:])] if at.rest[0] == token else []
        if at.words and token == self._comma:
            return [at]
        if token in self._marks:
            return [_At(at.places, at.words, (), is_over=True)] if self._network.is_final(at.places) else []
        found = []
        for word in self._network.words(at.places):
            ids = self._word(word, is_first=at.is_first)
            if ids[0] == token:
                found.append(_At(self._network.follow(at.places, word), (*at.words, word), ids[1:]))
        return found


@dataclass(slots=True)
class _At:
    """Where a row of tokens stands: the places of the network, the words behind it, and what is left of a word."""

    places: frozenset[int]
    words: tuple[str, ...]
    rest: tuple[int, ...]
    is_first: bool = False
    is_over: bool = False


def likeness(one: str, other: str) -> float:
    """Return the share of letters that two texts have in the same order, 0 to 1.

    >>> round(likeness("nudge the green can", "Lunch the ring can."), 1)
    0.7
    """
    first, second = ("".join(filter(str.isalpha, text.lower())) for text in (one, other))
    return float(SequenceMatcher(None, first, second, autojunk=False).ratio())


def _why(model: str, error: Exception) -> str:
    is_folder = os.sep in model and Path(model).is_dir()
    return (
        f"no Whisper checkpoint ({shown(error, 200)})"
        if is_folder
        else "its weights are not on this machine; nothing is downloaded while a robot listens: fetch them once with "
        f"`hf download {shown(model)}`"
    )
