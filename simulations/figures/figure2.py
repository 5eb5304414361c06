"""Figure 2 and Table 6: every method on CIFAR-10 over power, and the power that LASER saves."""

from simulations.figures import cifar
from simulations.figures.claims import BELOW_THE_HIGHEST

FIGURE2 = cifar.figure(
    "Figure 2 and Table 6: CIFAR-10",
    "cifar10",
    powers=[250.0 * 2**i for i in range(10)],
    paper={88.0: (250.0, 4000.0), 89.0: (500.0, 8000.0), 90.0: (1000.0, 16000.0), 91.0: (2000.0, 32000.0)},
    noiseless=93.0,
    claims=(BELOW_THE_HIGHEST,),
    targets=(25.0, 30.0, 35.0),
    times=(
        "about 345 GPU hours (492 runs of 42 minutes), estimated for an H100",
        "41 minutes on 2 cores, beside other work",
    ),
)
