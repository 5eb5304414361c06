"""A node gets no other node's files, neither by what it asks for nor by what it says is its own; nor the server's."""

import os
import subprocess
import sys
import threading

import pandas as pd
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from clients.client_app import app as client_app
from laser_fl.federated.server import Server
from laser_fl.transport.arrays import read_tensors
from laser_fl.transport.messages import read_numbers
from laser_fl.transport.shared_memory import SharedMemory, TensorHandle
from strategies.server_app import app as server_app
from tests.grids import FakeGrid, run_config
from tests.helpers import StoppedError

KEYS = {"clients": 4, "min_clients": 1, "strategy": "laser"}
STATE = ("memory", "in-flight", "last-tensors")
AT = 2  # the round in which a node attacks, from 0
PAIRS = [(100, 101), (1, 11), (11, 1), (10, 100)]  # IDs of a node and of the one that attacks it


class Hostile(FakeGrid):
    """A grid of an honest node, which is asked first, and of one that answers as `attack` does from a round on.

    attack: (message, its context, the honest node's context) -> answer. got: what the server has sent it since.
    """

    def __init__(self, values, attack, nodes=(100, 101)):
        super().__init__(2, values, self.answered)
        places = [context.node_config for context in self.contexts.values()]
        self.contexts = {
            node: Context(1, node, place, RecordDict(), values) for node, place in zip(nodes, places, strict=True)
        }
        self.honest, self.attack, self.got = nodes[0], attack, []

    def send_and_receive(self, messages, *, timeout=None):
        first = sorted(messages, key=lambda message: message.metadata.dst_node_id != self.honest)
        return super().send_and_receive(first, timeout=timeout)

    def answered(self, message, context):
        if context.node_id == self.honest or read_numbers(message.content).exchange.round < AT:
            return client_app(message, context)
        self.got.append(message.content)
        return self.attack(message, context, self.contexts[self.honest])


def carried_out(tmp_path, attack, nodes=(100, 101), **keys):
    """Carry out a run with a hostile node: (what that was sent, its ledger)."""
    values = run_config(tmp_path / "run", **KEYS | keys).to_flat()
    grid = Hostile(values, attack, nodes)
    server_app(grid, Context(1, 0, {}, RecordDict(), values))
    return grid.got, pd.read_csv(tmp_path / "run" / "ledger.csv", keep_default_na=False)


def copies(text):
    """The tensors of a handle as they are now."""
    return {name: tensor.clone() for name, tensor in TensorHandle.parse(text).map().items()}


def asking(**named):
    return RecordDict({"everything": ConfigRecord({"elsewhere": True, **named})})


def sent_in(content):
    return {key: read_tensors(content[key]) for key in STATE if isinstance(content.get(key), ArrayRecord)}


class TestWhatANodeAsksFor:
    @pytest.mark.parametrize("nodes", PAIRS)
    @pytest.mark.parametrize("what", [*STATE, "broadcast"])
    def test_is_not_what_another_node_has_or_the_server_whatever_it_names(self, tmp_path, nodes, what):
        secrets = []

        def steal(message, context, victim):
            where = {**victim.state["client-state"], "broadcast": message.content["broadcast"].get("tensors")}
            named = dict.fromkeys(STATE, where[what])
            if len(secrets) < 2:
                secrets.append(copies(where[what]))
            if len(secrets) == 2:
                secrets.append({})
                return Message(asking(**named), reply_to=message)
            answer = client_app(message, context)
            if len(secrets) == 1:
                answer.content["files"] = ConfigRecord(named)  # as where it has saved its own client state
            return answer

        got, _ = carried_out(tmp_path, steal, nodes)
        assert len(secrets) == 3
        for tensors in [tensors for content in got for tensors in sent_in(content).values()]:
            assert not any(torch.equal(tensors[n], s[n]) for s in secrets for n in s.keys() & tensors.keys())

    def test_is_its_own_client_state_where_it_has_moved_though_it_names_nothing(self, tmp_path):
        saved = []

        def move(message, context, victim):
            if not saved:
                saved.append({key: copies(context.state["client-state"][key]) for key in STATE})
                return Message(asking(), reply_to=message)
            return client_app(message, context)

        got, ledger = carried_out(tmp_path, move)
        assert ledger.left_out.tolist() == [""] * 6
        sent = sent_in(got[1])
        assert sent.keys() == set(STATE)
        for key, tensors in saved[0].items():
            assert tensors.keys() == sent[key].keys()
            assert all(torch.equal(tensor, sent[key][name]) for name, tensor in tensors.items())

    def test_is_nothing_where_the_server_has_another_client_state_than_the_node(self, tmp_path):
        """The node had replied, but its reply was lost: it starts from nothing, as after a restart, and mixes none."""
        lost = []

        def lose(message, context, victim):
            if not lost:
                lost.append(client_app(message, context))
                return Message(asking(), reply_to=message)
            if len(lost) == 1:
                lost.append(message)
                for key in STATE:  # where it is now, it cannot see the files
                    text = context.state["client-state"][key]
                    context.state["client-state"][key] = text.replace(TensorHandle.parse(text).host, "another")
            return client_app(message, context)

        _, ledger = carried_out(tmp_path, lose)
        assert ledger.left_out.tolist() == [""] * 6


def copying(what):
    """Reply with the same reports as the honest node, and with tensors that the honest node or the server wrote."""

    def attack(message, context, victim):
        answer = client_app(message, context)
        honest = victim.state["client-state"]
        foreign = {"signals": honest["last-tensors"], "model": message.content["broadcast"]["tensors"]}
        answer.content["reply"]["reports"] = honest["last-reports"]
        answer.content["reply"]["tensors"] = foreign[what]
        return answer

    return attack


class TestWhatANodeReplies:
    @pytest.mark.parametrize("nodes", PAIRS)
    def test_with_the_signals_of_another_is_malformed(self, tmp_path, nodes):
        _, ledger = carried_out(tmp_path, copying("signals"), nodes, strategy="z-sgd")
        assert ledger.left_out.tolist() == ["", "", *["2 malformed; 3 malformed"] * 4]

    def test_with_the_servers_model_has_other_names(self, tmp_path):
        _, ledger = carried_out(tmp_path, copying("model"))
        assert ledger.left_out.tolist() == ["", "", *["2 names; 3 names"] * 4]

    def test_with_a_file_of_any_other_run_is_malformed_where_the_server_has_no_files(self, tmp_path, monkeypatch):
        monkeypatch.setattr(SharedMemory, "with_room", classmethod(lambda cls, size: None))
        other = SharedMemory(None)

        def point(message, context, victim):
            answer = client_app(message, context)
            handle = other.publish("signals-buffers", read_tensors(answer.content["tensors"]))
            del answer.content["tensors"]
            answer.content["reply"]["tensors"] = handle.text
            return answer

        _, ledger = carried_out(tmp_path, point)
        other.close()
        assert ledger.left_out.tolist() == ["", "", *["2 malformed; 3 malformed"] * 4]

    def test_in_a_file_larger_than_a_reply_may_be_is_refused_before_it_is_read(self, tmp_path):
        def sparse(message, context, victim):
            answer = client_app(message, context)
            handle = TensorHandle.parse(answer.content["reply"]["tensors"])
            os.truncate(handle.path, 2**42)
            layout = tuple((name, (2, 2**37), dtype) for name, _, dtype in handle.layout)
            answer.content["reply"]["tensors"] = TensorHandle(handle.host, handle.path, layout).text
            return answer

        _, ledger = carried_out(tmp_path, sparse)
        assert ledger.left_out.tolist() == ["", "", *["2 shapes; 3 shapes"] * 4]

    def test_with_a_file_that_is_shorter_by_then_is_malformed(self, tmp_path, caplog):
        """Its client state is there no more, either: it starts from nothing in the next round."""
        shortened = []

        def shorten(message, context, victim):
            answer = client_app(message, context)
            if not shortened:
                shortened.append(TensorHandle.parse(answer.content["reply"]["tensors"]).path)
                os.truncate(shortened[0], 10)
            return answer

        with caplog.at_level("WARNING", logger="flwr"):
            _, ledger = carried_out(tmp_path, shorten)
        assert ledger.left_out.tolist() == ["", "", "2 malformed; 3 malformed", "", "", ""]
        assert "has 10 bytes, not" in caplog.text


class TestWhereANodeWrites:
    """A server names the folder of a shared memory; only one that its user alone may enter, and has its file in it."""

    @pytest.mark.parametrize("how", ["open to others", "without the server's file"])
    def test_is_no_folder_that_a_stranger_names(self, tmp_path, how):
        values = run_config(tmp_path / "run", **KEYS, rounds=1).to_flat()
        seen = []

        def lead_astray(message, context):
            folder = TensorHandle.parse(message.content["broadcast"]["tensors"]).folder
            if how == "open to others":
                folder.chmod(0o777)
            else:
                for file in folder.glob("*weights*"):
                    file.unlink()
            before = set(folder.iterdir())
            answer = client_app(message, context)
            folder.chmod(0o700)
            seen.append((set(folder.iterdir()) - before, list(answer.content)))
            raise StoppedError

        with pytest.raises(StoppedError):
            server_app(FakeGrid(2, values, lead_astray), Context(1, 0, {}, RecordDict(), values))
        assert seen == [(set(), ["everything"])]


def shorten_all(folder, over):
    """Make all files of a folder empty, again and again."""
    while not over.is_set():
        for file in folder.iterdir():
            os.truncate(file, 0)


def run_while_files_become_empty(path):
    """Carry out a run in which the files of nodes and server become empty once their replies are taken."""
    aggregate, taken = Server.aggregate, []

    def shortened(server, replies, faults=()):
        for folder in {TensorHandle.parse(text).folder for text in taken}:
            for file in folder.iterdir():
                os.truncate(file, 0)
        return aggregate(server, replies, faults)

    def note(message, context, victim):
        taken.append(message.content["broadcast"]["tensors"])
        return client_app(message, context)

    Server.aggregate = shortened
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    values = run_config(path, rounds=AT + 1, **KEYS | {"strategy": "z-sgd"}).to_flat()
    server_app(Hostile(values, note), Context(1, 0, {}, RecordDict(), values))


def publish_while_files_become_empty():
    """Write a model's file while another process would make it empty."""
    memory, over = SharedMemory(None), threading.Event()
    model = {"w": torch.ones(4_000_000)}
    memory.publish("model", model)
    neighbour = threading.Thread(target=shorten_all, args=(memory.path, over))
    neighbour.start()
    for _ in range(100):
        handle = memory.publish("model", model)
    over.set()
    neighbour.join()
    assert (memory.publish("model", model), handle.map()["w"].sum()) == (handle, 4_000_000)
    memory.close()


@pytest.mark.thorough
@pytest.mark.process
@pytest.mark.parametrize("what", ["run_while_files_become_empty(sys.argv[1])", "publish_while_files_become_empty()"])
def test_a_file_that_becomes_empty_does_not_end_the_server(tmp_path, what):
    program = f"import sys; from tests.transport.test_ownership import *; {what}"
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path / "run")], check=False)
    assert ended.returncode == 0
