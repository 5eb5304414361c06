"""Slow, obviously right: the paper's formulas in float64 with loops. Imports nothing of the package.

Gradients, initial bases and unit-variance noise are given; a list of updates per round comes out.
Matrices are nested as gradients[round][client][block].
"""

import numpy as np

SMALLEST = 1e-6


def orthonormal(matrix):
    """Gram-Schmidt, column by column."""
    columns = []
    for j in range(matrix.shape[1]):
        v = matrix[:, j].copy()
        for q in columns:
            v = v - (q @ v) * q
        columns.append(v / np.sqrt(np.sum(v * v)))
    return np.stack(columns, axis=1)


def norm(x):
    total = 0.0
    for value in np.ravel(x):
        total += float(value) ** 2
    return total**0.5


def shares(allocation, signals, corrected):
    """signals[client][block], corrected[client][block] -> share per block."""
    clients, blocks = len(signals), len(signals[0])
    if allocation == "min-mse":
        c = [max(norm(signals[i][b]) for i in range(clients)) for b in range(blocks)]
        weights = [c[b] * signals[0][b].size ** 0.5 for b in range(blocks)]
        proposals = [weights]
    else:
        weigh = {
            "signal-norm": lambda i, b: norm(signals[i][b]),
            "uniform": lambda i, b: 1.0,
            "gradient-norm": lambda i, b: norm(corrected[i][b]),
            "gradient-norm-squared": lambda i, b: norm(corrected[i][b]) ** 2,
        }[allocation]
        proposals = [[weigh(i, b) for b in range(blocks)] for i in range(clients)]
    result = [0.0] * blocks
    for weights in proposals:
        total = sum(weights)
        for b in range(blocks):
            share = weights[b] / total if total > 0 else 1 / blocks
            result[b] += share / len(proposals)
    return result


def over_the_air(signals, share, power, sigma, noise):
    """One transmission: signals[client][block], noise[block] -> the server's estimates."""
    clients, heard = len(signals), []
    for b in range(len(share)):
        c = max(norm(signals[i][b]) for i in range(clients))
        if c == 0:
            heard.append(np.zeros_like(signals[0][b]))
            continue
        a = np.sqrt(power * share[b]) / c
        y = sigma * noise[b]
        for i in range(clients):
            assert norm(a * signals[i][b]) ** 2 <= power * share[b] * (1 + 1e-9)
            y = y + a * signals[i][b]
        heard.append(y / (clients * a))
    return heard


def z_sgd(gradients, noise, power, sigma, allocation):
    updates = []
    for t in range(len(gradients)):
        share = shares(allocation, gradients[t], gradients[t])
        updates.append(over_the_air(gradients[t], share, power, sigma, noise[t]))
    return updates


def laser(gradients, bases, noise, power, sigma, allocation):
    """bases[block]: the first orthonormal basis of a compressed matrix, None where uncompressed.

    Returns (updates per round, memories[client][block] at the end).
    """
    clients, blocks = len(gradients[0]), len(gradients[0][0])
    memory = [[np.zeros_like(gradients[0][i][b]) for b in range(blocks)] for i in range(clients)]
    bases = list(bases)
    updates = []
    for t in range(len(gradients)):
        even = t % 2 == 0
        corrected = [[memory[i][b] + gradients[t][i][b] for b in range(blocks)] for i in range(clients)]
        signals = []
        for i in range(clients):
            row = []
            for b in range(blocks):
                m = corrected[i][b]
                if bases[b] is None:
                    row.append(m)
                    memory[i][b] = np.zeros_like(m)
                elif even:
                    q = m.T @ bases[b]
                    row.append(q)
                    memory[i][b] = m - bases[b] @ q.T
                else:
                    p = m @ bases[b]
                    row.append(p)
                    memory[i][b] = m - p @ bases[b].T
            signals.append(row)
        share = shares(allocation, signals, corrected)
        heard = over_the_air(signals, share, power, sigma, noise[t])
        update = []
        for b in range(blocks):
            if bases[b] is None:
                update.append(heard[b])
                continue
            update.append(bases[b] @ heard[b].T if even else heard[b] @ bases[b].T)
            bases[b] = orthonormal(heard[b])
        updates.append(update)
    return updates, memory
