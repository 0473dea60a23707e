"""Installs each host beside tapertune in an environment of its own, trains a few steps in it, and records what works.

    python tests/hosts/run.py [HOST ...] --folder DIR [--torch 2.13.0+cpu] [--keep] [--again]

Needs uv, whose own variables say where packages come from. A host for which these scripts and its present requirement
work by its record is passed over (so what was stopped goes on), unless all is to be done again. An environment is
removed when its record is written. Hosts are resolved with the torch that is named here (constraints.txt's), so that a
processor's build of it is taken where that is what there is; models are made, nothing is fetched but packages.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import Any

from hosts import HOSTS, Host
from page import RECORDS, write_page

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
VERSIONS = ("peft", "transformers", "accelerate", "datasets", "torch", "numpy")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hosts", nargs="*", help="names; all without any")
    parser.add_argument("--folder", type=Path, required=True, help="environments and what is trained")
    parser.add_argument("--torch", default=_pinned_torch(), help="the version that every host gets")
    parser.add_argument("--python", default="3.11", help="of the environments")
    parser.add_argument("--keep", action="store_true", help="keep environments")
    parser.add_argument("--again", action="store_true", help="also those that have a record")
    given = parser.parse_args()
    if unknown := set(given.hosts) - {host.name for host in HOSTS}:
        parser.error(f"no host {min(unknown)!r}; there are {', '.join(host.name for host in HOSTS)}")
    given.folder.mkdir(parents=True, exist_ok=True)
    given.folder = given.folder.resolve()
    wheel, failed = None, []
    for host in HOSTS:
        if given.hosts and host.name not in given.hosts:
            continue
        record, code = _records().get(host.name, {}), _digest(host)
        same = (record.get("requires"), record.get("code")) == ([host.requires, *host.also], code)
        if same and all(check["works"] for check in record["checks"]) and not given.again:
            print(f"{host.name}: recorded")
            continue
        wheel = wheel or _wheel(given.folder)
        began = time.time()
        record = {"requires": [host.requires, *host.also], "code": code, **_try(host, wheel, given)}
        records = {**_records(), host.name: record}  # read anew: another of these may have written meanwhile
        RECORDS.write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        write_page()
        works = [check["works"] for check in record["checks"]]
        print(f"{host.name}: {sum(works)} of {len(works)} checks hold, {time.time() - began:.0f} s", flush=True)
        if not works or not all(works):
            failed.append(host.name)
    if failed:
        print(f"not everything works in {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


def _records() -> dict[str, Any]:
    return json.loads(RECORDS.read_text(encoding="utf-8")) if RECORDS.exists() else {}


def _try(host: Host, wheel: Path, given: argparse.Namespace) -> dict[str, Any]:
    place = given.folder / host.name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    try:
        python = _install(host, wheel, place, given)
    except subprocess.CalledProcessError as error:
        fault = " ".join((error.stderr or "").split())[-300:]
        return {"versions": {}, "checks": [{"what": "installs", "works": False, "fault": fault}]}
    findings, log = place / "findings.json", given.folder / f"{host.name}.log"
    environment = {
        **os.environ, "FOLDER": str(place), "FINDINGS": str(findings), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false", "HF_HOME": str(place / "cache"), "MODELSCOPE_CACHE": str(place / "ms"),
        "PYTHONPATH": "", "WANDB_MODE": "disabled", "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            [python, HERE / "inside" / f"{host.script}.py"], env=environment, stdout=file, stderr=subprocess.STDOUT
        )
    checks = json.loads(findings.read_text(encoding="utf-8")) if findings.exists() else []
    if done.returncode or not checks:
        checks.append({"what": "runs to its end", "works": False, "fault": f"ended with {done.returncode}"})
    versions = _versions(python, host)
    if not given.keep:
        shutil.rmtree(place, ignore_errors=True)
    return {"versions": versions, "checks": checks}


def _install(host: Host, wheel: Path, place: Path, given: argparse.Namespace) -> Path:
    """A new environment with the host, tapertune and what both need; its Python."""
    override = place / "overrides.txt"
    lines = [f"torch=={given.torch}", *(f"{name} ; sys_platform == 'never'" for name in host.without)]
    override.write_text("\n".join(lines), encoding="utf-8")
    _uv("venv", "--quiet", "--python", given.python, place / "venv")
    python = place / "venv" / "bin" / "python"
    wanted = [host.requires, *host.also]
    if host.bare:
        [archive] = _download(host, place)
        wanted = [*_requirements(archive, host), *host.also]
    install = ("pip", "install", "--quiet", "--python", python)
    _uv(*install, "--override", override, f"tapertune @ {wheel.as_uri()}", *wanted)
    site = next((place / "venv" / "lib").glob("python*/site-packages"))
    for folder in host.stripped:
        shutil.rmtree(site / folder)
    if host.bare:
        with zipfile.ZipFile(archive) as file:
            file.extractall(site)
        command = place / "venv" / "bin" / host.package
        command.write_text(_command(archive, host, python), encoding="utf-8")
        command.chmod(0o755)
    return python


def _download(host: Host, place: Path) -> list[Path]:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--ignore-requires-python"]
    subprocess.run([*command, "--dest", place / "wheels", host.requires], check=True, capture_output=True, text=True)
    return list((place / "wheels").glob("*.whl"))


def _metadata(archive: Path, name: str) -> str:
    with zipfile.ZipFile(archive) as file:
        [path] = [path for path in file.namelist() if path.endswith(f".dist-info/{name}")]
        return file.read(path).decode()


def _requirements(archive: Path, host: Host) -> list[str]:
    """What a wheel asks for without extras, less what is left out."""
    every = Parser().parsestr(_metadata(archive, "METADATA")).get_all("Requires-Dist") or []
    name = re.compile(r"^[\w.-]+")
    return [one for one in every if "extra ==" not in one and name.match(one)[0].lower() not in host.without]  # type: ignore[index]


def _command(archive: Path, host: Host, python: Path) -> str:
    [target] = re.findall(rf"^{host.package}\s*=\s*([\w.:]+)", _metadata(archive, "entry_points.txt"), re.MULTILINE)
    module, _, function = target.partition(":")
    # guarded: processes that the host starts import this file again
    start = f'if __name__ == "__main__":\n    sys.exit({function}())\n'
    return f"#!{python}\nimport sys\nfrom {module} import {function}\n{start}"


def _versions(python: Path, host: Host) -> dict[str, str]:
    code = (
        "import importlib.metadata as m, json, platform, sys\n"
        "versions = {'python': platform.python_version()}\n"
        "for name in sys.argv[1:]:\n"
        "    try: versions[name] = m.version(name)\n"
        "    except m.PackageNotFoundError: pass\n"
        "print(json.dumps(versions))"
    )
    names = (host.package, *VERSIONS)
    return json.loads(subprocess.run([python, "-c", code, *names], check=True, capture_output=True, text=True).stdout)


def _wheel(folder: Path) -> Path:
    """Of the tree as it is."""
    shutil.rmtree(folder / "dist", ignore_errors=True)
    _uv("build", "--quiet", "--wheel", "--out-dir", folder / "dist", ROOT)
    [wheel] = (folder / "dist").glob("*.whl")
    return wheel


def _digest(host: Host) -> str:
    """Of the scripts that a host is tried with."""
    names = ("common", "loads", host.script)
    return hashlib.sha256(b"".join((HERE / "inside" / f"{name}.py").read_bytes() for name in names)).hexdigest()[:16]


def _pinned_torch() -> str:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    [version] = re.findall(r"^torch==([\w.+]+)", text, re.MULTILINE)
    try:
        present = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return version
    return present if present.partition("+")[0] == version else version


def _uv(*arguments: str | Path) -> None:
    if shutil.which("uv") is None:
        raise SystemExit("error: needs uv: pip install uv")
    subprocess.run(["uv", *map(str, arguments)], check=True, stderr=subprocess.PIPE, text=True)


if __name__ == "__main__":
    sys.exit(main())
