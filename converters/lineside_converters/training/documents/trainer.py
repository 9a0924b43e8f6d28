"""Training of a token classifier for documents."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from lineside_converters.loading.onnx_export import export_onnx
from lineside_converters.training import checkpoints
from lineside_converters.training.documents.config import DocumentConfig
from lineside_converters.training.documents.data import load_document_data
from lineside_converters.training.documents.fitting import fit_reading
from lineside_converters.training.documents.line_breaks import with_line_breaks
from lineside_converters.training.documents.objective import DocumentObjective
from lineside_converters.training.initial_weights import InitialModel
from lineside_converters.training.loop import BEST
from lineside_converters.training.objective import as_tuple
from lineside_converters.training.progress import OnProgress
from lineside_converters.training.run_folder import check_run_folder
from lineside_converters.training.trainer import Trainer, TrainingResult, log
from lineside_models.networks.token_classifier import (
    INPUT,
    OUTPUT,
    TokenClassifier,
    encoder_folder,
    pretrained_tagger,
    read_shape,
)
from lineside_models.nlp.document_sets.annotations import AnnotatedDocument
from lineside_models.nlp.extraction.spans import TokenProbabilities
from lineside_models.nlp.extraction.windows import TextWindows
from lineside_models.nlp.schemas import load_model_schema
from lineside_models.vision.model_facts import METADATA_KEY, ModelFacts
from lineside_runtime.bundle import Postprocess, Preprocess, TextForm
from lineside_runtime.errors import TrainingError
from lineside_runtime.files import write_atomic

TOKENIZER = "tokenizer.json"
ARCHITECTURE = "token_classifier"
SEED_STRIDE = 1_000_003


class DocumentResult(TrainingResult, frozen=True, kw_only=True):
    """Result of a run; pre- and post-processing are in the metadata of the graph, ``tokenizer.json`` lies beside it.

    Attributes:
        labels: Entity types, in the order of the outputs.
        held_f1: F1 of the values of the held-out documents, before scores are calibrated.
        scored_f1: The same with calibrated scores, each fold of these documents by scores that the others gave.
        uses_network: Whether these scores use the network.
    """

    labels: tuple[str, ...]
    held_f1: float
    scored_f1: float
    uses_network: bool


@dataclass(frozen=True, slots=True)
class HeldReadings:
    """What a network says of documents that it was not trained on.

    Attributes:
        f1: Of their values, before scores are calibrated.
    """

    documents: tuple[AnnotatedDocument, ...]
    seen: tuple[TokenProbabilities, ...]
    f1: float


def train_document(config: DocumentConfig, on_progress: OnProgress) -> DocumentResult:
    """Trains a token classifier on the train folds, chooses the best weights, and calibrates its scores.

    Raises:
        TrainingError: The settings or the checkpoint are not usable, or the loss is not finite.
        DatasetError: A data folder is not usable.
        MissingExtraError: The encoder is not installed.
    """
    check_run_folder(config)
    parts = [_read_part(config, number, on_progress) for number in range(config.cross_fit)]
    if parts:
        config = msgspec.structs.replace(config, evaluate_every=config.epochs, minutes=_minutes(config))
    trainer = DocumentTrainer(config, on_progress)
    trainer.parts = parts
    result = trainer.run_alone()
    for number in range(config.cross_fit):
        shutil.rmtree(_part_folder(config, number))
    return result


def _read_part(config: DocumentConfig, number: int, on_progress: OnProgress) -> HeldReadings:
    """Trains a network on the other parts, and reads a part with it; a killed run goes on from the part's folder."""
    part = msgspec.structs.replace(
        config,
        out=_part_folder(config, number),
        held_share=1 / config.cross_fit,
        held_number=number,
        cross_fit=0,
        evaluate_every=config.epochs,  # the last weights: a checkpoint chosen on the part would flatter its scores
        minutes=_minutes(config),
    )
    trainer = DocumentTrainer(part, on_progress)
    trainer.train()
    return trainer.held_readings()


def _part_folder(config: DocumentConfig, number: int) -> Path:
    return config.out / f"part-{number}"


def _minutes(config: DocumentConfig) -> float | None:
    return None if config.minutes is None else config.minutes / (config.cross_fit + 1)


class DocumentTrainer(Trainer[DocumentConfig, DocumentObjective, DocumentResult]):
    """Training of a token classifier.

    Attributes:
        parts: Readings of all documents in parts, for the scores; empty to fit them on the held share.
    """

    figure = "F1 of values"
    begins_again = True
    warm_up_steps = 60
    parts: Sequence[HeldReadings] = ()

    def load(self) -> DocumentObjective:
        """Reads the documents and cuts them into windows."""
        config = self.config
        self.schema = load_model_schema(config.schema)
        self.encoder = encoder_folder(config.encoder)
        shape = read_shape(self.encoder)
        tokens = min(256, shape.max_position_embeddings)
        self.form = TextForm(
            tokenizer=TOKENIZER,
            tokens=tokens,
            overlap=min(24, tokens // 4),
            first_windows=self.schema.first_windows,
            triggers=self.schema.triggers,
            trigger_windows=self.schema.trigger_windows,
            trigger_tokens=min(128, tokens),
        )
        self.tokenizer = self.encoder / TOKENIZER
        if self.schema.line_breaks:
            self.tokenizer = config.out / TOKENIZER
            write_atomic(self.tokenizer, with_line_breaks((self.encoder / TOKENIZER).read_bytes()))
        windows = TextWindows(self.tokenizer, self.form)
        data = load_document_data(
            config.data,
            windows,
            self.schema.types,
            held_share=config.held_share,
            seed=config.seed,
            held_number=config.held_number or 0,
            whole=config.cross_fit > 0,
        )
        log.info("%d documents, %d windows; %d held out", len(data.trained), len(data.train), len(data.held))
        objective = DocumentObjective(
            data, self.schema.single, batch=config.batch, seed=config.seed, bf16=config.bf16, part=self.strategy.part
        )
        model = pretrained_tagger(len(self.schema.types), self.encoder)
        model.freeze_lower(config.frozen_layers)
        objective.keep_hidden(model)
        return objective

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Returns the loss; with ``bf16`` the network multiplies in bfloat16.

        Dropout follows from the seed and the step alone, so that a resumed run goes on as if it had not been stopped.
        """
        torch.manual_seed(self.config.seed * SEED_STRIDE + self.run.step)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.config.bf16):
            outputs = as_tuple(model(batch.ids, batch.hidden))
        return self.objective.true_loss(outputs, batch)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Returns the F1 of values of the held-out documents; with parts that of their own networks."""
        if not self.parts:
            return super().evaluate(model)
        counts = [len(one.documents) for one in self.parts]
        return {"f1": sum(one.f1 * count for one, count in zip(self.parts, counts, strict=True)) / sum(counts)}

    def held_readings(self, model: nn.Module | None = None) -> HeldReadings:
        """Reads the held-out documents with a network; ``None`` for the best weights of the run."""
        if model is None:
            model = self.build()
            model.load_state_dict(checkpoints.load(self.config.out / BEST))
        seen = self.objective.read_held(model)
        return HeldReadings(self.objective.data.held, tuple(seen), self.objective.f1_of(seen))

    def adapt(self, start: InitialModel) -> str:
        """Refuses a model to start from."""
        raise TrainingError(
            "a document model starts from an encoder", actual=start.name, action="Give it with --encoder."
        )

    def pretrained(self) -> nn.Module:
        """Builds the classifier on the encoder's weights."""
        model = pretrained_tagger(len(self.schema.types), self.encoder)
        model.freeze_lower(self.config.frozen_layers)
        return model

    def build(self) -> nn.Module:
        """Builds the classifier with random weights, as frozen as that of `pretrained`."""
        model = TokenClassifier(len(self.schema.types), read_shape(self.encoder))
        model.freeze_lower(self.config.frozen_layers)
        return model

    def export(self, model: nn.Module, path: Path) -> float:
        """Calibrates, and writes the graph with its facts, and the tokenizer beside it."""
        model.eval()
        parts = self.parts or [self.held_readings(model)]
        self.reading = fit_reading(
            self.schema,
            [document for part in parts for document in part.documents],
            [seen for part in parts for seen in part.seen],
            trained=() if self.parts else self.objective.data.trained,
            name=Path(self.config.schema).stem,
        )
        if self.tokenizer != path.parent / TOKENIZER:
            shutil.copyfile(self.tokenizer, path.parent / TOKENIZER)
        return export_tagger(model, path, document_facts(self.schema.types, self.form, self.reading.postprocess))

    def examples(self) -> Sequence[Tensor]:
        """Returns inputs of two lengths."""
        return _examples(self.form.tokens)

    def result(self, model: nn.Module, difference: float) -> DocumentResult:
        """Evaluates, and writes the facts."""
        config = self.config
        f1 = self.evaluate(model)["f1"]
        facts = {
            "settings": config.as_dict(),
            **msgspec.to_builtins(document_facts(self.schema.types, self.form, self.reading.postprocess)),
            "documents": self.objective.facts | ({"parts": len(self.parts)} if self.parts else {}),
            "held_f1": f1,
            "scored_f1": self.reading.f1,
            "network_f1": self.reading.network_f1,
        }
        self.write_facts(ARCHITECTURE, facts, difference)
        return DocumentResult(
            **self.files,
            labels=self.schema.types,
            held_f1=f1,
            scored_f1=self.reading.f1,
            uses_network=self.reading.uses_network,
        )


def document_facts(labels: tuple[str, ...], form: TextForm, reading: Postprocess) -> ModelFacts:
    """Returns the facts of a token classifier in its bundle."""
    return ModelFacts(labels=labels, preprocess=Preprocess(input=INPUT, colour="none", text=form), postprocess=reading)


def _examples(tokens: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    example = torch.randint(1, 100, (1, tokens), generator=generator)
    other = torch.randint(1, 100, (2, tokens // 2), generator=generator)
    other[1, tokens // 4 :] = 0
    return example, other


def export_tagger(model: nn.Module, path: Path, facts: ModelFacts) -> float:
    """Writes a token classifier as ONNX: input ``input_ids``, output ``spans``, batch and length free.

    Returns:
        The largest difference between the graph's and torch's outputs.

    Raises:
        ParityGateError: It is above the tolerance.
    """
    form = facts.preprocess.text if facts.preprocess is not None else None
    tokens = form.tokens if isinstance(form, TextForm) else 256
    example, check = _examples(tokens)
    return export_onnx(
        model,
        path,
        example=example,
        input_name=INPUT,
        output_names=[OUTPUT],
        dynamic_axes={INPUT: {0: "batch", 1: "length"}, OUTPUT: {0: "batch", 1: "length"}},
        check=(check,),
        metadata={METADATA_KEY: msgspec.json.encode(facts).decode()},
    )
