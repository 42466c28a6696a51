"""A bag of decisions → its calls, one after the other, checked: a bag may come from anybody."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from rosbags.serde import SerdeError

from qwen2vl_robot.bounds import IMAGE_PIXELS, shown
from qwen2vl_robot.config import Strict, parse
from qwen2vl_robot.documents import parse_json
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.messages import CameraFrame
from qwen2vl_robot.recording.bag import BagReader, Recorded, types
from qwen2vl_robot.recording.form import ErrorForm, FrameForm, Pictures
from qwen2vl_robot.recording.recorder import PREFIX
from qwen2vl_robot.recording.setup import FORMAT, Setup
from qwen2vl_robot.recording.taps import HALTS, OUTPUTS, SETUP, TASK

_STRING, _IMAGE = "std_msgs/msg/String", "sensor_msgs/msg/Image"
_F = TypeVar("_F", bound=Strict)


class TapeEndError(Exception):
    """The recording ends here, while the flow asks for more."""


class DivergedError(Exception):
    """The flow asks for something else than it did when it was recorded."""


class BadTapeError(Exception):
    """A call is not what a recorder writes. No `RobotError`: the flow must not take it for an answer of a port."""


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One call of a bag: its number, its name, its JSON and its pictures by topic."""

    number: int
    name: str
    document: dict[str, Any]
    images: dict[str, list[Recorded]] = field(default_factory=dict)


class Tape:
    """Gives the answers of a bag in their order, and gathers what was decided by them.

    Attributes:
        setup: what the controller was made of.
        outputs: what was decided, as far as the bag was read; the bag's own JSON.

    Raises:
        BadInputError: no bag, no decisions in it, or of another format.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._reader = path, BagReader(path)
        self._entries = self._read()
        self._ended: Exception | None = None
        self.outputs: list[dict[str, Any]] = []
        self._halts: dict[str, dict[int, Any]] = {name: {} for name in HALTS}
        self._next: Entry | None = None
        self._at = 1  # the number of the call that was taken last
        try:
            self.setup = self._read_setup()
            self._pump()
        except BadTapeError as error:
            raise BadInputError(str(error)) from error

    # ------------------------------------------------------------------------------------------ the answers

    def begin_task(self) -> Entry | None:
        """The next task's beginning, None at the end of the bag.

        Raises:
            DivergedError: the task before asked for more when it was recorded.
        """
        if self._next is None:
            return None
        return self.take(TASK)

    def next_name(self) -> str | None:
        """The name of the next call, None at the end of the bag."""
        return None if self._next is None else self._next.name

    def take(self, name: str) -> Entry:
        """The next call, which has to be this one.

        Raises:
            DivergedError: it is another one.
            TapeEndError: there is none.
        """
        if self._ended is not None:
            raise self._ended  # the first reason counts: after it a flow stops its arm, which nobody recorded
        entry = self._next
        if entry is None:
            self._ended = TapeEndError(f"the recording ends before {name}")
        elif entry.name != name:
            text = f"at call {entry.number} the flow asks for {name}; recorded is {entry.name}"
            self._ended = DivergedError(text)
        if self._ended is not None or entry is None:
            return self.take(name)
        self._at = entry.number
        self._pump()
        return entry

    def answer(self, name: str) -> Any:
        """The recorded answer to the next call, as JSON.

        Raises:
            RobotError: the recorded error of the port.
            Diverged, TapeEndError: as `take`.
        """
        return self._answer(self.take(name))

    def frame(self, name: str) -> CameraFrame | None:
        """The recorded frame, every bit as it was."""
        entry = self.take(name)
        answer = self._answer(entry)
        if answer is None:
            return None
        form = self.parse(answer, FrameForm)
        try:
            return form.message(*self._pictures(entry, len(form.others)))
        except ValueError as error:
            raise self._bad(entry.number, str(error)) from error

    def halted(self, name: str, poll: int) -> tuple[bool, Any]:
        """Whether the answer changed with this poll of a halt, and to what."""
        changes = self._halts[name]
        return poll in changes, changes.get(poll)

    def whole(self, name: str) -> int:
        """The recorded answer, a whole number of 64 bits."""
        answer = self.answer(name)
        if not isinstance(answer, int) or isinstance(answer, bool) or abs(answer) >= 2**63:
            raise self._bad(self._at, f"{shown(repr(answer), 40)}; a whole number is needed")
        return answer

    def parse(self, data: Any, form: type[_F]) -> _F:
        """Check an answer (BadTapeError: it is none)."""
        try:
            return parse(data, form, f"{shown(self._path)}, call {self._at}")
        except BadInputError as error:
            raise self._ended_by(str(error)) from error

    def end(self) -> str:
        """Read what is left; says why the bag has no end, "" where it has one."""
        while self._next is not None:
            self._pump()
        return "" if self._reader.is_whole else self._reader.problem

    @property
    def is_whole(self) -> bool:
        """Whether the bag's end was read."""
        return self._reader.is_whole

    def _answer(self, entry: Entry) -> Any:
        error = entry.document.get("error")
        if error is not None:
            try:
                raise self.parse(error, ErrorForm).message()
            except ValueError as unknown:
                raise self._bad(entry.number, shown(unknown)) from unknown
        if "answer" not in entry.document:
            raise self._bad(entry.number, "no answer")
        return entry.document["answer"]

    # ------------------------------------------------------------------------------------------- reading on

    def _pump(self) -> None:
        """Read on to the next call that comes from outside; what was decided, and every halt, is kept."""
        for entry in self._entries:
            if entry.name in HALTS:
                poll = entry.document.get("poll")
                if not isinstance(poll, int):
                    raise self._bad(entry.number, "poll is missing")
                self._halts[entry.name][poll] = entry.document.get("answer")
            elif entry.name in OUTPUTS:
                self.outputs.append(entry.document)
            else:
                self._next = entry
                return
        self._next = None

    def _read(self) -> Iterator[Entry]:
        """Every call in its order, each with its pictures.

        Raises:
            BadTapeError: calls are missing, or one is not what a recorder writes.
        """
        images: dict[str, list[Recorded]] = defaultdict(list)
        last = 0
        for message in self._reader.messages():
            if not message.topic.startswith(f"{PREFIX}/"):
                continue
            if message.type == _IMAGE:
                images[message.topic].append(message)
            if message.type != _STRING:
                continue
            document = self._document(message)
            number, name = document.get("n"), document.get("call")
            if not isinstance(number, int) or not isinstance(name, str):
                raise self._bad(message.sequence, "no number or no name")
            if number != last + 1:
                raise self._ended_by(
                    f"{shown(self._path)}: calls {last + 1} to {number - 1} were dropped when it was recorded "
                    "(disk or computer too slow); what comes after them cannot be replayed"
                )
            last = number
            own = {topic: [m for m in found if m.sequence == number] for topic, found in images.items()}
            images.clear()
            yield Entry(number, name, document, own)

    def _read_setup(self) -> Setup:
        entry = next(self._entries, None)
        if entry is None:
            why = "it holds no decisions; `demo --record`, or `record` in the node's parameters, makes such bags"
            raise BadTapeError(f"{shown(self._path)}: {self._reader.problem or why}")
        setup = entry.document.get("setup")
        if entry.name != SETUP or not isinstance(setup, dict):
            raise BadTapeError(f"{shown(self._path)}: does not begin with a setup; no bag of decisions")
        if setup.get("format") != FORMAT:
            raise BadTapeError(
                f"{shown(self._path)}: format {shown(setup.get('format'), 40)}; this version replays format {FORMAT}"
            )
        return self.parse(setup, Setup)

    def _document(self, message: Recorded) -> dict[str, Any]:
        try:
            text = types().deserialize_cdr(message.data, _STRING).data  # type: ignore[attr-defined]
        except (SerdeError, ValueError) as error:
            raise self._bad(message.sequence, shown(error)) from error
        try:
            document = parse_json(text, f"{shown(self._path)}, call {message.sequence}")
        except BadInputError as error:
            raise self._ended_by(str(error)) from error
        if not isinstance(document, dict):
            raise self._bad(message.sequence, "no JSON object")
        return document

    def _pictures(self, entry: Entry, others: int) -> tuple[list[Pictures], list[npt.NDArray[np.uint8]]]:
        """The pictures of a frame and of further cameras, and the clip (ValueError: one is missing or malformed)."""
        found = []
        for index in range(1 + others):
            camera = f"{PREFIX}/camera{f'_{index}' if index else ''}"
            rgb, depth = entry.images.get(f"{camera}/image", []), entry.images.get(f"{camera}/depth", [])
            if len(rgb) != 1 or len(depth) != 1:
                raise ValueError(f"{len(rgb)} pictures and {len(depth)} depth images of {camera}")
            found.append(Pictures(_pixels(rgb[0], "rgb8"), _pixels(depth[0], "32FC1")))
        return found, [_pixels(m, "rgb8") for m in entry.images.get(f"{PREFIX}/camera/clip", [])]

    def _bad(self, number: int, why: str) -> BadTapeError:
        return self._ended_by(f"{shown(self._path)}, call {number}: {shown(why)}")

    def _ended_by(self, why: str) -> BadTapeError:
        """The error that ends the replay: the flow, which then stops its arm, gets it again."""
        self._ended = BadTapeError(why)
        return self._ended


def _pixels(message: Recorded, encoding: str) -> Any:
    """The pixels of an image message (ValueError: of another encoding or size than it says)."""
    try:
        image: Any = types().deserialize_cdr(message.data, _IMAGE)
    except SerdeError as error:
        raise ValueError(shown(error)) from error
    width, height = int(image.width), int(image.height)
    if image.encoding != encoding or not 0 < width * height <= IMAGE_PIXELS:
        raise ValueError(f"a {shown(image.encoding, 40)} of {width}x{height} px; {encoding} is needed")
    shape, dtype = ((height, width, 3), np.uint8) if encoding == "rgb8" else ((height, width), np.float32)
    data = np.asarray(image.data, np.uint8)
    if data.nbytes != int(np.prod(shape)) * np.dtype(dtype).itemsize:
        raise ValueError(f"an image of {width}x{height} px has {data.nbytes} bytes")
    pixels = data.view(dtype).reshape(shape)
    pixels.flags.writeable = False
    return pixels
