"""Benchmarks: one file each, run by ``laser-fl bench NAME``. A new one is a new file and a line here.

Each prints lines of figures that were measured side by side in one process or run. Their ratio counts, and it depends
little on the machine.
"""

from laser_fl.registry import Entry, Table

BENCHMARKS = Table(
    {
        "mnist": Entry("simulations.benchmarks.rounds:mnist", "rounds of the MNIST preset, 16 clients x 128"),
        "resnet18": Entry("simulations.benchmarks.rounds:resnet18", "rounds of ResNet18 at full width, 4 clients x 32"),
        "cifar10": Entry(
            "simulations.benchmarks.rounds:cifar10", "rounds of ResNet18 at the paper's size, on random images"
        ),
        "gpt2-small": Entry("simulations.benchmarks.rounds:gpt2_small", "rounds of the preset gpt2-small"),
        "gpt2": Entry(
            "simulations.benchmarks.rounds:gpt2", "rounds of GPT-2, full width, 2 layers, 2 clients x 1,024 tokens"
        ),
        "gpt2-full": Entry(
            "simulations.benchmarks.rounds:gpt2_full", "rounds of GPT-2 at the paper's size, on random tokens"
        ),
        "growth": Entry("simulations.benchmarks.rounds:growth", "rounds of the MNIST preset with 4 to 1,000 clients"),
        "population": Entry(
            "simulations.benchmarks.population:population", "rounds of 100 clients out of 10,000 and 100,000"
        ),
        "peers": Entry(
            "simulations.benchmarks.peers:peers", "rounds on MNIST beside plain PyTorch, pfl, BlazeFL and DDP's hook"
        ),
        "peers-local": Entry(
            "simulations.benchmarks.peers:peers_local", "rounds of 50 local steps on CIFAR-10, BlazeFL's own setting"
        ),
        "compression": Entry(
            "simulations.benchmarks.compression:compression", "LASER's products beside those of torch's PowerSGD hook"
        ),
        "flower": Entry("simulations.benchmarks.flower:flower", "rounds on Flower beside FedAvg's and empty ones"),
    }
)
