"""A fine-tuning learns, goes on after it was killed as if it had not been, and its adapter is what it trained."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from qwen2vl_robot.cli import app
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.messages import Instruction, PlannerRequest
from qwen2vl_robot.planner.adapter import CONFIG, WEIGHTS
from qwen2vl_robot.planner.loading import OpenedModel, open_model
from qwen2vl_robot.planner.local import LocalPlanner
from qwen2vl_robot.planner.sources import ModelSettings, read_settings
from qwen2vl_robot.training.lora import LoraSettings, train_lora
from qwen2vl_robot.training.lora_data import Collator, Data
from qwen2vl_robot.training.lora_files import STATE, merge
from tests.tiny_models import save_samples, save_tiny

pytest.importorskip("peft", reason="the extra [finetune] is not installed")
pytest.importorskip("accelerate", reason="the extra [finetune] is not installed")
ROOT = Path(__file__).resolve().parents[2]
STEPS = 40
CHILD = """
import sys
from pathlib import Path
import torch
from qwen2vl_robot.errors import RobotError
from qwen2vl_robot.planner.sources import read_settings
from qwen2vl_robot.training import lora
torch.set_num_threads(1)
model, data, out, steps, file_bytes = sys.argv[1:]
lora.SAVE_EVERY_S = 0.0
if int(file_bytes):
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(file_bytes), resource.RLIM_INFINITY))
try:
    for figures in lora.train_lora(lora.LoraSettings(read_settings(model), Path(data), Path(out), int(steps), 0,
                                                     rank=4, rate=1e-2, image_tokens=24)):
        print(figures["step"], flush=True)
except RobotError as error:
    print(error)
"""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_samples(tmp_path_factory.mktemp("data") / "plans", pictures=0, plans=4)


def settings_of(base: str, folder: Path, out: Path) -> LoraSettings:
    return LoraSettings(read_settings(base), folder, out, STEPS, 0, rank=4, rate=3e-2, image_tokens=24)


@pytest.fixture(scope="module")
def trained(base: str, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, float]]]:
    out = tmp_path_factory.mktemp("runs") / "adapter"
    return out, list(train_lora(replace(settings_of(base, folder, out), validation=folder)))


def logits(opened: OpenedModel, folder: Path) -> torch.Tensor:
    collator = Collator(opened.tokenizer, opened.images, opened.contract, opened.model.config, torch.device("cpu"))
    inputs, _ = collator.collate(Data(folder, 24, 0, opened.images).batch(0))
    with torch.no_grad():
        answer: torch.Tensor = opened.model.eval()(**inputs).logits
    return answer


def test_the_loss_falls(trained: tuple[Path, list[dict[str, float]]]) -> None:
    _, figures = trained
    assert [f["step"] for f in figures] == list(range(1, STEPS + 1))
    assert figures[-1]["loss"] < 0.5 * figures[0]["loss"]
    assert figures[-1]["validation_loss"] == pytest.approx(figures[-1]["loss"], rel=0.2)
    assert max(f["image_tokens"] for f in figures) <= 24


def test_the_adapter_is_a_models_name_and_peft_reads_it_alike(
    base: str, folder: Path, trained: tuple[Path, list[dict[str, float]]]
) -> None:
    from peft import PeftModel

    ours, plain = (open_model(ModelSettings(model=str(m))) for m in (trained[0], base))
    before = logits(plain, folder)
    theirs = replace(plain, model=PeftModel.from_pretrained(plain.model, trained[0]))
    torch.testing.assert_close(logits(ours, folder), logits(theirs, folder), atol=1e-3, rtol=1e-3)
    assert (logits(ours, folder) - before).abs().max() > 1.0


def test_a_merged_model_is_the_same_model(
    folder: Path, trained: tuple[Path, list[dict[str, float]]], tmp_path: Path
) -> None:
    said = CliRunner().invoke(app, ["merge", str(trained[0]), "--out", str(tmp_path / "merged")])
    assert said.exit_code == 0, said.output
    merged, adapter = (open_model(ModelSettings(model=str(m))) for m in (tmp_path / "merged", trained[0]))
    assert merged.contract == adapter.contract
    assert torch.equal(logits(merged, folder), logits(adapter, folder))
    request = PlannerRequest(np.full((56, 84, 3), 90, np.uint8), Instruction("pick up the red block"))
    replies = [LocalPlanner(str(m)).reply(request).text for m in (tmp_path / "merged", trained[0])]
    assert replies[0] == replies[1]
    with pytest.raises(BadInputError, match="exists and is not empty"):
        merge(trained[0], tmp_path / "merged")


def start(base: str, folder: Path, out: Path, steps: int, file_bytes: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, base, str(folder), str(out), str(steps), str(file_bytes)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def finish(child: subprocess.Popen[str]) -> list[str]:
    said, complaints = child.communicate(timeout=300)
    assert child.returncode == 0, complaints
    return said.splitlines()


def test_a_run_that_was_killed_ends_with_the_weights_of_one_that_was_not(
    base: str, folder: Path, tmp_path: Path
) -> None:
    steps = 12
    whole = start(base, folder, tmp_path / "whole", steps)
    cut = start(base, folder, tmp_path / "cut", steps)
    assert cut.stdout is not None
    while cut.stdout.readline().strip() != "5":
        assert cut.poll() is None
    cut.send_signal(signal.SIGKILL)
    cut.wait()
    said = finish(start(base, folder, tmp_path / "cut", steps))
    assert 5 < int(said[0]) < steps and int(said[-1]) == steps  # it went on, and did not begin anew
    assert len(finish(whole)) == steps
    files = [(tmp_path / run / WEIGHTS).read_bytes() for run in ("whole", "cut")]
    assert files[0] == files[1]
    moments = [torch.load(tmp_path / run / STATE, weights_only=True)["optimiser"]["state"] for run in ("whole", "cut")]
    for name, state in moments[0].items():
        assert all(torch.equal(value, moments[1][name][key]) for key, value in state.items())


def test_a_full_disk_is_one_clear_line_and_keeps_what_was_saved(base: str, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    finish(start(base, folder, out, 2))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    said = finish(start(base, folder, out, 4, file_bytes=20_000))
    assert said == [f"{out / STATE}: cannot be written: File too large"]
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_loss_that_is_no_number_ends_the_training_and_changes_nothing(
    base: str, folder: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in Path(base).iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = load_file(broken / "model.safetensors")
    weights[next(name for name in weights if name.endswith("model.norm.weight"))] *= torch.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInputError, match="step 1: the loss is nan.*give a lower --rate than 0.03"):
        list(train_lora(settings_of(str(broken), folder, tmp_path / "run")))
    assert not (tmp_path / "run" / WEIGHTS).exists()


def test_a_state_of_another_training_or_a_broken_one_is_refused(
    base: str, folder: Path, trained: tuple[Path, list[dict[str, float]]], tmp_path: Path
) -> None:
    settings = settings_of(base, folder, trained[0])
    assert list(train_lora(settings)) == []
    with pytest.raises(BadInputError, match=r"holds another training \(rank 4, now 8; seed 0, now 1\)"):
        list(train_lora(replace(settings, rank=8, seed=1)))
    with pytest.raises(BadInputError, match=r"holds another training \(samples"):
        list(train_lora(replace(settings, data=save_samples(tmp_path / "more", pictures=0, plans=5))))
    other = replace(settings, model=read_settings(save_tiny(tmp_path / "other", seed=5)))
    with pytest.raises(BadInputError, match="holds another training \\(base_digest"):
        list(train_lora(other))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / STATE).write_bytes((trained[0] / STATE).read_bytes()[:5000])
    with pytest.raises(BadInputError, match="broken; remove it to begin anew"):
        list(train_lora(replace(settings, out=tmp_path / "run")))


def test_a_gpu_whose_memory_is_full_is_one_clear_line(
    base: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Collator, "collate", full)
    with pytest.raises(BadInputError, match="memory of the GPU is full; give fewer than --image-tokens 24"):
        list(train_lora(settings_of(base, folder, tmp_path / "run")))


def test_without_the_extra_the_command_says_what_to_install(
    base: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    said = CliRunner().invoke(
        app, ["train", "--method", "lora", "--model", base, "--data", str(folder), "--out", str(tmp_path / "run")]
    )
    assert isinstance(said.exception, BadInputError)
    assert str(said.exception) == "peft is missing; run: pip install 'qwen2vl_robot[finetune]'"


def test_what_is_no_plain_qwen_vl_is_refused(
    base: str, folder: Path, trained: tuple[Path, list[dict[str, float]]], tmp_path: Path
) -> None:
    settings = settings_of(base, folder, tmp_path / "run")
    llama = Path(save_tiny(tmp_path / "llama"))
    (llama / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 10}))
    for name, why in (
        (str(llama), "it is a llama; a Qwen-VL is needed"),
        (str(trained[0]), "an adapter; train its model, or merge it"),
        ("http://127.0.0.1:1/v1#m", "no server, no random weights"),
        (f"detect:{base}", "and not detect:"),
        ("random:2B", "no random weights"),
    ):
        with pytest.raises(BadInputError, match=why):
            list(train_lora(replace(settings, model=read_settings(name))))
    with pytest.raises(BadInputError, match="holds a checkpoint; give a new folder"):
        list(train_lora(replace(settings, out=Path(base))))
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / CONFIG).write_text("{}")
    with pytest.raises(BadInputError, match=f"holds an adapter without its {STATE}"):
        list(train_lora(replace(settings, out=tmp_path / "bare")))


def test_two_processes_of_accelerate_train_one_adapter(base: str, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "-m", "qwen2vl_robot"]
    asked = ["train", "--method", "lora", "--model", base, "--data", str(folder), "--out", str(out), "--steps", "3"]
    done = subprocess.run(
        [*launch, *asked, "--rank", "4", "--image-tokens", "12"],
        cwd=ROOT, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((out / "training.json").read_text())["processes"] == 2
    assert done.stderr.count("holds the adapter of step 3") == 1
    assert open_model(ModelSettings(model=str(out))).contract.prompt_style.value == "compact"
