"""The manifest's structs of what becomes of an image, a text or a list of items before the model takes it."""

# Annotations are evaluated: see `manifest.py`.

from typing import Annotated, Literal

import msgspec

SIDE_MAX_PX = 8192
"""Largest side of a model's input, in pixels: 64 times the area of the largest that is shipped."""

TOKENS_MAX = 4096
"""Longest window of a text."""

Phrase = Annotated[str, msgspec.Meta(min_length=2, max_length=100)]
Side = Annotated[int, msgspec.Meta(ge=1, le=SIDE_MAX_PX)]
PerChannel = Annotated[tuple[float, ...], msgspec.Meta(min_length=1, max_length=4)]


class ManifestStruct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the manifest's structs: an unknown field is an error."""


class Slicing(ManifestStruct, frozen=True, kw_only=True):
    """How a frame that is too large for the model's input is cut into overlapping tiles.

    Attributes:
        side_px: Side of the square tiles in pixels of the frame. A frame that is no larger is inspected whole.
        overlap: Share of a tile's side that its neighbour shows too; at least the size of a small defect.
        whole: Whether the whole frame is inspected as well, for defects that are larger than a tile.
    """

    side_px: Annotated[int, msgspec.Meta(ge=32)]
    overlap: Annotated[float, msgspec.Meta(ge=0, le=0.75)] = 0.2
    whole: bool = True


class ReferenceImage(ManifestStruct, frozen=True, kw_only=True):
    """One reference that travels in the bundle, as PNG files.

    Attributes:
        image: Path of the image of a good part.
        darkest: Path of the darkest grey value that good parts show at each pixel of it; empty without a tolerance.
        brightest: Path of the brightest one; empty without a tolerance.
    """

    image: str
    darkest: str = ""
    brightest: str = ""

    def __post_init__(self) -> None:
        if bool(self.darkest) != bool(self.brightest):
            raise ValueError("darkest and brightest go together")

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of its files."""
        return tuple(path for path in (self.image, self.darkest, self.brightest) if path)


class Reference(ManifestStruct, frozen=True, kw_only=True):
    """The input is not the frame alone: three channels with frame, registered reference, and difference.

    Attributes:
        images: References, of which a frame is compared with the one that it matches best. Empty where they are given
            by who inspects, such as a recipe.
        min_quality: Least correlation of frame and registered reference; a frame below it is a fault.
        max_shift: Largest shift of a part, as a share of the frame's long side.
        max_rotation_deg: Largest rotation of a part to either side.
    """

    images: tuple[ReferenceImage, ...] = ()
    min_quality: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.6
    max_shift: Annotated[float, msgspec.Meta(ge=0, le=0.5)] = 0.15
    max_rotation_deg: Annotated[float, msgspec.Meta(ge=0, le=45)] = 6.0


class TextForm(ManifestStruct, frozen=True, kw_only=True):
    """The input is text: windows of tokens ``(N, T) int64``, padded with token 0.

    A long text is not read whole: the model gets its beginning, and a window around each trigger phrase behind it.

    Attributes:
        tokenizer: Path of the ``tokenizer.json``, as the ``tokenizers`` package reads it.
        tokens: Longest window, with the tokens that begin and end it.
        overlap: Tokens that a window of the beginning shares with the one before.
        first_windows: Windows of the beginning.
        triggers: Phrases, in any case and with any blanks, that a value stands near, such as ``governing law``.
        trigger_windows: Windows around trigger phrases.
        trigger_tokens: Length of these.
        first: Token that begins a window.
        last: Token that ends a window.
    """

    tokenizer: str
    tokens: Annotated[int, msgspec.Meta(ge=16, le=TOKENS_MAX)] = 256
    overlap: Annotated[int, msgspec.Meta(ge=0, le=TOKENS_MAX // 2)] = 24
    first_windows: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 3
    triggers: Annotated[tuple[Phrase, ...], msgspec.Meta(max_length=64)] = ()
    trigger_windows: Annotated[int, msgspec.Meta(ge=0, le=64)] = 3
    trigger_tokens: Annotated[int, msgspec.Meta(ge=16, le=TOKENS_MAX)] = 128
    first: str = "[CLS]"
    last: str = "[SEP]"

    def __post_init__(self) -> None:
        if self.overlap > self.tokens // 2:
            raise ValueError(f"overlap = {self.overlap} is above half of tokens = {self.tokens}")


class Rows(ManifestStruct, frozen=True, kw_only=True):
    """The inputs are no images: vectors of items, which tables of the bundle hold.

    Attributes:
        tables: Path of each table, an ``.npy`` file, by its name; see `lineside_models.recommendation.tables`.
        history_max: Items of the longest history.
    """

    tables: dict[str, str]
    history_max: Annotated[int, msgspec.Meta(ge=1, le=1000)]


class Preprocess(ManifestStruct, frozen=True, kw_only=True):
    """How an image, or a text, becomes the model's input.

    Attributes:
        input: Name of the input tensor.
        colour: Channel order that the model wants; ``none`` where the input is no image and the caller gives tensors.
        resize: ``fit`` keeps the aspect: the long side is brought into ``[min_side, max_side]`` and the
            right and bottom are padded to multiples of ``multiple_of``; ``stretch`` resizes to ``size``. Left out, it
            is ``fit``, but a bare classifier of a known size becomes a bundle with ``stretch``.
        size: ``(height, width)`` in pixels for ``stretch``, or the fixed canvas for ``fit``; ``None`` if free.
        min_side: Shorter images are enlarged until their long side has this many pixels.
        max_side: Larger images are reduced until their long side has this many pixels.
        multiple_of: The model's largest stride.
        pad_value: Grey value of the padding, 0 to 255.
        mean: Subtracted from each channel, in units of 0 to 255.
        std: Divides each channel, in units of 0 to 255.
        slicing: How large frames are tiled; left out where they aren't, so that older agents can read the manifest.
        reference: With what a frame is compared before it becomes an input of three channels; left out where it is
            taken alone. ``colour`` is ``bgr`` then: the channels stay in their order.
        text: How a text becomes windows of tokens; left out in every other bundle. ``colour`` is ``none`` then.
        rows: Tables of the items that a recommender ranks; left out in every other bundle. ``colour`` is ``none`` then.
    """

    input: str
    colour: Literal["grey", "bgr", "rgb", "none"]
    resize: Literal["fit", "stretch"] | msgspec.UnsetType = msgspec.UNSET
    size: tuple[Side, Side] | None = None
    min_side: Side = 224
    max_side: Side = 640
    multiple_of: Side = 32
    pad_value: Annotated[int, msgspec.Meta(ge=0, le=255)] = 114
    mean: PerChannel = (0.0,)
    std: PerChannel = (1.0,)
    slicing: Slicing | msgspec.UnsetType = msgspec.UNSET
    reference: Reference | msgspec.UnsetType = msgspec.UNSET
    rows: Rows | msgspec.UnsetType = msgspec.UNSET
    text: TextForm | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        if self.text is not msgspec.UNSET and self.colour != "none":
            raise ValueError(f"colour = {self.colour!r} beside text: an input that is no image has colour none")
