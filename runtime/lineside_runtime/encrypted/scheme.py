"""BFV by Microsoft SEAL, through TenSEAL's ``sealapi``: keys, encryption, and the linear head on ciphertexts.

Parameters: polynomials of degree 8192 and a coefficient modulus of 50 + 55 + 50 = 155 bits. The table of the
Homomorphic Encryption Standard (https://homomorphicencryption.org/standard, 2018, table 1) allows 218 bits at this
degree for 128 bits of security with ternary secrets; SEAL checks the same table when the context is made.

A ciphertext travels as SEAL writes it: the device's with a seed in place of its second polynomial (half of the size).
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import numpy as np

from lineside_runtime.encrypted.head import Ints, LinearHead
from lineside_runtime.encrypted.packing import ROW_SLOTS, Packing
from lineside_runtime.errors import BadInputFormatError, EngineError, MissingExtraError
from lineside_runtime.files import write_atomic

DEGREE = 2 * ROW_SLOTS
COEFFICIENT_BITS = (50, 55, 50)
STANDARD_BITS = 218
"""Largest coefficient modulus at this degree for 128 bits of security."""

PLAIN_BITS_MIN = 20
"""There are too few small primes that leave a rest of 1 when divided by twice the degree."""

BUDGET_MIN_BITS = 2
"""Noise budget that an answer must have left: at 0 it decrypts to another number."""

GENERATOR = 3  # of the Galois group: SEAL rotates a row by r with the automorphism x -> x^(3^r)

_ACTION = (
    "Run: pip install 'lineside[privacy]'. TenSEAL has packages for Python 3.11 to 3.13, and for 3.10 on x86-64 only."
)


def _seal() -> Any:
    try:
        from tenseal import sealapi
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"the package {error.name!r} is not installed", action=_ACTION) from error
    return sealapi


class Scheme:
    """The parameters for sums of one size.

    Args:
        sum_bits: Of the largest sum, without its sign.
    """

    def __init__(self, sum_bits: int) -> None:
        seal = _seal()
        parameters = seal.EncryptionParameters(seal.SCHEME_TYPE.BFV)
        parameters.set_poly_modulus_degree(DEGREE)
        parameters.set_coeff_modulus(seal.CoeffModulus.Create(DEGREE, list(COEFFICIENT_BITS)))
        # A modulus of b bits lies above 2^(b-1): sums from -2^sum_bits to 2^sum_bits need more than 2^(sum_bits+1).
        parameters.set_plain_modulus(seal.PlainModulus.Batching(DEGREE, max(sum_bits + 2, PLAIN_BITS_MIN)))
        self.seal = seal
        self.context = seal.SEALContext(parameters, True, seal.SEC_LEVEL_TYPE.TC128)
        if not self.context.parameters_set():
            raise EngineError(f"SEAL refuses the parameters: {self.context.parameters_error_message()}")
        self.encoder = seal.BatchEncoder(self.context)
        self.evaluator = seal.Evaluator(self.context)

    def plaintext(self, slots: Ints) -> Any:
        """Encodes ``(DEGREE,) int64``."""
        plain = self.seal.Plaintext()
        self.encoder.encode(slots.tolist(), plain)
        return plain

    def read(self, kind: str, data: bytes) -> Any:
        """Reads a ciphertext or keys that another party sent.

        Raises:
            BadInputFormatError: It is none, or has other parameters.
        """
        value = getattr(self.seal, kind)()
        descriptor = os.memfd_create("lineside")
        try:
            os.truncate(descriptor, len(data))
            os.pwrite(descriptor, data, 0)
            value.load(self.context, f"/proc/self/fd/{descriptor}")
        except (RuntimeError, ValueError, IndexError, MemoryError) as error:
            raise BadInputFormatError(
                f"no {kind} of these parameters: {error}",
                expected=f"what SEAL saves of a {kind}",
                actual=f"{len(data)} bytes",
            ) from error
        finally:
            os.close(descriptor)
        return value


@functools.lru_cache(maxsize=8)
def scheme_for(sum_bits: int) -> Scheme:
    """Returns the scheme for sums of this size; making one takes some milliseconds."""
    return Scheme(sum_bits)


def to_bytes(value: Any) -> bytes:
    """Returns what SEAL saves, without a file on a disk."""
    descriptor = os.memfd_create("lineside")
    try:
        value.save(f"/proc/self/fd/{descriptor}")
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    finally:
        os.close(descriptor)


class DeviceKeys:
    """The keys of one device: the secret key never leaves it, the evaluation keys go to the server.

    Args:
        packing: The shape of the head; keys serve heads of this shape and `sum_bits` only.
        secret: A secret key that `save` wrote; ``None`` makes a new one.
    """

    def __init__(self, packing: Packing, sum_bits: int, secret: bytes | None = None) -> None:
        self.packing = packing
        self._scheme = scheme = scheme_for(sum_bits)
        seal = scheme.seal
        if secret is None:
            generator = seal.KeyGenerator(scheme.context)
            self._secret = generator.secret_key()
        else:
            self._secret = scheme.read("SecretKey", secret)
            generator = seal.KeyGenerator(scheme.context, self._secret)
        elements = [pow(GENERATOR, rotation, 2 * DEGREE) for rotation in packing.rotations]
        self.evaluation_keys = to_bytes(generator.create_galois_keys(elements))
        self._encryptor = seal.Encryptor(scheme.context, self._secret)
        self._decryptor = seal.Decryptor(scheme.context, self._secret)

    def save(self, path: Path) -> None:
        """Writes the secret key, readable by its owner only."""
        write_atomic(path, to_bytes(self._secret), mode=0o600)

    def encrypt(self, features: Ints) -> bytes:
        """Encrypts the features of one image, ``(features,)``."""
        return to_bytes(self._encryptor.encrypt_symmetric(self._scheme.plaintext(self.packing.slots(features))))

    def decrypt(self, answer: bytes) -> tuple[Ints, int]:
        """Decrypts an answer.

        Returns:
            The sums, ``(classes,) int64``, and the noise budget that was left in bits.

        Raises:
            BadInputFormatError: It is no ciphertext, or has no noise budget left, so that its numbers are wrong.
        """
        ciphertext = self._scheme.read("Ciphertext", answer)
        budget = int(self._decryptor.invariant_noise_budget(ciphertext))
        if budget < BUDGET_MIN_BITS:
            raise BadInputFormatError(
                "the server's answer has no noise budget left",
                expected=f"at least {BUDGET_MIN_BITS} bits",
                actual=f"{budget} bits",
                action="The server computed something else, or with other keys: compare versions on both sides.",
            )
        plain = self._scheme.seal.Plaintext()
        self._decryptor.decrypt(ciphertext, plain)
        values = self._scheme.encoder.decode_int64(plain)[: self.packing.classes]
        return np.array(values, np.int64), budget


class CipherHead:
    """A head that is applied to ciphertexts; safe to use from several threads."""

    def __init__(self, head: LinearHead) -> None:
        self.description = head.description
        self.packing = Packing(head.description.features, head.description.classes)
        self._scheme = scheme = scheme_for(head.description.sum_bits)
        level = scheme.context.first_parms_id()
        self._bias = scheme.plaintext(self.packing.slots(np.resize(self._padded(head.bias), self.packing.period)))
        self._diagonals: list[list[Any]] = []
        for group in self.packing.diagonals(head.weights):
            encoded: list[Any] = []
            for slots in group:
                plain = scheme.plaintext(slots) if slots.any() else None  # SEAL refuses to multiply by zero
                if plain is not None:
                    scheme.evaluator.transform_to_ntt_inplace(plain, level)
                encoded.append(plain)
            self._diagonals.append(encoded)

    def _padded(self, bias: Ints) -> Ints:
        padded = np.zeros(self.packing.rows, np.int64)
        padded[: len(bias)] = bias
        return padded

    def read_keys(self, data: bytes) -> Any:
        """Reads a device's evaluation keys.

        Raises:
            BadInputFormatError: They are none, or keys for other rotations.
        """
        keys = self._scheme.read("GaloisKeys", data)
        missing = [r for r in self.packing.rotations if not keys.has_key(pow(GENERATOR, r, 2 * DEGREE))]
        if missing:
            raise BadInputFormatError(
                "evaluation keys of another head", expected="keys for all rotations", actual=f"none for {missing}"
            )
        return keys

    def apply(self, ciphertext: bytes, keys: Any) -> bytes:
        """Multiplies encrypted features by the weights and adds the bias.

        Raises:
            BadInputFormatError: It is no fresh ciphertext of these parameters.
        """
        evaluator, seal = self._scheme.evaluator, self._scheme.seal
        features = self._scheme.read("Ciphertext", ciphertext)
        if features.size() != 2 or features.is_ntt_form():
            raise BadInputFormatError("the ciphertext", expected="two polynomials", actual=features.size())
        try:
            rotated = [self._transformed(features, step, keys) for step in range(self.packing.baby_steps)]
            total = None
            for number, group in enumerate(self._diagonals):
                partial = self._product(rotated, group)
                if partial is None:
                    continue
                evaluator.transform_from_ntt_inplace(partial)
                if number:
                    evaluator.rotate_rows_inplace(partial, number * self.packing.baby_steps, keys)
                total = partial if total is None else self._added(total, partial)
            for step in self.packing.folds:
                turned = seal.Ciphertext()
                evaluator.rotate_rows(total, step, keys, turned)
                evaluator.add_inplace(total, turned)
            evaluator.add_plain_inplace(total, self._bias)
            evaluator.mod_switch_to_next_inplace(total)
        except (RuntimeError, ValueError) as error:
            raise BadInputFormatError(f"the ciphertext cannot be computed with: {error}") from error
        return to_bytes(total)

    def _transformed(self, features: Any, step: int, keys: Any) -> Any:
        turned, result = self._scheme.seal.Ciphertext(), self._scheme.seal.Ciphertext()
        if step:
            self._scheme.evaluator.rotate_rows(features, step, keys, turned)
        self._scheme.evaluator.transform_to_ntt(turned if step else features, result)
        return result

    def _product(self, rotated: list[Any], group: list[Any]) -> Any:
        total = None
        for features, diagonal in zip(rotated, group, strict=True):
            if diagonal is not None:
                product = self._scheme.seal.Ciphertext()
                self._scheme.evaluator.multiply_plain(features, diagonal, product)
                total = product if total is None else self._added(total, product)
        return total

    def _added(self, total: Any, more: Any) -> Any:
        self._scheme.evaluator.add_inplace(total, more)
        return total
