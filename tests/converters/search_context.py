"""A small network that searches of level 3 can be tried on."""

from __future__ import annotations

from pathlib import Path

from lineside_converters.distillation.distill import DistillationSetup
from lineside_converters.distillation.losses import LogitDistillation
from lineside_converters.distillation.trainer import DistillationSettings, train_student
from lineside_converters.levels import level_options
from lineside_converters.progress import ProgressReporter
from lineside_converters.pruning.structured import fold_norms, measure_sensitivity
from lineside_converters.pruning.torch_graph import open_network
from lineside_converters.search.pipeline import space_for
from lineside_converters.search.trials import SearchContext
from lineside_converters.targets import find_target
from lineside_converters.training.classification.data import ClassifierInput
from lineside_converters.training.classification.trainer import classifier_facts
from tests.converters.small_nets import BarObjective, Blocks, bars, context_of, write


def search_context(folder: Path) -> SearchContext:
    """Trains a classifier of bars a little, and returns the context of its searches."""
    objective, model = BarObjective(), Blocks(kernel=5)
    settings = DistillationSettings(learning_rate=4e-3, epochs=4, evaluate_every=4, warm_up_steps=4, threads=1)
    train_student(
        model, None, objective, LogitDistillation(), settings=settings, out=folder / "t", on_progress=lambda _: None
    )
    path = write(model, folder / "float.onnx")
    network = open_network(path, [bars(32, 7)[0]])
    found = measure_sensitivity(
        network, objective, LogitDistillation(), frame=network.example, seed=0, work=folder, report=lambda _: None
    )
    context = context_of(
        path, classifier_facts(("a", "b", "c"), ClassifierInput(16)), level_options(3), find_target("cpu")
    )
    teacher = fold_norms(network.copy().module).eval()
    setup = DistillationSetup(context.manifest, network, teacher, LogitDistillation(), objective, [bars(1, 0)[0]])
    return SearchContext(context, setup, found, space_for(context, setup, found), ProgressReporter(lambda _: None))
