"""Recognise networks of timm and torchvision, and what they expect as input.

Nothing is fetched: the definition comes from the installed package, the weights from the file. Imported only where a
``.pt`` or a module is given, as it imports torch.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from lineside_models.vision.model_facts import ModelFacts
from lineside_runtime.bundle import Postprocess, Preprocess
from lineside_runtime.errors import UnsupportedModelError

log = logging.getLogger("lineside.convert")

INPUT = "image"
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of torchvision's networks: https://docs.pytorch.org/vision/stable/models.html"""

IMAGENET_CLASSES = 1000
SIDE = 224

LEAST_TENSORS = 16
"""AlexNet has so many; no network of either package has fewer."""

FOREIGN_MAX = 8
"""A network is built no further once it has more parameters of shapes that the weights don't have: most differ in their
first layers. timm's distilled DeiTs replace one parameter while they are built."""

PRUNED = "_pruned"
"""Ends the names of timm's networks whose layers are cut after they are built."""


class _OtherNetworkError(Exception):
    """The built network does not fit the weights."""


class _NoWeights(TorchFunctionMode):
    """Gives new weights no memory and no values. Ranges stay real, which RegNets and ViTs compute their widths with."""

    _WEIGHTS = frozenset({torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn})
    _FILLS = frozenset(
        {"normal_", "uniform_", "erfinv_", "clamp_", "mul_", "add_", "sub_", "div_", "fill_", "zero_", "copy_"}
    )
    """In-place functions: without memory they change nothing, and take most of the time that a network is built in."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        if func in self._WEIGHTS and options.get("device") is None:
            options["device"] = "meta"
        fills = getattr(func, "__name__", "") in self._FILLS or getattr(func, "__module__", "") == nn.init.__name__
        tensor = args[0] if args else options.get("tensor")
        if fills and isinstance(tensor, torch.Tensor) and tensor.is_meta:
            return tensor
        return func(*args, **options)


def named_network(name: str, state_dict: Mapping[str, torch.Tensor]) -> nn.Module:
    """Returns the named network of torchvision or timm, with the weights.

    Raises:
        UnsupportedModelError: Neither package has one of this name, or the weights are not its.
    """
    built = list(_built(_spelled(name), _classes_of(state_dict)))
    found = next((net.eval() for net in built if _fits(net, state_dict)), None)
    if found is None:
        raise UnsupportedModelError(
            f"the weights are not those of {name}" if built else f"no network {name!r} in torchvision or timm",
            actual=f"keys such as {sorted(map(str, state_dict))[:3]}",
            action="Give another architecture, or none, so that it is told by its keys.",
        )
    return found


def network_of(path: Path, state_dict: Mapping[str, torch.Tensor], stated: str = "") -> nn.Module | None:
    """Returns the network whose weights these are; ``None`` if neither package has one of these keys and shapes.

    Args:
        path: The file; its name is tried first, ``resnet50-11ad3fa6.pth`` as ``resnet50``.
        said: What the checkpoint itself calls its network.

    Raises:
        UnsupportedModelError: Several networks of timm have these keys and shapes, and compute something else.
    """
    names = dict.fromkeys(_spelled(name) for name in (stated, path.stem, path.stem.partition("-")[0]) if name)
    classes = _classes_of(state_dict)
    for name in names:
        for net in _built(name, classes):
            if _fits(net, state_dict):
                return net.eval()
    found = _name_by_keys(state_dict, classes)
    if found is None:
        return None
    log.info("%s: taken for %s by its keys", path.name, found)
    return next((net.eval() for net in _built(found, classes) if _fits(net, state_dict)), None)


def _name_by_keys(state_dict: Mapping[str, torch.Tensor], classes: int) -> str | None:
    """Returns the network that has exactly these keys and shapes; torchvision's are tried before timm's."""
    import torchvision

    if len(state_dict) < LEAST_TENSORS:
        return None
    wanted = _signature(state_dict)
    get_model = torchvision.models.get_model
    for name in torchvision.models.list_models(module=torchvision.models):
        if _is_signature(wanted, get_model, name, weights=None, num_classes=classes, **_quiet_options(name)):
            return str(name)
    try:
        import timm
    except ImportError:
        return None

    def all_of(names: list[str]) -> list[str]:
        options = {"pretrained": False, "num_classes": classes}
        return [name for name in names if _is_signature(wanted, timm.create_model, name, **options)]

    names = [str(name) for name in timm.list_models()]
    # Those that are cut after they are built take a fifth of the time of all, and share their shapes with no other.
    found = all_of([name for name in names if not name.endswith(PRUNED)])
    found = found or all_of([name for name in names if name.endswith(PRUNED)])
    return _only(found, classes) if found else None


def _only(found: list[str], classes: int) -> str:
    """Returns the first of the networks of one signature if they all compute the same of the same input.

    A DeiT computes what a plain ViT does, of an image that is normalized in another way.
    """
    first, *others = (_traits(name, classes) for name in found)
    if any(other != first for other in others):
        raise UnsupportedModelError(
            "several networks of timm have these keys and shapes",
            expected=f"a file named after one of them: {', '.join(found)}",
            action=f"Rename the file, such as to {found[0]}.pt, or say which it is (--architecture {found[0]}).",
        )
    return found[0]


def _traits(name: str, classes: int) -> tuple[str, ModelFacts]:
    """Returns what networks of one signature can differ in: their modules with their settings, and their input."""
    import timm

    with _NoWeights():
        net = timm.create_model(name, pretrained=False, num_classes=classes)
    return f"{net}\npool {getattr(net, 'global_pool', None)}", facts_of(net, classes)


_Signature = dict[str, tuple[int, ...]]


def _signature(state_dict: Mapping[str, torch.Tensor]) -> _Signature:
    return {name: tuple(tensor.shape) for name, tensor in state_dict.items()}


def _is_signature(wanted: _Signature, build: Callable[..., nn.Module], name: str, **options: Any) -> bool:
    """Whether a network has these keys and shapes; it is built without memory for its weights, and no further than
    needed."""
    shapes, builder, foreign = set(wanted.values()), threading.get_ident(), 0

    def look(_module: nn.Module, _name: str, parameter: nn.Parameter | None) -> None:
        nonlocal foreign
        if parameter is None or threading.get_ident() != builder:
            return
        foreign += tuple(parameter.shape) not in shapes
        if foreign > FOREIGN_MAX and not name.endswith(PRUNED):
            raise _OtherNetworkError

    watch = register_module_parameter_registration_hook(look)
    try:
        with _NoWeights():
            return _signature(build(name, **options).state_dict()) == wanted
    except (_OtherNetworkError, NotImplementedError, RuntimeError):  # the last two: it reads a weight while it is built
        return False
    finally:
        watch.remove()


def facts_of(net: nn.Module, outputs: int) -> ModelFacts:
    """Returns the facts of a network's input and output; none if neither package has made it."""
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
    """Returns the number of classes: the rows of a classifier's last matrix."""
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
    """Returns options without the helpers for training, which weights files leave out and which warn."""
    return {"init_weights": False} if name in ("googlenet", "inception_v3") else {}


def _fits(net: nn.Module, state_dict: Mapping[str, torch.Tensor]) -> bool:
    try:
        net.load_state_dict(dict(state_dict))
    except RuntimeError:
        return False
    return True
