"""The largest memory of a GPU that PyTorch's tensors of this process have taken."""

import torch

MEGABYTE = 1e6


def forget_peak(device: torch.device) -> None:
    """Begin anew with the peak of a GPU; of a CPU there is none."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_megabytes(device: torch.device) -> float | None:
    """Return the peak of a GPU since `forget_peak`, in MB; None for a CPU."""
    if device.type != "cuda":
        return None
    return round(torch.cuda.max_memory_allocated(device) / MEGABYTE, 1)
