"""Read from settings.ini what a release changes: version, requirements, extras and entry points."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

ini = ConfigParser(delimiters=["="])
ini.read(Path(__file__).with_name("settings.ini"), encoding="utf-8")
settings = ini["DEFAULT"]


def lines(key: str) -> list[str]:
    """The non-empty lines of one setting."""
    return [line.strip() for line in settings[key].splitlines() if line.strip()]


suffix = "_requirements"
setup(
    version=settings["version"],
    install_requires=lines("requirements"),
    extras_require={key.removesuffix(suffix): lines(key) for key in settings if key.endswith(suffix)},
    entry_points={"console_scripts": lines("console_scripts"), "nbdev": lines("nbdev_index")},
)
