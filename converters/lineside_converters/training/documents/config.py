"""Settings of the training of a token classifier for documents."""

from __future__ import annotations

from lineside_converters.training.settings import FilePath, TrainingSettings


class DocumentConfig(TrainingSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of a token classifier's training, beside those of every training.

    Attributes:
        schema: Name of a shipped schema, or a TOML file: entity types, relations, trigger phrases.
        encoder: Folder of a BERT encoder (``config.json``, ``model.safetensors``, ``tokenizer.json``); ``None`` for
            all-MiniLM-L6-v2 of the extra ``documents-train``.
        frozen_layers: Lowest layers of the encoder that stay as they are, beside the embeddings: computed once.
        bf16: Multiply in bfloat16: three times as fast on processors that support it.
        cross_fit: Parts of the documents, by group, whose scores come from networks that were not trained on them: for
            few documents. So many more networks are trained, the last one on all documents, and scores are fitted on
            all of them; no share is held out, and no checkpoint is chosen. 0: scores are fitted on the held share.
    """

    epochs: int = 10
    batch: int = 8
    learning_rate: float = 6e-4
    held_share: float = 0.15
    evaluate_every: int = 2
    threads: int = 1
    schema: str = "contract"
    encoder: FilePath | None = None
    frozen_layers: int = 1
    bf16: bool = False
    cross_fit: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("batch", self.batch >= 1, "1 or more")
        self._check("frozen_layers", 0 <= self.frozen_layers <= 48, "between 0 and 48")
        self._check("cross_fit", self.cross_fit == 0 or 2 <= self.cross_fit <= 20, "0, or between 2 and 20")
        self._check("start", self.start is None, "none: a run begins with an encoder")
