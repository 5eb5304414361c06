"""Networks: one file per family."""

from laser_fl.tables import Entry, Table

MODELS = Table(
    {
        "linear": Entry("laser_fl.models.small:linear", "784 -> 10, the paper's network for MNIST"),
        "mlp": Entry("laser_fl.models.small:mlp", "784 -> 256 -> 10"),
        "resnet18": Entry("laser_fl.models.resnet18:resnet18", "ResNet18 for 32 x 32 images and 10 classes"),
        "gpt2": Entry("laser_fl.models.gpt2:gpt2", "GPT-2, 12 layers, vocabulary 50304, context 512, without biases"),
    }
)
