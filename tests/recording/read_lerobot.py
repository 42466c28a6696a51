"""A LeRobot data set → what LeRobot's own library reads of it, as JSON; it needs lerobot, and nothing of ours."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from lerobot.datasets.lerobot_dataset import LeRobotDataset  # type: ignore[import-not-found]


def main() -> None:
    """Read every sample, and check what a training would rely on."""
    root = Path(sys.argv[1])
    data = LeRobotDataset("local/recorded", root=root)
    seen: dict[int, int] = {}
    for index in range(len(data)):
        item = data[index]
        picture, state, action = (item[k] for k in ("observation.images.camera", "observation.state", "action"))
        assert picture.ndim == 3 and picture.shape[0] == 3
        assert 0.0 <= float(picture.min()) <= float(picture.max()) <= 1.0
        assert state.shape == action.shape == tuple(data.meta.features["action"]["shape"])
        assert int(item["index"]) == index
        assert abs(float(item["timestamp"]) - int(item["frame_index"]) / data.fps) < 1e-4
        seen[int(item["episode_index"])] = seen.get(int(item["episode_index"]), 0) + 1
        assert isinstance(item["task"], str)
    episodes = [
        {"task": e["tasks"][0], "samples": seen[e["episode_index"]], "outcome": e["outcome"], "success": e["success"]}
        for e in data.meta.episodes
    ]
    assert [e["samples"] for e in episodes] == [e["length"] for e in data.meta.episodes]
    assert set(data.meta.stats) >= {"observation.state", "action", "observation.images.camera"}
    print(json.dumps({"episodes": episodes, "samples": len(data), "fps": data.fps}, indent=2))


if __name__ == "__main__":
    main()
