"""The names of all parts, each loaded on first use, so that a list of them costs nothing.

A built-in part is one new file and one line here. A part from outside the package is registered by a decorator
(`laser_fl.register_scheme`), named as ``module:object``, or registered by an installed package whose entry point in the
group ``laser_fl.plugins`` names a module to import.
"""

from laser_fl.registry.options import Option, check_options, option, options_of
from laser_fl.registry.table import Entry, Table

__all__ = ["Entry", "Option", "Table", "check_options", "modules_of_outside", "option", "options_of"]

SCHEMES = Table(
    {
        "sgd": Entry("laser_fl.schemes.z_sgd:Sgd", "the gradient itself on a noiseless channel"),
        "z-sgd": Entry(
            "laser_fl.schemes.z_sgd:ZSgd",
            "the gradient itself",
            words=("analog aggregation", "AirComp", "over-the-air FedSGD", "uncompressed"),
        ),
        "signum": Entry(
            "laser_fl.schemes.signum:Signum",
            "the gradient's signs",
            words=("one-bit", "QPSK", "BPSK", "OBDA", "majority vote"),
        ),
        "random-k": Entry("laser_fl.schemes.random_k:RandomK", "a random part of the values, with error feedback"),
        "sketch": Entry("laser_fl.schemes.sketch:Sketch", "count-mean sketch of the gradient"),
        "a-dsgd": Entry(
            "laser_fl.schemes.a_dsgd:ADsgd",
            "the largest values, projected, with error feedback",
            words=("compressed sensing", "top-k", "analog DSGD"),
        ),
        "d-dsgd": Entry(
            "laser_fl.schemes.d_dsgd:DDsgd",
            "digital: the largest values that fit, with error feedback",
            words=("top-k", "quantisation", "capacity", "digital DSGD", "orthogonal links"),
        ),
        "laser": Entry(
            "laser_fl.schemes.laser:Laser",
            "low-rank factors, with error feedback",
            words=("PowerSGD", "power iteration", "low rank"),
        ),
        "laser-adaptive": Entry(
            "laser_fl.schemes.laser_adaptive:LaserAdaptive",
            "ours: a factor along recent updates, and as much else as the power carries",
        ),
    },
    "strategy",
    base="laser_fl.schemes.base:Scheme",
)

FACTOR_EXCHANGES = Table(
    {
        "alternating": Entry(
            "laser_fl.schemes.laser:Laser",
            "one factor a round, in turn (the paper's experiments)",
        ),
        "two-phase": Entry(
            "laser_fl.schemes.laser_variants:TwoPhase", "both factors in one round, one after the other (PowerSGD)"
        ),
        "one-shot": Entry(
            "laser_fl.schemes.laser_variants:OneShot",
            "both factors in one transmission (Algorithm 1 to the letter)",
        ),
    },
    "factor-exchange",
    base="laser_fl.schemes.laser:Laser",
)

RECOVERIES = Table(
    {
        "lmmse": Entry(
            "laser_fl.schemes.a_dsgd:lmmse", "linear minimum mean-square error (the paper's pseudo-inverse)"
        ),
        "amp": Entry("laser_fl.schemes.a_dsgd:amp", "approximate message passing, which knows that it is sparse"),
    },
    "recovery",
    takes=("values", "noise_std", "projection"),
)

CHANNELS = Table(
    {
        "awgn": Entry(
            "laser_fl.channels.awgn:Awgn",
            "the air adds up, Gaussian noise comes on top",
            words=("Gaussian MAC", "additive white Gaussian noise", "over-the-air computation"),
        ),
        "fading": Entry(
            "laser_fl.channels.fading:Fading",
            "Rayleigh or Rician gains, which the clients invert",
            words=("truncated inversion", "channel inversion", "CSI", "path loss", "block fading"),
        ),
        "blind": Entry(
            "laser_fl.channels.blind:Blind",
            "gains that no client knows; the server has many antennas",
            words=("Rayleigh", "massive MIMO", "no CSI at the transmitters", "channel hardening"),
        ),
    },
    "channel",
    base="laser_fl.channels.base:Channel",
)

ALLOCATIONS = Table(
    {
        "signal-norm": Entry(
            "laser_fl.power.allocations:signal_norm", "by the norm of what is sent (the paper's best)"
        ),
        "uniform": Entry("laser_fl.power.allocations:uniform", "the same for every block"),
        "gradient-norm": Entry("laser_fl.power.allocations:gradient_norm", "by the norm of the corrected gradient"),
        "gradient-norm-squared": Entry("laser_fl.power.allocations:gradient_norm_squared", "by its energy"),
        "min-mse": Entry("laser_fl.power.allocations:min_mse", "least summed noise, P_l by c_l sqrt(d_l)"),
    },
    "power-allocation",
    takes=("signal_norms", "gradient_norms", "sizes"),
)

POLICIES = Table(
    {
        "constant": Entry("laser_fl.power.policies:constant", "the same budget throughout (the paper's best)"),
        "linear-up": Entry("laser_fl.power.policies:linear_up", "from P/3 to 5P/3"),
        "linear-down": Entry("laser_fl.power.policies:linear_down", "from 5P/3 to P/3"),
        "steps-up": Entry("laser_fl.power.policies:steps_up", "P/3, 2P/3, P, 4P/3, 5P/3"),
        "steps-down": Entry("laser_fl.power.policies:steps_down", "5P/3, 4P/3, P, 2P/3, P/3"),
    },
    "power-policy",
    takes=("power", "step", "steps"),
)

UPDATE_FILTERS = Table(
    {
        "plain": Entry("laser_fl.federated.update_filters:plain", "takes the update as it is (the paper)"),
        "wiener": Entry(
            "laser_fl.federated.update_filters:wiener", "weighs it by how reliable the sum of all so far is"
        ),
        "paced": Entry(
            "laser_fl.federated.update_filters:paced", "as wiener, but never below what a run of its length needs"
        ),
    },
    "receiver",
    takes=("update", "noise", "known", "weighs", "due"),
)
AUTO = "auto"  # the update filter is the scheme's own; the model is the task's first
OWN = "own"  # the task is handed over in Python

TASKS = Table(
    {
        "mnist-5k": Entry("laser_fl.data.mnist:load_mnist_5k", "5,000 handwritten digits, embedded", ("mlp", "linear")),
        "mnist": Entry("laser_fl.data.mnist:load_mnist", "70,000 handwritten digits", ("mlp", "linear")),
        "fashion-mnist": Entry(
            "laser_fl.data.mnist:load_fashion_mnist", "70,000 pieces of clothing", ("mlp", "linear")
        ),
        "cifar10": Entry("laser_fl.data.cifar:load_10", "60,000 colour images, 10 classes", ("resnet18",)),
        "cifar100": Entry("laser_fl.data.cifar:load_100", "60,000 colour images, 100 classes", ("resnet18",)),
        "wikitext-2": Entry(
            "laser_fl.data.wikitext:load_wikitext_2", "2 million words of Wikipedia, rare ones as <unk>", ("gpt2",)
        ),
        "wikitext-2-raw": Entry(
            "laser_fl.data.wikitext:load_wikitext_2_raw", "2 million words of Wikipedia, raw: every one", ("gpt2",)
        ),
        "wikitext-103": Entry(
            "laser_fl.data.wikitext:load_wikitext_103", "103 million words of Wikipedia, rare ones as <unk>", ("gpt2",)
        ),
        "wikitext-103-raw": Entry(
            "laser_fl.data.wikitext:load_wikitext_103_raw", "103 million words of Wikipedia, raw: every one", ("gpt2",)
        ),
        "pydoc": Entry("laser_fl.data.wikitext:load_pydoc", "Python's own documentation, embedded", ("gpt2",)),
        "text": Entry("laser_fl.data.language:load_text", "your own: UTF-8 files in data-dir", ("gpt2",)),
        "images": Entry(
            "laser_fl.data.images:load_images", "your own: a folder per class in data-dir", ("cnn", "mlp", "linear")
        ),
        "table": Entry("laser_fl.data.table:load_table", "your own: CSV or Parquet in data-dir", ("mlp", "linear")),
        "huggingface": Entry(
            "laser_fl.data.huggingface:load_huggingface",
            "a data set of Hugging Face: a folder, a file or a name",
            ("cnn", "mlp", "linear"),
            extra="hub",
        ),
    },
    "task",
    takes=("data_dir", "config"),
)

MODELS = Table(
    {
        "linear": Entry("laser_fl.models.small:linear", "784 -> 10, the paper's network for MNIST"),
        "mlp": Entry("laser_fl.models.small:mlp", "784 -> 256 -> 10"),
        "cnn": Entry("laser_fl.models.small:cnn", "two convolutions, for images of any size"),
        "resnet18": Entry("laser_fl.models.resnet18:resnet18", "ResNet18 for 32 x 32 images and 10 classes"),
        "gpt2": Entry("laser_fl.models.gpt2:gpt2", "GPT-2, 12 layers, vocabulary 50304, context 512, without biases"),
    },
    "model",
    takes=(),
    libraries={name: f"laser_fl.models.libraries:{name}" for name in ("torchvision", "timm", "transformers")},
)

PARTITIONS = Table(
    {
        "iid": Entry("laser_fl.data.partition:iid", "dealt at random, equally many to each client"),
        "dirichlet": Entry("laser_fl.data.partition:dirichlet", "each label by a Dirichlet draw over clients"),
        "balanced-dirichlet": Entry(
            "laser_fl.data.partition:balanced_dirichlet",
            "equally many to each client, in label proportions by a Dirichlet draw",
            words=("non-IID", "label skew"),
        ),
        "shards": Entry("laser_fl.data.partition:shards", "sorted by label, so many pieces to each client"),
        "by-column": Entry(
            "laser_fl.data.partition:by_column",
            "whole groups of the data to each client, such as a writer's or a hospital's",
            words=("natural clients", "LEAF", "groups"),
        ),
    },
    "partition",
    takes=("labels", "config"),
)

TRACKERS = Table(
    {
        "none": Entry("laser_fl.storage.trackers.base:Tracker", "the run's folder does"),
        "tensorboard": Entry(
            "laser_fl.storage.trackers.tensorboard:TensorBoard",
            "TensorBoard, in the run's folder (extra `tensorboard`)",
            extra="tensorboard",
        ),
        "wandb": Entry(
            "laser_fl.storage.trackers.weights_and_biases:WeightsAndBiases",
            "Weights & Biases (extra `wandb`)",
            extra="wandb",
        ),
    },
    "tracker",
    base="laser_fl.storage.trackers.base:Tracker",
    made_of_options=False,  # but of a folder and a config
)

CALLBACKS = Table(
    {
        "none": Entry("laser_fl.callbacks.base:Callback", "no callback"),
        "early-stopping": Entry(
            "laser_fl.callbacks.early_stopping:EarlyStopping", "ends a run whose score no longer improves"
        ),
        "reduce-on-plateau": Entry(
            "laser_fl.callbacks.reduce_on_plateau:ReduceOnPlateau",
            "makes steps smaller where the score no longer improves",
            words=("ReduceLROnPlateau",),
        ),
        "best-weights": Entry(
            "laser_fl.callbacks.best_weights:BestWeights",
            "keeps the weights of the best evaluation",
            words=("ModelCheckpoint",),
        ),
    },
    "callbacks",
    base="laser_fl.callbacks.base:Callback",
    several=True,
)

KINDS: dict[str, Table] = {
    table.key: table
    for table in (
        TASKS,
        MODELS,
        PARTITIONS,
        SCHEMES,
        FACTOR_EXCHANGES,
        RECOVERIES,
        UPDATE_FILTERS,
        CHANNELS,
        POLICIES,
        ALLOCATIONS,
        TRACKERS,
        CALLBACKS,
    )
}  # by the key that names a part of the kind


def modules_of_outside(config: object) -> list[str]:
    """Return the modules of the parts from outside that a config chooses, for another process to import."""
    values = ((table, getattr(config, key.replace("-", "_"), "")) for key, table in KINDS.items())
    chosen = (table.outside.get(name) for table, value in values for name in table.names_in(value))
    return sorted({part.__module__ for part in chosen if part is not None} - {"__main__"})
