"""Where a run is logged besides its own folder; one file per tracker."""

from laser_fl.tables import Entry, Table

TRACKERS = Table(
    {
        "none": Entry("laser_fl.trackers.base:Tracker", "the run's folder does"),
        "tensorboard": Entry("laser_fl.trackers.tensorboard:TensorBoard", "TensorBoard, in the run's folder"),
        "wandb": Entry("laser_fl.trackers.weights_and_biases:WeightsAndBiases", "Weights & Biases (extra `wandb`)"),
    }
)
