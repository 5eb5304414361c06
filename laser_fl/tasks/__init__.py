"""What is learned: data, models, loss and metric; one file per task."""

from laser_fl.tables import Entry, Table

TASKS = Table(
    {
        "mnist-5k": Entry("laser_fl.tasks.mnist_5k:load", "5,000 handwritten digits, embedded", ("linear", "mlp")),
        "mnist": Entry("laser_fl.tasks.mnist:load", "70,000 handwritten digits", ("linear", "mlp")),
        "fashion-mnist": Entry("laser_fl.tasks.fashion_mnist:load", "70,000 pieces of clothing", ("linear", "mlp")),
        "cifar10": Entry("laser_fl.tasks.cifar:load_10", "60,000 colour images, 10 classes", ("resnet18",)),
        "cifar100": Entry("laser_fl.tasks.cifar:load_100", "60,000 colour images, 100 classes", ("resnet18",)),
        "wikitext-2": Entry(
            "laser_fl.tasks.text:load_wikitext_2", "2 million words of Wikipedia, rare ones as <unk>", ("gpt2",)
        ),
        "wikitext-2-raw": Entry(
            "laser_fl.tasks.text:load_wikitext_2_raw", "2 million words of Wikipedia, raw: every one", ("gpt2",)
        ),
        "wikitext-103": Entry(
            "laser_fl.tasks.text:load_wikitext_103", "103 million words of Wikipedia, rare ones as <unk>", ("gpt2",)
        ),
        "wikitext-103-raw": Entry(
            "laser_fl.tasks.text:load_wikitext_103_raw", "103 million words of Wikipedia, raw: every one", ("gpt2",)
        ),
        "pydoc": Entry("laser_fl.tasks.text:load_pydoc", "Python's own documentation, embedded", ("gpt2",)),
    }
)
