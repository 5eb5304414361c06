"""Real SuperLinks and SuperNodes, processes on this machine: they give the in-process run, and let in who is listed.

Slow: about a minute each on two cores. Those marked long, of which ten rounds and a SuperNode killed and restarted take
five minutes each, are run by hand: pytest -m long.
"""

import json
import os
import re
import signal
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pandas as pd
import psutil
import pytest
from cryptography import x509
from safetensors.torch import load_file

from laser_fl.config import parse
from laser_fl.errors import LaserError, TrainingError
from simulations.engines import in_process
from simulations.engines.app import MODULE
from simulations.engines.credentials import make_node, make_server
from simulations.engines.deployment import Deployment
from simulations.engines.superlink import checked
from simulations.private import private_folder
from tests.helpers import assert_alike

SHORT = {"model": "linear", "clients": 4, "batch-size": 16, "client-batching": "loop"}


@pytest.fixture
def home():
    with private_folder() as folder:
        yield folder


@pytest.mark.thorough
@pytest.mark.deployment
@pytest.mark.long
def test_ten_rounds_on_four_supernodes_give_the_in_process_run_bit_for_bit_and_keep_their_secrets(tmp_path, home):
    config = parse(SHORT | {"rounds": 10, "evaluate-every": 5})
    lines = []
    with Deployment(
        4, home, own={3: {"device": "cpu", "data-dir": os.environ.get("LASER_FL_DATA", "."), "threads": 1}}
    ) as deployment:
        deployment.list_keys(*range(4))
        deployment.start(*range(4))
        values = checked(config, tmp_path / "deployed", 4) | {"min-available-nodes": 4}
        deployment.run(values, lines.append)
        logs = [deployment.log(node) for node in range(4)]
    assert any("round 10/10" in line for line in lines)
    assert all(log.count("Sent successfully") == 10 for log in logs)
    in_process.run(config, tmp_path / "direct")
    a, b = (load_file(tmp_path / engine / "weights.safetensors") for engine in ("deployed", "direct"))
    assert_alike(a, b)
    for file in ("metrics.csv", "ledger.csv", "weights.safetensors"):
        assert (tmp_path / "deployed" / file).read_bytes() == (tmp_path / "direct" / file).read_bytes()

    secrets = [secret_lines(file) for file in [deployment.server.key, *(files.key for files in deployment.keys)]]
    written = [*files_of(tmp_path / "deployed"), *(file for file in files_of(home) if file.parent != home / "keys")]
    names = {file.name for file in written}
    assert names >= {"config.json", "summary.json", "config.toml", "pyproject.toml", "superlink.log", "node-0.log"}
    assert sum(file.name == f"{MODULE}.py" for file in written) > 1  # the app, and its bundle, unpacked
    for text in [*(file.read_bytes() for file in written), "\n".join(lines).encode()]:
        assert not any(line in text for secret in secrets for line in secret)


def secret_lines(key):
    """What nobody else may see of a private key: the full lines of its PEM body."""
    lines = [line for line in key.read_bytes().splitlines()[1:-1] if len(line) >= 60]
    assert lines
    return lines


def files_of(folder):
    return [file for file in folder.rglob("*") if file.is_file()]


@pytest.mark.thorough
@pytest.mark.deployment
def test_a_supernode_whose_key_is_not_listed_is_refused_and_gets_no_work(tmp_path, home):
    config = parse(SHORT | {"rounds": 1, "reply-timeout": 5.0, "min-available-nodes": 2})
    with Deployment(2, home) as deployment:
        deployment.list_keys(0)
        deployment.start(0)
        with pytest.raises(LaserError, match=r"SuperNode 1: \[code: \d+\] Failed to activate SuperNode"):
            deployment.start(1)
        with pytest.raises(TrainingError, match=r"^1 of 2 nodes have registered within 5 seconds"):
            deployment.run(checked(config, tmp_path / "run", 2), lambda line: None)
        assert "Receiving" not in deployment.log(0) + deployment.log(1)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"


@pytest.mark.thorough
@pytest.mark.deployment
@pytest.mark.parametrize(
    "ending",
    [
        pytest.param(None, id="to its end"),
        pytest.param(signal.SIGTERM, id="SIGTERM", marks=pytest.mark.long),
        pytest.param(signal.SIGINT, id="Ctrl-C", marks=pytest.mark.long),
    ],
)
def test_the_command_leaves_no_process_and_no_file_behind(tmp_path, ending):
    # A shell starts what is to run in the background with Ctrl-C ignored, and so would be whatever the tests start.
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    command = [sys.executable, "-c", heeding + "from simulations.cli import app; app()"]
    command += ["run", "--engine", "deployment", "--nodes", "2", "--out", str(tmp_path / "run")]
    rounds = 1 if ending is None else 60
    command += ["-c", "model=linear", "-c", "clients=2", "-c", f"rounds={rounds}"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path
    ) as process:
        for line in process.stdout:
            if "laser over awgn" in line:  # the run has begun
                started = psutil.Process(process.pid).children(recursive=True)
                homes = {home for child in started for home in homes_of(child)}
                if ending is not None:
                    process.send_signal(ending)
        process.wait()
    assert (process.returncode == 0) == (ending is None)
    assert len(started) >= 6  # SuperLink, SuperNodes, their executors, the server's app
    assert psutil.wait_procs(started, timeout=30)[1] == []
    assert len(homes) == 1
    assert not homes.pop().exists()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == ("completed" if ending is None else "interrupted")


def homes_of(process):
    """The deployment's folder, as a process was told it; none of other processes, and of those that just ended."""
    try:
        return {Path(word) for word in process.cmdline() if re.fullmatch(r"/.*/lfl\w+", word)}
    except psutil.NoSuchProcess:
        return set()


def test_private_keys_are_this_users_alone(tmp_path):
    server, node = make_server(tmp_path / "keys", "127.0.0.1"), make_node(tmp_path / "keys", "node-0")
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    for key in (server.key, node.key):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert b"PRIVATE KEY" in key.read_bytes()
    assert node.public.read_bytes().startswith(b"ecdsa-sha2-nistp384 ")
    with pytest.raises(FileExistsError):
        make_node(tmp_path / "keys", "node-0")


def test_a_certificate_is_for_this_machines_loopback_and_signed_by_the_authority(tmp_path):
    files = make_server(tmp_path / "keys", "127.0.0.1")
    authority, server = (x509.load_pem_x509_certificate(f.read_bytes()) for f in (files.authority, files.certificate))
    server.verify_directly_issued_by(authority)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert shaken_hands(files, "127.0.0.1")
    assert shaken_hands(files, "localhost")
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        shaken_hands(files, "127.0.0.2")
    stranger = make_server(tmp_path / "others", "127.0.0.1")
    with pytest.raises(ssl.SSLCertVerificationError, match="verify failed"):
        shaken_hands(files, "127.0.0.1", trusted=stranger.authority)


def shaken_hands(files, host, trusted=None):
    """A TLS handshake in memory with who has `files`, by who trusts the authority and asks for `host`."""
    here, there = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(files.certificate, files.key)
    server = ours.wrap_bio(here, there, server_side=True)
    theirs = ssl.create_default_context(cafile=str(trusted or files.authority))
    client = theirs.wrap_bio(there, here, server_hostname=host)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return client.version() == "TLSv1.3"


@pytest.mark.thorough
@pytest.mark.deployment
@pytest.mark.long
def test_a_run_goes_on_without_a_supernode_that_is_killed_and_with_it_when_it_is_back(tmp_path, home):
    """One of four, after round 3, and again after round 6; about 5 minutes, one of them until its death is noticed."""
    config = parse(SHORT | {"rounds": 12, "evaluate-every": 1})
    events = {
        "round 3/12": lambda deployment: deployment.kill(2),
        "round 6/12": lambda deployment: deployment.restart(2),
    }
    with Deployment(4, home) as deployment:
        deployment.list_keys(*range(4))
        deployment.start(*range(4))

        def react(line):
            for mark, event in events.items():
                if mark in line:
                    event(deployment)

        values = checked(config, tmp_path / "run", 4) | {"min-available-nodes": 4}
        deployment.run(values, react)
        assert "Sent successfully" in deployment.log(2)  # since it was restarted
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "completed"
    transmitters = pd.read_csv(tmp_path / "run" / "ledger.csv")["transmitters"].tolist()
    assert transmitters[:3] == [4, 4, 4]
    assert 3 in transmitters[3:6]
    assert transmitters[-1] == 4
