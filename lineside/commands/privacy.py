"""``lineside privacy split|keys|serve|query|bench``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lineside.console import inform, print_json, show
from lineside.extras import needs
from lineside.options import add_bundle, add_json, add_overwrite, bundle_path, positive
from lineside_runtime.errors import ConfigError, LinesideError

if TYPE_CHECKING:
    import numpy as np

    from lineside_runtime.encrypted import EncryptedHead
    from lineside_runtime.encrypted.trial import HeadTrial

QUERIES_PER_DAY = 1000
SHOWN = 5

_DESCRIPTION = """\
A device computes features of an image, encrypts them, and a server applies the secret last layer of a classifier to
them without reading features or answer. Exact: the sums are those of the INT8 engine. docs/privacy.md says who may be
dishonest, and what each side learns anyway.
"""
_EPILOG = """\
example:
  lineside privacy split parts.bundle --out split           # split/trunk for devices, split/head.npz for the server
  lineside privacy serve split/head.npz                     # on the server
  lineside privacy query split/trunk part-1.jpg --server http://127.0.0.1:8010
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    split = actions.add_parser("split", help="split an INT8 classifier into trunk and head")
    add_bundle(split)
    split.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for trunk and head.npz")
    split.add_argument("--variant", metavar="NAME", help="INT8 ONNX variant (default: the first)")
    add_overwrite(split)
    split.set_defaults(run=_split)
    keys = actions.add_parser("keys", help="make a device's secret key; without one, each query makes its own")
    keys.add_argument("trunk", type=bundle_path, help="folder of the trunk")
    keys.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="for the secret key, readable by you only"
    )
    keys.set_defaults(run=_keys)
    _add_serve(actions.add_parser("serve", help="serve a head to devices"))
    _add_query(actions.add_parser("query", help="classify photos with a served head"))
    bench = actions.add_parser(
        "bench", help="measure a head on this machine, and compare each answer with the INT8 engine's"
    )
    bench.add_argument("head", type=Path, help="head.npz")
    bench.add_argument("--queries", type=positive, default=100, metavar="N", help="default: %(default)s")
    add_json(bench)
    bench.set_defaults(run=_bench)


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.description = "Serves a head. Listens on this machine only, unless --host and --token-file say otherwise."
    parser.add_argument("head", type=Path, help="head.npz")
    parser.add_argument("--host", default="127.0.0.1", help="name or address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8010, help="0 for any free one (default: %(default)s)")
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="devices must send its line as: Authorization: Bearer LINE"
    )
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="private key in PEM")
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate chain in PEM")
    parser.add_argument(
        "--queries-per-day",
        type=positive,
        default=QUERIES_PER_DAY,
        metavar="N",
        help="of all devices together. Whoever asks as often as the head has features can compute its weights "
        "(default: %(default)s)",
    )
    add_json(parser)
    parser.set_defaults(run=_serve)


def _add_query(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trunk", type=bundle_path, help="folder of the trunk")
    parser.add_argument("images", nargs="+", type=Path, help="photos")
    parser.add_argument("--server", required=True, metavar="URL", help="of lineside privacy serve")
    parser.add_argument("--keys", type=Path, metavar="FILE", help="secret key of lineside privacy keys")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="what the server wants")
    parser.add_argument("--ca-file", type=Path, metavar="FILE", help="certificates to check the server's against")
    add_json(parser)
    parser.set_defaults(run=_query)


def _split(options: argparse.Namespace) -> int:
    with needs("convert"):
        from lineside_converters.split.linear_head import HEAD_NAME, TRUNK_FOLDER, split_classifier
    from lineside_runtime.bundle import open_bundle

    head = split_classifier(
        open_bundle(options.bundle), options.out, variant=options.variant, overwrite=options.overwrite
    )
    described = head.description
    show(f"{options.out / TRUNK_FOLDER}: {described.features} INT8 features, for devices")
    show(f"{options.out / HEAD_NAME}: {described.classes} classes, secret, for the server")
    return 0


def _keys(options: argparse.Namespace) -> int:
    from lineside_runtime.bundle import open_bundle
    from lineside_runtime.encrypted.client import description_of, open_keys

    if options.out.exists():
        raise ConfigError(
            "--out",
            expected="a file that is not there yet",
            actual=options.out,
            action="Keep the old key, or name another file.",
        )
    keys = open_keys(description_of(open_bundle(options.trunk)), None)
    keys.save(options.out)
    show(
        f"{options.out}: secret key; of it the server's evaluation keys are made ({len(keys.evaluation_keys):,} bytes)"
    )
    return 0


def _serve(options: argparse.Namespace) -> int:
    with needs("serve"):
        from lineside_runtime.encrypted.server import serve_head
        from lineside_runtime.server.access import read_token
    from lineside_runtime.encrypted import read_head

    head = read_head(options.head)

    def announce(url: str) -> None:
        if options.json:
            print_json({"head": head.description.name, "http": url})
        else:
            show(f"serving the head of {head.description.name} at {url}", flush=True)

    serve_head(
        head,
        host=options.host,
        port=options.port,
        token=None if options.token_file is None else read_token(options.token_file),
        tls_key=options.tls_key,
        tls_certificate=options.tls_cert,
        queries_per_day=options.queries_per_day,
        on_started=announce,
    )
    return 0


def _query(options: argparse.Namespace) -> int:
    from lineside_models.vision.images import read_image
    from lineside_runtime.encrypted import EncryptedHead
    from lineside_runtime.server.access import read_token

    token = None if options.token_file is None else read_token(options.token_file)
    answers, unreadable, failure = [], [], None
    with EncryptedHead(
        options.trunk, server=options.server, keys=options.keys, token=token, ca_file=options.ca_file
    ) as classifier:
        for path in options.images:
            try:
                image = read_image(path)
            except LinesideError as error:
                inform(f"not read: {error}")
                unreadable.append({"image": str(path), "error": error.as_dict()})
                continue
            try:
                scores = _classify(classifier, image)
            except LinesideError as error:
                if not options.json:
                    raise
                failure = error  # printed with the answers before it
                break
            answers.append({"image": str(path), "scores": scores})
            if not options.json:
                ranked = list(scores.items())[:SHOWN]
                show(f"{path}: " + ", ".join(f"{label} {score:.3f}" for label, score in ranked))
        budget = classifier.least_noise_budget_bits
    if options.json:
        error_entry = {} if failure is None else {"error": failure.as_dict()}
        print_json({"images": answers, "unreadable": unreadable, "noise_budget_bits": budget, **error_entry})
        if failure is not None:
            inform(f"lineside privacy: {failure}")
    elif answers:
        inform(f"least noise budget: {budget} bits")
    return 1 if unreadable or failure is not None else 0


def _classify(classifier: EncryptedHead, image: np.typing.NDArray[np.uint8]) -> dict[str, float]:
    """Returns the score of each class, the highest first."""
    from lineside_models.postprocess.decoders.classification import class_scores
    from lineside_models.preprocess import prepare

    how, described = classifier.session.manifest.preprocess, classifier.description
    logits = classifier.predict({how.input: prepare(image, how)[0]})
    scores = class_scores(logits, described.postprocess.params)[0]
    ranked = sorted(zip(scores.tolist(), described.labels, strict=True), reverse=True)
    return {label: score for score, label in ranked}


def _bench(options: argparse.Namespace) -> int:
    from lineside_runtime.encrypted import read_head
    from lineside_runtime.encrypted.trial import try_head

    trial = try_head(read_head(options.head), options.queries)
    if options.json:
        print_json(trial)
    else:
        _print(trial)
    return 0 if trial.equal == trial.queries else 1


def _print(trial: HeadTrial) -> None:
    show(f"{trial.features} features, {trial.classes} classes, sums of {trial.sum_bits} bits")
    show(f"answers equal to the INT8 engine's: {trial.equal} of {trial.queries}")
    show(f"processor time of encryption {trial.encrypt_ms:.1f} ms, of the head {trial.head_ms:.1f} ms")
    show(f"processor time of decryption {trial.decrypt_ms:.1f} ms")
    show(f"up {trial.up_bytes:,} bytes, down {trial.down_bytes:,} bytes, keys once {trial.key_bytes:,} bytes")
    show(f"noise budget left: {trial.noise_budget_bits} bits")
