"""Networks of timm and torchvision: told by a file's name or a checkpoint's own word, and what they want as input.

Nothing is fetched: the definition comes from the installed package, the weights from the file. Imported only where a
``.pt`` or a module is given, as it imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lineside_models.vision.facts import ModelFacts
from lineside_runtime.bundle import Postprocess, Preprocess

INPUT = "image"
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of torchvision's networks: https://docs.pytorch.org/vision/stable/models.html"""

IMAGENET_CLASSES = 1000
SIDE = 224


def network_of(path: Path, state_dict: Mapping[str, torch.Tensor], said: str = "") -> nn.Module | None:
    """Returns the network whose weights these are; ``None`` if its name is known to neither package.

    Args:
        path: The file; its name is tried, ``resnet50-11ad3fa6.pth`` as ``resnet50``.
        state_dict: The weights.
        said: What the checkpoint itself calls its network.
    """
    names = dict.fromkeys(_spelled(name) for name in (said, path.stem, path.stem.partition("-")[0]) if name)
    classes = _classes_of(state_dict)
    for name in names:
        for net in _built(name, classes):
            if _fits(net, state_dict):
                return net.eval()
    return None


def facts_of(net: nn.Module, outputs: int) -> ModelFacts:
    """Returns what is known of a network's input and output; nothing of one that neither package has made.

    Args:
        net: The network.
        outputs: How many classes it tells apart.
    """
    cfg = getattr(net, "pretrained_cfg", None)
    if isinstance(cfg, dict) and "mean" in cfg:  # timm
        _, height, width = cfg.get("input_size", (3, SIDE, SIDE))
        mean, std = cfg["mean"], cfg["std"]
    elif type(net).__module__.startswith("torchvision.models") and "detection" not in type(net).__module__:
        (mean, std), height, width = _IMAGENET, SIDE, SIDE
    else:
        return ModelFacts()
    return ModelFacts(
        labels=labels_of(outputs),
        preprocess=Preprocess(
            input=INPUT,
            colour="rgb",
            resize="stretch",
            size=(height, width),
            mean=tuple(round(255 * float(one), 4) for one in mean),
            std=tuple(round(255 * float(one), 4) for one in std),
        ),
        postprocess=Postprocess(name="classification"),
    )


def labels_of(outputs: int) -> tuple[str, ...]:
    """Returns ImageNet's names where there are a thousand classes, else numbers."""
    if outputs == IMAGENET_CLASSES:
        from torchvision.models import ResNet50_Weights

        names: list[str] = ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
        if len(set(names)) == outputs:
            return tuple(names)
        seen: dict[str, int] = {}  # two pairs of its classes bear one name
        for number, name in enumerate(names):
            names[number] = f"{name} ({number})" if name in seen else name
            seen[name] = number
        return tuple(names)
    return tuple(f"class {number}" for number in range(outputs))


def _spelled(name: str) -> str:
    return name.lower().replace("-", "_").removesuffix(".pt").removesuffix(".pth")


def _classes_of(state_dict: Mapping[str, torch.Tensor]) -> int:
    """The last matrix of a classifier has a row a class."""
    rows = [tensor.shape[0] for name, tensor in state_dict.items() if name.endswith("weight") and tensor.ndim == 2]
    return int(rows[-1]) if rows else IMAGENET_CLASSES


def _built(name: str, classes: int) -> Iterator[nn.Module]:
    import torchvision

    if name in torchvision.models.list_models(module=torchvision.models):
        yield torchvision.models.get_model(name, weights=None, num_classes=classes, **_quiet_options(name))
    try:
        import timm
    except ImportError:
        return
    if timm.is_model(name):
        yield timm.create_model(name, pretrained=False, num_classes=classes)


def _quiet_options(name: str) -> dict[str, Any]:
    """Their helpers for training, which their weights files leave out, warn when they are made."""
    return {"init_weights": False} if name in ("googlenet", "inception_v3") else {}


def _fits(net: nn.Module, state_dict: Mapping[str, torch.Tensor]) -> bool:
    try:
        net.load_state_dict(dict(state_dict))
    except RuntimeError:
        return False
    return True
