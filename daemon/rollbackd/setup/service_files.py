"""What `rollbackd install` puts onto a host: the unit with its user, and what the configuration needs besides."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from rollbackd.config.load import load
from rollbackd.config.models import Config
from rollbackd.setup import polkit_rule
from rollbackd.setup.host_needs import managed_units, read_write_paths, unit_path
from rollbackd.setup.steps import (
    EncryptSecret,
    PutFile,
    PutLink,
    RemoveFile,
    RunProgram,
    SetupStep,
    TargetHost,
    changes,
)
from rollbackd.syntax.units import Secret
from rollbackd.system.spawner import Spawner, SpawnError

USER = "rollbackd"
CREDENTIALS = Path("/etc/rollbackd/credentials")
"""Where root keeps what `{credential: NAME}` names: `NAME`, or encrypted for this host `NAME.cred`."""
DROP_IN = Path("/etc/systemd/system/rollbackd.service.d/10-configuration.conf")
PROGRAM = Path("/usr/local/bin/rollbackd")
_STATE = Path("/var/lib/rollbackd")
_CONFIGURATION = Path("/etc/rollbackd")
_ON_PATH = (Path("/usr/local/bin"), Path("/usr/bin"))
"""Where the unit's `ExecStart=rollbackd` is looked up."""
_CREDENTIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PROBE = timedelta(seconds=30)
_MARK = "Written by `rollbackd install` from the configuration, and again by the next one: change that instead."


@dataclass(frozen=True, slots=True)
class OwnTexts:
    """What is made of the command line itself."""

    completions: Mapping[str, str]
    """By shell."""
    manual: str


@dataclass(frozen=True, slots=True)
class HostNeeds:
    """What a configuration needs of the host."""

    steps: Sequence[SetupStep]
    lacking: Sequence[str]
    """What only people can give; sentences."""


def shipped() -> Path:
    """The directory of the shipped unit: `systemd/` of a checkout, else inside the package."""
    package = Path(__file__).parents[1]
    checkout = package.parent.parent / "systemd"
    return checkout if package.parent.name == "daemon" and checkout.is_dir() else package / "systemd"


def base_files(texts: OwnTexts) -> list[PutFile]:
    """The files that do not depend on the configuration."""
    share = Path("/usr/local/share")
    places = {
        "bash": share / "bash-completion/completions/rollbackd",
        "zsh": share / "zsh/site-functions/_rollbackd",
        "fish": share / "fish/vendor_completions.d/rollbackd.fish",
    }
    return [
        _shipped(
            "rollbackd.sysusers.conf", Path("/etc/sysusers.d/rollbackd.conf"), "its user, and the operators' group"
        ),
        _shipped("rollbackd.tmpfiles.conf", Path("/etc/tmpfiles.d/rollbackd.conf"), "its directories"),
        _shipped("rollbackd.service", Path("/etc/systemd/system/rollbackd.service"), "the service"),
        *(PutFile(places[shell], text, f"completion for {shell}") for shell, text in texts.completions.items()),
        PutFile(share / "man/man1/rollbackd.1", texts.manual, "man rollbackd"),
    ]


def base_steps(host: TargetHost, texts: OwnTexts, program: Path) -> list[SetupStep]:
    """The program, its unit, its user and its directories."""
    files = base_files(texts)
    at_root = () if host.root == Path("/") else (f"--root={host.root}",)
    has_user = any(line.startswith(f"{USER}:") for line in _lines(host.at(Path("/etc/group"))))
    has_places = host.at(_STATE / "signals").is_dir()
    link = [] if program.parent in _ON_PATH else [PutLink(PROGRAM, program, "where people and the unit find it")]
    return [
        *link,
        *files,
        RunProgram(("systemd-sysusers", *at_root, files[0].path.name), "makes the user and the group", not has_user),
        RunProgram(
            ("systemd-tmpfiles", *at_root, "--create", files[1].path.name), "makes the directories", not has_places
        ),
    ]


def reload_step(host: TargetHost, steps: Sequence[SetupStep]) -> RunProgram:
    """Has systemd read what the other steps write."""
    units = [step for step in steps if isinstance(step, (PutFile, RemoveFile)) and "/systemd/" in str(step.path)]
    return RunProgram(("systemctl", "daemon-reload"), "systemd reads the unit", host.runs and changes(units, host))


def _shipped(name: str, path: Path, why: str) -> PutFile:
    return PutFile(path, (shipped() / name).read_text(), why)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


# -- what the configuration needs ---------------------------------------------------------------
def read(path: Path) -> tuple[Config, frozenset[str]]:
    """A configuration, and the names of its credentials. :raises ConfigErrors: it has faults, or is not there."""
    names: set[str] = set()

    def look_for(secret: Secret) -> None:
        if secret.credential:
            names.add(secret.credential)

    return load(path, look_for=look_for).config, frozenset(filter(_CREDENTIAL.fullmatch, names))


def needed(
    host: TargetHost, config: Config, credentials: Collection[str], *, encrypts: bool, coming: Collection[str] = ()
) -> HostNeeds:
    """The drop-in, the polkit rule and the credentials. `coming` are credentials that an earlier step writes."""
    sealing, lines, lacking = _credentials(host, credentials, encrypts=encrypts, coming=coming)
    lines = [*(f"ReadWritePaths={unit_path(path)}" for path in read_write_paths(config)), *lines]
    units = managed_units(config)
    steps: list[SetupStep] = [*sealing]
    steps += _put_or_take(host, _drop_in(lines), wanted=bool(lines))
    steps += _put_or_take(host, _polkit(units), wanted=bool(units))
    if units and not host.at(Path("/usr/share/polkit-1")).is_dir():
        lacking = [
            *lacking,
            f"polkit is not installed, so that rollbackd may not restart {', '.join(units)}: apt-get install polkitd",
        ]
    return HostNeeds(steps, lacking)


def _put_or_take(host: TargetHost, file: PutFile, *, wanted: bool) -> list[SetupStep]:
    if wanted:
        return [file]
    return [RemoveFile(file.path, "nothing needs it any more", file)] if host.at(file.path).exists() else []


def _drop_in(lines: Sequence[str]) -> PutFile:
    return PutFile(DROP_IN, "\n".join((f"# {_MARK}", "[Service]", *lines, "")), "what the layers and secrets need")


def _polkit(units: Mapping[str, Sequence[str]]) -> PutFile:
    path, text = Path(polkit_rule.PLACE), f"// {_MARK}\n{polkit_rule.rule(units)}"
    return PutFile(path, text, "the units that rollbackd may manage")


def _credentials(
    host: TargetHost, names: Collection[str], *, encrypts: bool, coming: Collection[str]
) -> tuple[list[SetupStep], list[str], list[str]]:
    """What encrypts them, the unit's lines, and those that nobody wrote yet."""
    steps: list[SetupStep] = []
    lines: list[str] = []
    lacking: list[str] = []
    for name in sorted(names):
        plain, sealed = CREDENTIALS / name, CREDENTIALS / f"{name}.cred"
        if name in coming or host.at(plain).exists():
            if encrypts:
                steps.append(EncryptSecret(name, plain, sealed))
                lines.append(f"LoadCredentialEncrypted={name}:{sealed}")
            else:
                lines.append(f"LoadCredential={name}:{plain}")
        elif host.at(sealed).exists():
            lines.append(f"LoadCredentialEncrypted={name}:{sealed}")
        else:
            lacking.append(f"a secret is missing: write it into {plain} (0600), then: rollbackd install")
    return steps, lines, lacking


async def can_encrypt(host: TargetHost, spawner: Spawner) -> bool:
    """Whether secrets can be encrypted so that only this host reads them: by its TPM, or by its own key."""
    if not host.runs or spawner.which("systemd-creds") is None:
        return False
    try:
        done = await spawner.run(["systemd-creds", "encrypt", "--name=probe", "-", "-"], timeout=_PROBE, stdin=b"probe")
    except SpawnError:
        return False
    return done.ok


# -- and off again ------------------------------------------------------------------------------
def removal_steps(host: TargetHost, texts: OwnTexts, *, purge: bool) -> list[SetupStep]:
    """All that was put there is taken away; configuration, secrets and journal only with `purge`."""
    known = [*base_files(texts), _drop_in(()), _polkit({})]
    unit = host.at(Path("/etc/systemd/system/rollbackd.service")).exists()
    stop = RunProgram(
        ("systemctl", "disable", "--now", "rollbackd"), "stops it; a step in hand is waited for", host.runs and unit
    )
    taken = [RemoveFile(file.path, file.why, file) for file in known]
    if host.at(PROGRAM).is_symlink():
        taken.append(RemoveFile(PROGRAM, "the link to the program"))
    if purge:
        taken += [RemoveFile(_CONFIGURATION, "configuration and secrets"), RemoveFile(_STATE, "journal and snapshots")]
    return [stop, *taken, reload_step(host, taken)]
