"""`rsvp train vlsm`: configurations, what it says on the way, and the files that it leaves."""

from __future__ import annotations

import dataclasses
import enum
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from small_training import SMALL, small_config

from rsvp_ros.cli import main
from rsvp_ros.errors import ConfigurationError
from rsvp_ros.segmentation.vlsm import Vlsm, VlsmConfig
from rsvp_ros.textures import TextureBank
from rsvp_ros.training import config_files
from rsvp_ros.training.config import TrainConfig
from rsvp_ros.training.curve import TrainingLog, draw_curve, read_log
from rsvp_ros.training.mllm.model import MllmSize
from rsvp_ros.training.mllm.trainer import MllmTrainConfig
from rsvp_ros.training.sources import HELD_OUT, read_photographs, tabletop_records
from rsvp_ros.training.trainer import Trainer

CONFIGURATIONS = Path(__file__).resolve().parent.parent / "config" / "train"
SHIPPED = sorted(CONFIGURATIONS.glob("vlsm_*.yaml"))


def as_yaml(config: TrainConfig) -> str:
    return yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(config))))


# --- configurations


def test_a_file_comes_back_as_it_was(tmp_path):
    config = small_config(tmp_path, learning_rate=5e-4, tabletop=("a", "b"), seed=3)
    path = tmp_path / "train.yaml"
    path.write_text(as_yaml(config))
    assert TrainConfig.from_file(path) == config
    path.write_text(json.dumps(dataclasses.asdict(config)))
    assert TrainConfig.from_file(path) == config


def test_what_is_typed_counts_more_than_the_file(tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text("{out: a, steps: 5, learning_rate: 1e-4, model: {dim: 64, heads: 2}}")
    changes = ["steps=6", "learning_rate=2e-4", "model.dim=96", "shares.tabletop=0", "sizes=[[64, 96]]", "photographs="]
    config = TrainConfig.from_file(path, changes, out="b")
    assert (config.out, config.steps, config.learning_rate, config.sizes) == ("b", 6, 2e-4, ((64, 96),))
    assert (config.model.dim, config.model.heads, config.shares.tabletop, config.photographs) == (96, 2, 0.0, None)
    assert TrainConfig.from_file(path, steps=7).steps == 7


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("{", r"train\.yaml cannot be read"),
        ("[]", r"train\.yaml holds no names"),
        ("", r"train\.yaml holds no names"),
        ("{steps: 3}", r"train\.yaml.*`out` is missing"),
        ("{out: x, step: 3}", r"train\.yaml.*no option `step`; there are out, steps"),
        ("{out: x, model: {width: 3}}", r"no option `model\.width`"),
        ("{out: x, steps: 0}", "`steps` must be at least 1"),
        ("{out: x, steps: many}", "`steps` is 'many', but must be a whole number"),
        ("{out: x, steps: 1.5}", "`steps` is 1.5"),
        ("{out: x, steps: true}", "`steps` is True"),
        ("{out: 3}", "`out` is 3, but must be a text"),
        ("{out: x, learning_rate: fast}", "`learning_rate` is 'fast', but must be a number"),
        ("{out: x, learning_rate: .nan}", "`learning_rate` must be above 0"),
        ("{out: x, compile: 1}", "`compile` is 1, but must be true or false"),
        ("{out: x, sizes: [[50, 64]]}", "`sizes` needs multiples of 16"),
        ("{out: x, sizes: [[64, 64, 3]]}", r"`sizes\[0\]` .* must be a list of 2: a whole number, a whole number"),
        ("{out: x, sizes: []}", "`sizes`"),
        ("{out: x, model: 3}", "`model` is 3"),
        ("{out: x, precision: bf16}", "`precision` is 'bf16'.*float32, bfloat16, float16"),
        ("{out: x, weight_decay: .nan}", "`weight_decay` must not be negative"),
        ("{out: x, model: {dim: 96}}", "`model`: `dim` is 96.* twice the 5 `heads`"),
        ("{out: x, model: {heads: 0}}", "`model`: `heads` is 0"),
        ("{out: x, model: {grid: 50}}", "`model`: `grid` is 50.* multiple of 4"),
        ("{out: x, model: {max_words: 0}}", "`model`: `max_words` is 0"),
        ("{out: x, model: {stem: [8, 0, 8]}}", "`model`: `stem`"),
        ("{out: x, workers: -1}", "`workers` must not be negative"),
        ("{out: x, text_path: {heads: 4}}", "`text_path` is given without a `backbone`"),
        ("{out: x, backbone: a/b, model: {dim: 80}}", "`model` is the size of a VLSM"),
    ],
)
def test_a_wrong_configuration_is_named(tmp_path, text, wrong):
    path = tmp_path / "train.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=wrong):
        TrainConfig.from_file(path)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ("steps", "NAME=VALUE"),
        ("stepz=3", "`stepz`"),
        ("steps={", "`steps`"),
        ("out.x=1", "`out` holds no names with values"),
        ("sizes.x=1", "`sizes` holds no names with values"),
        ("model.dim.x=1", "`model.dim` holds no names with values"),
    ],
)
def test_a_wrong_change_is_named(change, wrong):
    with pytest.raises(ConfigurationError, match=wrong):
        TrainConfig.from_file(None, ["sizes=[[64, 64]]", "model.dim=80", "out=x", change])


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass(frozen=True)
class Part:
    colour: Colour
    folder: Path = Path()
    most: int | None = None

    def __post_init__(self) -> None:
        if self.most == 0:
            raise ValueError("none at all is too few")


@dataclasses.dataclass(frozen=True)
class Whole:
    parts: tuple[Part, ...] = ()


def test_configurations_hold_others_choices_and_paths():
    built = config_files.build(Whole, {"parts": [{"colour": "red", "folder": "a"}, {"colour": "red", "most": 2}]})
    assert built == Whole((Part(Colour.RED, Path("a")), Part(Colour.RED, most=2)))
    for values, wrong in (
        ({"colour": "blue"}, r"`parts\[0\]\.colour` is 'blue', but must be one of red"),
        ({}, r"`parts\[0\]\.colour` is missing"),
        ({"colour": "red", "most": 0}, r"`parts\[0\]`: none at all"),
        ({"colour": "red", "most": "few"}, r"`parts\[0\]\.most` is 'few'"),
    ):
        with pytest.raises(ConfigurationError, match=wrong):
            config_files.build(Whole, {"parts": [values]})


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configurations_are_right(path):
    config = TrainConfig.from_file(path)
    assert Path(config.out).name == path.stem
    if path.stem == "vlsm_embedded":
        assert (config.backbone, config.model) == (None, VlsmConfig())


def test_the_shipped_configuration_of_the_mllm_is_right():
    (path,) = CONFIGURATIONS.glob("mllm_*.yaml")
    config = MllmTrainConfig.from_file(path)
    assert (path.stem, config.out, config.model) == ("mllm_embedded", "out/mllm", MllmSize())


def test_there_are_three_sizes():
    assert [path.stem for path in SHIPPED] == ["vlsm_embedded", "vlsm_sam", "vlsm_sam2"]
    backbones = [TrainConfig.from_file(path).backbone for path in SHIPPED]
    assert backbones[0] is None and "sam-vit" in backbones[1] and "sam2" in backbones[2]


# --- the command


def test_the_command_trains_from_a_file(tmp_path, capsys):
    path = tmp_path / "train.yaml"
    path.write_text(as_yaml(small_config(tmp_path / "ignored")))
    out = tmp_path / "out"
    arguments = ["train", "vlsm", "--config", str(path), "--out", str(out), "--set", "validate_every=2"]
    assert main([*arguments, "--steps", "4"]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == str(out / "weights")
    assert "step 4 of 4" in printed.err and "held-out" in printed.err
    assert Vlsm.from_pretrained(out / "weights").config == SMALL
    records = read_log(out / "log.jsonl")
    assert [r["step"] for r in records if "total" in r] == [4]
    assert [r["step"] for r in records if "validation" in r] == [2, 4]
    assert all({"present accepted", "absent refused"} & set(r["validation"]) for r in records if "validation" in r)
    # The same command again: all is done, and nothing is changed.
    files = [path for path in out.rglob("*") if path.is_file()]
    before = [path.read_bytes() for path in files]
    assert main([*arguments, "--steps", "4"]) == 0
    assert [path.read_bytes() for path in files] == before
    assert not (tmp_path / "ignored").exists()
    pytest.importorskip("matplotlib")
    assert cv2.imread(str(out / "curve.png")) is not None


def test_errors_of_the_command_are_one_line(tmp_path, capsys):
    path = tmp_path / "train.yaml"
    path.write_text("{out: x, step: 3}")
    assert main(["train", "vlsm", "--config", str(path)]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("rsvp train: ") and "`step`" in printed and printed.count("\n") == 1
    with pytest.raises(SystemExit):
        main(["train", "vlsm"])
    assert "--config or --out" in capsys.readouterr().err
    (tmp_path / "file").touch()
    path.write_text(as_yaml(small_config(tmp_path / "file")))
    assert main(["train", "vlsm", "--config", str(path)]) == 2
    assert "choose another folder" in capsys.readouterr().err


# --- log, curve


def test_a_log_goes_on_where_the_training_does(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 50, "total": 1.0}\n{"step": 100, "total": 0.5}\n[]\n{"step": 150, "tot')
    log = TrainingLog(path, 50)
    log.add({"step": 100, "total": 0.4})
    assert read_log(path) == [{"step": 50, "total": 1.0}, {"step": 100, "total": 0.4}]
    assert read_log(tmp_path / "none.jsonl") == []


def test_a_curve_shows_what_is_in_the_log(tmp_path):
    pytest.importorskip("matplotlib")
    log, out = tmp_path / "log.jsonl", tmp_path / "curve.png"
    drawn = []
    for text in (
        "",
        '{"step": 1, "total": 2.0}\n{"step": 9, "total": 1.0}\n',
        '{"step": 1, "total": 2.0}\n{"step": 9, "total": 1.0}\n{"step": 9, "validation": {"box": 0.5}}\n',
    ):
        log.write_text(text)
        draw_curve(log, out)
        drawn.append(cv2.imread(str(out)))
    assert len({picture.tobytes() for picture in drawn}) == 3


def test_a_curve_shows_losses_that_come_later(tmp_path, monkeypatch):
    """The small MLLM's vision tower learns alone at first."""
    figures = pytest.importorskip("matplotlib.figure")
    drawn = []
    monkeypatch.setattr(figures.Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1, "total": 2.0, "seeing": 2.0}\n{"step": 9, "total": 1.0, "words": 1.0}\n')
    draw_curve(log, tmp_path / "curve.png")
    assert {line.get_label() for line in drawn[0].axes[0].lines} == {"total", "seeing", "words"}


# --- files that images are made from


def test_one_scene_in_many_is_held_out(tmp_path):
    scenes = tmp_path / "scenes"
    scenes.mkdir()
    views = ["", "_0", "_1"]
    names = sorted(f"train_{seed:06}{view}.json" for seed in range(2 * HELD_OUT) for view in views)
    for name in (*names, "test_000000.json"):
        (scenes / name).touch()
    training, held_out = (tabletop_records((str(tmp_path),), choice) for choice in (False, True))
    wanted = [f"train_{seed:06}{view}.json" for seed in (0, HELD_OUT) for view in views]
    assert sorted(Path(path).name for path in held_out) == sorted(wanted)  # no other view of them is trained on
    assert sorted(Path(path).name for path in training + held_out) == names
    with pytest.raises(ConfigurationError, match=r"nowhere holds no scenes.*rsvp tabletop export --split train"):
        tabletop_records((str(tmp_path / "nowhere"),), False)
    assert tabletop_records((), False) == ()
    (single := tmp_path / "single" / "scenes").mkdir(parents=True)
    (single / "train_000000.json").touch()
    for choice in (False, True):
        (path,) = tabletop_records((str(single.parent),), choice)
        assert Path(path).name == "train_000000.json"


def test_photographs_are_read_in_rgb(tmp_path):
    cv2.imwrite(str(tmp_path / "b.png"), np.full((4, 5, 3), (255, 0, 0), np.uint8))
    cv2.imwrite(str(tmp_path / "a.JPG"), np.zeros((6, 7, 3), np.uint8))
    (tmp_path / "c.png").write_bytes(b"torn")
    (tmp_path / "d.txt").write_text("no picture")
    pictures = read_photographs(str(tmp_path), 9)
    assert [picture.shape for picture in pictures] == [(6, 7, 3), (4, 5, 3)]
    assert pictures[1][0, 0].tolist() == [0, 0, 255]
    assert read_photographs(None, 9) == []
    with pytest.raises(ConfigurationError, match=r"`photographs` .*none"):
        read_photographs(str(tmp_path / "none"), 9)


def test_a_photograph_of_one_pixel_is_a_texture():
    (piece,) = TextureBank(np.random.default_rng(0), 1, [np.full((1, 1, 3), 90, np.uint8)], 1.0)._textures
    assert (piece == 90).all()


def test_only_as_many_photographs_are_read_as_are_used(monkeypatch, tmp_path):
    """From the whole folder; in place of one that cannot be read another is."""
    for number in range(10):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((4, 4, 3), number, np.uint8))
    for count in (1, 3, 4, 10, 20):
        found = [int(picture[0, 0, 0]) for picture in read_photographs(str(tmp_path), count)]
        assert len(found) == min(count, 10) and found == sorted(set(found))
        assert set(np.diff([*found, 10])) <= {10 // len(found), 10 // len(found) + 1}, "evenly spread"
    (tmp_path / "0.png").write_bytes(b"torn")
    assert [int(picture[0, 0, 0]) for picture in read_photographs(str(tmp_path), 1)] == [1]
    read: list[str] = []
    imread = cv2.imread
    monkeypatch.setattr(cv2, "imread", lambda path: read.append(path) or imread(path))
    Trainer(small_config(tmp_path / "out", photographs=str(tmp_path), textures=6))
    assert len(read) == 4  # three, and the torn one


@pytest.mark.parametrize("shares", [{"annotated": 0.5}, {"household": -0.1}, {"tabletop": float("nan")}], ids=str)
def test_shares_that_cannot_be_are_refused(shares):
    with pytest.raises(ConfigurationError, match=r"`shares` is tabletop .*, household .*, annotated .*: lower some"):
        TrainConfig.from_file(None, [f"shares.{name}={value}" for name, value in shares.items()], out="o")
