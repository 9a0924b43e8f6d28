"""Errors of boards: flashing, provisioning, the console."""

from __future__ import annotations

from lineside_runtime.errors import LinesideError


class BoardError(LinesideError):
    """A board cannot be detected, written or reached."""

    code = 7000
    default_action = "Check the board's power and connection, and try again."


class UnknownBoardError(BoardError):
    """There is no profile of this name."""

    code = 7001
    default_action = "`lineside board profiles` lists the boards; a new board is a new .toml file."


class ImageError(BoardError):
    """A disk image is damaged, or not laid out as the board's profile says."""

    code = 7002
    default_action = "Fetch the image again, or take the one that the board's profile names."


class UnsafeTargetError(BoardError):
    """Writing there could destroy what somebody still needs, or can't hold the image."""

    code = 7003
    default_action = "Nothing was written. `lsblk` shows which device is the card."


class FlashError(BoardError):
    """Writing an image to a device stopped half-way; what is on the device doesn't start."""

    code = 7004
    default_action = "Run the same command again: it begins anew."


class ReadBackError(BoardError):
    """What is read back isn't what was written."""

    code = 7005
    default_action = "Use another card or reader: this one doesn't keep what is written to it."


class PayloadError(BoardError):
    """What goes onto the board can't be put together for it."""

    code = 7006
    default_action = "The message names what is missing and for which Python and platform."


class MissingProgramError(BoardError):
    """A program of the system's that edits images isn't installed."""

    code = 7007
    default_action = "Install the package that the message names."


class ConsoleError(BoardError):
    """The serial console isn't where one can log in."""

    code = 7008
    default_action = "Look at it with `lineside board console PORT`; the message says what to check."


class BoardLinkError(BoardError):
    """The line to the board broke, or loses what is sent over it."""

    code = 7009
    default_action = "Mend the connection and run the same command again: it goes on where the board stands."


class HostKeyError(BoardError):
    """The SSH server's key isn't known, or isn't the one that is known."""

    code = 7010
    default_action = "Compare the fingerprint with the board's own console, and name it with --host-key."


class LoginError(BoardError):
    """The board refuses user, password or key, or the user may not become root there."""

    code = 7011
    default_action = "Check the user's name, password and key; sudo must be allowed to that user."


class ProvisionError(BoardError):
    """A step on the board didn't take, or the board isn't one that it can be done on."""

    code = 7012
    default_action = "Mend what the message names and run the same command again: it goes on where the board stands."
