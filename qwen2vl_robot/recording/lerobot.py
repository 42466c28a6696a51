"""Bags of decisions → a LeRobot data set, version 3: an episode a task, refused and failed ones marked.

A bag has frames and states when the flow asked for them; LeRobot wants them at one rate. So each sample has the last
frame and the last state before its time. The action of a sample is the state of the next one.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from qwen2vl_robot.bounds import shown
from qwen2vl_robot.errors import BadInputError, ObservationError, RobotError
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.recording.form import InstructionForm, StateForm
from qwen2vl_robot.recording.tape import BadTapeError, Tape
from qwen2vl_robot.recording.taps import OUTCOME, TASK
from qwen2vl_robot.results import check_new

FPS = 5  # as often as the camera is asked while the arm moves
_VERSION = "v3.0"
_IMAGE, _STATE, _ACTION = "observation.images.camera", "observation.state", "action"
_CUT = "cut"  # the outcome of a task whose end is not in the bag
_FILE = "chunk-000/file-000.parquet"


@dataclass(slots=True, eq=False)
class Episode:
    """One task of a bag.

    Attributes:
        states: (stamp, joints and gripper) in the order of the stamps.
        frames: (stamp, (h, w, 3) uint8).
    """

    text: str
    outcome: str = _CUT
    reason: str = ""
    states: list[tuple[int, Array]] = field(default_factory=list)
    frames: list[tuple[int, npt.NDArray[np.uint8]]] = field(default_factory=list)

    def samples(self) -> Iterator[tuple[npt.NDArray[np.uint8], Array]]:
        """The last frame and state before each time of a regular clock; the first one begins with the first of both."""
        begin_ns = max(self.states[0][0], self.frames[0][0])
        count = 1 + max(0, self.states[-1][0] - begin_ns) * FPS // 1_000_000_000
        for index in range(count):
            at_ns = begin_ns + index * 1_000_000_000 // FPS
            yield _last(self.frames, at_ns), _last(self.states, at_ns)


def _last(entries: Sequence[tuple[int, Any]], at_ns: int) -> Any:
    return next((value for stamp_ns, value in reversed(entries) if stamp_ns <= at_ns), entries[0][1])


def read_episodes(path: Path) -> list[Episode]:
    """The tasks of a bag; of one that is cut, as far as they go.

    Raises:
        BadInputError: not a bag of decisions, or a broken one.
    """
    tape = Tape(path)
    episodes: list[Episode] = []
    try:
        while (name := tape.next_name()) is not None:
            if name == TASK:
                _end(episodes, tape.outputs)
                episodes.append(Episode(tape.parse(tape.answer(TASK), InstructionForm).text))
            elif episodes:
                _add(episodes[-1], tape, name)
            else:
                tape.take(name)
    except BadTapeError as error:
        raise BadInputError(str(error)) from error
    _end(episodes, tape.outputs)
    return episodes


def _add(episode: Episode, tape: Tape, name: str) -> None:
    """Add what one call shows; an error of a port shows nothing."""
    try:
        if name.startswith("camera."):
            frame = tape.frame(name)
            if frame is not None:
                episode.frames.append((frame.stamp_ns, frame.rgb))
        elif name == "arm.state":
            state = tape.parse(tape.answer(name), StateForm).message()
            episode.states.append((state.stamp_ns, np.array([*state.q_rad, state.gripper_width_m], np.float32)))
        else:
            tape.take(name)
    except (ObservationError, RobotError):
        return


def _end(episodes: list[Episode], outputs: list[dict[str, Any]]) -> None:
    """Note how the last task ended, where the bag says it."""
    last = outputs[-1] if outputs else {}
    if not episodes or episodes[-1].outcome != _CUT or last.get("call") != OUTCOME:
        return
    outcome = (last.get("answer") or {}).get("outcome")
    if not isinstance(outcome, dict):  # an exception ended it
        episodes[-1].outcome, episodes[-1].reason = "aborted", shown((last.get("error") or {}).get("text"))
        return
    causes = outcome.get("causes") or [{}]
    episodes[-1].outcome, episodes[-1].reason = shown(outcome.get("kind"), 40), shown(causes[0].get("reason") or "", 80)


def export(bags: Sequence[Path], out: Path) -> dict[str, int]:
    """Write a data set into a new folder; returns how many episodes ended how.

    Raises:
        BadInputError: a bag cannot be used, the folder is not empty, or pyarrow is missing.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise BadInputError("pyarrow is missing; run: pip install 'qwen2vl_robot[lerobot]'") from error
    check_new(out)
    episodes = [e for bag in bags for e in read_episodes(bag) if e.states and e.frames]
    if not episodes:
        raise BadInputError("no task in these bags has a frame and a joint state")
    widths = {len(state) for e in episodes for _, state in e.states}
    if len(widths) > 1:
        raise BadInputError(f"these bags are of arms with {sorted(n - 1 for n in widths)} joints; export them apart")
    _write(episodes, out)
    kinds = [e.outcome for e in episodes]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def _write(episodes: Sequence[Episode], out: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    size_px = min((f.shape[1::-1] for e in episodes for _, f in e.frames), key=lambda s: s[0] * s[1])
    tasks = list(dict.fromkeys(e.text for e in episodes))
    joints = len(episodes[0].states[0][1])
    schema = _schema(joints)
    rows, about = _Statistics(), []
    (out / "data" / "chunk-000").mkdir(parents=True)
    (out / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    with pq.ParquetWriter(out / "data" / _FILE, schema) as writer:
        for index, episode in enumerate(episodes):
            begin = rows.count
            columns = _columns(episode, index, tasks.index(episode.text), size_px, rows)
            writer.write_table(pa.Table.from_pydict(columns, schema=schema))
            about.append(_about(episode, index, begin, rows.count))
    pq.write_table(pa.Table.from_pylist(about), out / "meta" / "episodes" / _FILE)
    pq.write_table(_tasks(tasks), out / "meta" / "tasks.parquet")
    info = _info(len(episodes), rows.count, len(tasks), joints, size_px)
    (out / "meta" / "info.json").write_text(json.dumps(info, indent=4) + "\n", encoding="utf-8")
    (out / "meta" / "stats.json").write_text(json.dumps(rows.summary(), indent=4) + "\n", encoding="utf-8")


def _schema(joints: int) -> Any:
    """The columns of the data; `datasets` knows by the metadata which of them is a picture."""
    import pyarrow as pa

    vector, number = pa.list_(pa.float32(), joints), {"dtype": "int64", "_type": "Value"}
    sequence = {"feature": {"dtype": "float32", "_type": "Value"}, "length": joints, "_type": "Sequence"}
    counts = ("frame_index", "episode_index", "index", "task_index")
    features: dict[str, Any] = {_IMAGE: {"_type": "Image"}, _STATE: sequence, _ACTION: sequence}
    features |= {"timestamp": {"dtype": "float32", "_type": "Value"}, **dict.fromkeys(counts, number)}
    return pa.schema(
        [
            (_IMAGE, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            (_STATE, vector),
            (_ACTION, vector),
            ("timestamp", pa.float32()),
            *((name, pa.int64()) for name in counts),
        ],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )


def _columns(
    episode: Episode, index: int, task: int, size_px: tuple[int, int], rows: _Statistics
) -> dict[str, list[Any]]:
    samples = list(episode.samples())
    states = [state for _, state in samples]
    actions = [*states[1:], states[-1]]
    pictures = [np.asarray(Image.fromarray(rgb).resize(size_px)) for rgb, _ in samples]
    begin, count = rows.count, len(samples)
    rows.add(states, actions, pictures)
    return {
        _IMAGE: [{"bytes": _png(rgb), "path": f"frame-{i:06d}.png"} for i, rgb in enumerate(pictures)],
        _STATE: states,
        _ACTION: actions,
        "timestamp": [i / FPS for i in range(count)],
        "frame_index": list(range(count)),
        "episode_index": [index] * count,
        "index": list(range(begin, begin + count)),
        "task_index": [task] * count,
    }


def _png(rgb: npt.NDArray[np.uint8]) -> bytes:
    data = io.BytesIO()
    Image.fromarray(rgb).save(data, "PNG", compress_level=1)
    return data.getvalue()


def _about(episode: Episode, index: int, begin: int, end: int) -> dict[str, Any]:
    """An episode's line; `success`, `outcome` and `reason` are ours."""
    return {
        "episode_index": index,
        "tasks": [episode.text],
        "length": end - begin,
        "data/chunk_index": 0,
        "data/file_index": 0,
        "dataset_from_index": begin,
        "dataset_to_index": end,
        "meta/episodes/chunk_index": 0,
        "meta/episodes/file_index": 0,
        "success": episode.outcome == "achieved",
        "outcome": episode.outcome,
        "reason": episode.reason,
    }


def _tasks(tasks: list[str]) -> Any:
    """The table of tasks, which pandas reads back with the sentence as its index."""
    import pyarrow as pa

    index = "__index_level_0__"
    text = {"name": None, "field_name": index, "pandas_type": "unicode", "numpy_type": "object", "metadata": None}
    number = {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64"}
    columns = [{**number, "metadata": None}, text]
    about = {"index_columns": [index], "column_indexes": [], "columns": columns, "pandas_version": "2.0.0"}
    table = pa.table({"task_index": list(range(len(tasks))), index: tasks})
    return table.replace_schema_metadata({"pandas": json.dumps(about)})


def _info(episodes: int, frames: int, tasks: int, joints: int, size_px: tuple[int, int]) -> dict[str, Any]:
    names = [*(f"joint_{i + 1}.rad" for i in range(joints - 1)), "gripper.m"]
    vector = {"dtype": "float32", "shape": [joints], "names": names}
    counts = ("frame_index", "episode_index", "index", "task_index")
    return {
        "codebase_version": _VERSION,
        "robot_type": None,
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": tasks,
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": FPS,
        "splits": {"train": f"0:{episodes}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": None,
        "features": {
            _IMAGE: {"dtype": "image", "shape": [size_px[1], size_px[0], 3], "names": ["height", "width", "channels"]},
            _STATE: vector,
            _ACTION: vector,
            "timestamp": {"dtype": "float32", "shape": [1], "names": None},
            **{name: {"dtype": "int64", "shape": [1], "names": None} for name in counts},
        },
    }


class _Statistics:
    """Minimum, maximum, mean and deviation of what is written; of pictures by channel, 0 to 1.

    Attributes:
        count: samples so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._seen: dict[str, list[Array]] = {_STATE: [], _ACTION: [], _IMAGE: []}

    def add(self, states: list[Array], actions: list[Array], pictures: list[npt.NDArray[np.uint8]]) -> None:
        """Add the samples of an episode; of a picture every eighth pixel counts."""
        self.count += len(states)
        self._seen[_STATE] += states
        self._seen[_ACTION] += actions
        self._seen[_IMAGE] += [rgb[::8, ::8].reshape(-1, 3) / 255.0 for rgb in pictures]

    def summary(self) -> dict[str, dict[str, Any]]:
        """The numbers as `meta/stats.json` has them."""
        found = {}
        for name, seen in self._seen.items():
            values = np.vstack(seen).astype(np.float64)
            numbers = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
            shape = (3, 1, 1) if name == _IMAGE else (-1,)
            found[name] = {key: value.reshape(shape).tolist() for key, value in numbers.items()}
            found[name]["count"] = [self.count]
        return found
