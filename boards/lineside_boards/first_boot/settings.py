"""`FirstBootSettings`: settings of a board before its first start."""

from __future__ import annotations

import hashlib
import re

import msgspec

from lineside_runtime.errors import ConfigError

_HOSTNAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,30}")
_KEY = re.compile(r"(ssh-|ecdsa-|sk-)[a-z0-9@.-]+ [A-Za-z0-9+/]+={0,3}( .*)?")
_COUNTRIES = (
    "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY "
    "BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK "
    "FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR "
    "IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK "
    "ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM "
    "PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF "
    "TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW"
)
"""Codes of ISO 3166-1: the kernel's rules for radios are named by them, and it ignores others."""

_NEVER = ("root", "lineside")


class Wifi(msgspec.Struct, frozen=True, kw_only=True):
    """A wireless network with WPA2 or WPA3 personal.

    Attributes:
        key: 64 hexadecimal digits, see `wpa_key`.
        country: Two letters; the radio stays off without them.
    """

    ssid: str
    key: str
    country: str


class FirstBootSettings(msgspec.Struct, frozen=True, kw_only=True):
    """First-boot settings; `checked` validates them.

    Attributes:
        user: May log in and become root.
        password_hash: Of crypt(3); empty for none: then only keys log in, and sudo asks for nothing.
        ssh_keys: Lines of ``authorized_keys``.
        instance: Differs for each preparation, so that the settings are applied again.
    """

    hostname: str
    user: str = "admin"
    password_hash: str = ""
    ssh_keys: tuple[str, ...] = ()
    wifi: Wifi | None = None
    instance: str = ""

    def checked(self, *, root: bool = False) -> FirstBootSettings:
        """Validates the settings and returns them.

        Args:
            root: Whether the user may be root, as on a board that already runs.

        Raises:
            ConfigError: A name or key is invalid, or contains a line break.
        """
        if not _HOSTNAME.fullmatch(self.hostname):
            expected = "lower-case letters, digits and -, at most 63: it is the host name"
            raise ConfigError("hostname", expected=expected, actual=self.hostname)
        if not _USER.fullmatch(self.user) or (self.user in _NEVER and not (root and self.user == "root")):
            raise ConfigError("user", expected=f"a Linux user's name, not {' or '.join(_NEVER)}", actual=self.user)
        if self.password_hash and not re.fullmatch(r"\$[56y]\$[^\s:]+", self.password_hash):
            raise ConfigError("password_hash", expected="a hash as `openssl passwd -6` prints it")
        for key in self.ssh_keys:
            if not _KEY.fullmatch(key):
                raise ConfigError("ssh_keys", expected="a line as in id_ed25519.pub", actual=key[:24])
        if self.wifi is not None:
            check_country(self.wifi.country)
        return self


def check_country(country: str) -> None:
    """Raises `ConfigError` for what is no country code of ISO 3166, in capitals; with others the radio stays off."""
    if country not in _COUNTRIES.split():
        raise ConfigError(
            "wifi.country", expected="a country of ISO 3166, such as DE, or GB for the United Kingdom", actual=country
        )


def wpa_key(ssid: str, password: str) -> str:
    """Derives the WPA key from a network's name and password, so that the card does not hold the password.

    Args:
        ssid: 1 to 32 bytes.
        password: 8 to 63 ASCII characters, or the key itself.

    Raises:
        ConfigError: One of them has the wrong length or characters.
    """
    if re.fullmatch(r"[0-9a-fA-F]{64}", password):
        return password.lower()
    if not 1 <= len(ssid.encode()) <= 32 or not ssid.isprintable():
        raise ConfigError("wifi.ssid", expected="1 to 32 bytes of printable text", actual=f"{len(ssid.encode())} bytes")
    if not (8 <= len(password) <= 63 and password.isascii() and password.isprintable()):
        raise ConfigError("password", expected="8 to 63 printable ASCII characters")
    return hashlib.pbkdf2_hmac("sha1", password.encode(), ssid.encode(), 4096, 32).hex()


def one_line(text: bytes) -> list[str]:
    """Returns the words of a kernel command line with any line ends."""
    return text.decode("utf-8", "replace").replace("\ufeff", "").split()
