"""Slow, obviously right twins of the schemes: the paper's formulas in float64 with loops.

The module imports nothing of the package. Everything random is an argument: gradients[round][client][block] (matrices
and vectors), unit-variance noise[round][phase][signal] in the order of the signals, first bases, indices, projections.
A scheme's signals have keys (block, part).
"""

import math

import numpy as np


def norm(x):
    total = 0.0
    for value in np.ravel(x):
        total += float(value) ** 2
    return total**0.5


def orthonormal(matrix):
    """Orthonormalize the columns by Gram-Schmidt, one by one."""
    columns = []
    for j in range(matrix.shape[1]):
        v = matrix[:, j].copy()
        for q in columns:
            v = v - (q @ v) * q
        columns.append(v / norm(v))
    return np.stack(columns, axis=1)


def shares(allocation, signal_norms, gradient_norms, sizes):
    """Split the power over the blocks. Norms are [client][block]; returns a share per block."""
    clients, blocks = len(signal_norms), len(sizes)
    if allocation == "min-mse":
        c = [max(signal_norms[i][b] for i in range(clients)) for b in range(blocks)]
        proposals = [[c[b] * sizes[b] ** 0.5 for b in range(blocks)]]
    else:
        weigh = {
            "signal-norm": lambda i, b: signal_norms[i][b],
            "uniform": lambda i, b: 1.0,
            "gradient-norm": lambda i, b: gradient_norms[i][b],
            "gradient-norm-squared": lambda i, b: gradient_norms[i][b] ** 2,
        }[allocation]
        proposals = [[weigh(i, b) for b in range(blocks)] for i in range(clients)]
    result = [0.0] * blocks
    for weights in proposals:
        total = sum(weights)
        for b in range(blocks):
            share = weights[b] / total if total > 0 else 1 / blocks
            result[b] += share / len(proposals)
    return result


def transmit(signals, power, sigma, noise, averaged, channel_state):
    """Send one signal: signals[transmitter] -> (estimate of the mean over `averaged`, its noise's standard deviation).

    channel_state[transmitter] = (precoding: factor of its signal, gain: part of that received in phase).
    """
    c = max(precoding * norm(s) for s, (precoding, _) in zip(signals, channel_state, strict=True))
    if c == 0 or power == 0:
        return np.zeros_like(signals[0]), 0.0
    a = np.sqrt(power) / c
    y = sigma * noise
    for s, (precoding, gain) in zip(signals, channel_state, strict=True):
        x = a * precoding * s
        assert norm(x) ** 2 <= power * (1 + 1e-9)
        y = y + gain * x
    return y / (averaged * a), sigma / (averaged * a)


IDEAL = (1.0, 1.0)


def simulate(scheme, gradients, noise, power, sigma, allocation, channel_states=None, noise_scales=None, sizes=None):
    """Simulate all rounds.

    Args:
        scheme: a twin of this module; its state changes.
        gradients: [round][client][block].
        noise: [round][phase][signal], of variance 1.
        power: budget per round.
        sigma: expected standard deviation of the noise.
        allocation: name of the split of the power over the blocks.
        channel_states: [round][client], a pair as in `transmit`, whose precoding is 0 for a client in outage; None for
            one that does not participate. Without them, all transmit over an ideal channel.
        noise_scales: [round], factors of sigma; without them 1.
        sizes: [client], numbers of examples that weigh the mean; without them all clients weigh the same.

    Returns:
        (updates[round][block], or None for a round in which nobody transmitted; memory[client][block]).
    """
    clients, blocks = len(gradients[0]), len(gradients[0][0])
    memory = [[np.zeros_like(g) for g in gradients[0][i]] for i in range(clients)]
    updates = []
    for t in range(len(gradients)):
        states = channel_states[t] if channel_states else [IDEAL] * clients
        nu = noise_scales[t] if noise_scales else 1.0
        participants = [i for i in range(clients) if states[i] is not None]
        transmitters = [i for i in participants if states[i][0] > 0]
        over = participants if scheme.error_feedback else transmitters
        averaged = len(over)
        weight = [sizes[i] * averaged / sum(sizes[j] for j in over) if sizes else 1.0 for i in transmitters]
        corrected = {i: [memory[i][b] + gradients[t][i][b] for b in range(blocks)] for i in participants}
        approximations = {i: [0.0] * blocks for i in participants}
        update = None
        for phase, phase_share in enumerate(scheme.phase_shares if transmitters else ()):
            signals, sending = [], []
            for w, i in zip(weight, transmitters, strict=True):
                made, approximated = scheme.encode(t, phase, corrected[i])
                signals.append({key: w * s for key, s in made.items()})
                sending.append([w * m for m in corrected[i]])
                for b, part in approximated.items():
                    approximations[i][b] = part
            links = [states[i] for i in transmitters]
            budget, sigmas = power * phase_share, (sigma, nu)
            if scheme.digital:
                received = {key: (sum(s[key] for s in signals) / averaged, 0.0) for key in signals[0]}
            else:
                received = receive(
                    scheme, signals, sending, noise[t][phase], budget, sigmas, allocation, averaged, links
                )
            update = scheme.decode(t, phase, received)
        updates.append(update)
        for i in participants:
            for b in range(blocks):
                if scheme.error_feedback:
                    memory[i][b] = corrected[i][b] - approximations[i][b]
    return updates, memory


def receive(scheme, signals, corrected, noise, power, sigmas, allocation, averaged, channel_state):
    """Send the signals of one phase: signals[transmitter][key] -> {key: (estimate, noise std)}.

    Args:
        scheme: a twin of this module.
        signals: [transmitter][key].
        corrected: gradients, [transmitter][block].
        noise: [signal], of variance 1.
        power: budget of the phase.
        sigmas: the expected standard deviation of the noise, and its factor.
        allocation: name of the split of the power over the blocks.
        averaged: number of clients by which the sum is divided.
        channel_state: [transmitter], pairs as in `transmit`.
    """
    sigma, nu = sigmas
    clients, keys = len(signals), list(signals[0])
    blocks = sorted({b for b, _ in keys})
    parts = {b: [key for key in keys if key[0] == b] for b in blocks}
    sizes = [sum(signals[0][key].size for key in parts[b]) for b in blocks]
    counted = {b: scheme.counted(parts[b]) for b in blocks}
    signal_norms = [[sum(norm(signals[i][k]) ** 2 for k in counted[b]) ** 0.5 for b in blocks] for i in range(clients)]
    gradient_norms = [[norm(corrected[i][b]) for b in blocks] for i in range(clients)]
    share = shares(allocation, signal_norms, gradient_norms, sizes)
    received, used = {}, 0.0
    for b, block in enumerate(blocks):
        split = [1.0]
        if len(parts[block]) > 1:
            norms = [[norm(signals[i][key]) for key in parts[block]] for i in range(clients)]
            split = scheme.split(block, norms, power * share[b], sigma, averaged)
        for part, key in zip(split, parts[block], strict=True):
            transmitted = power * share[b] * part
            used += transmitted
            same = [s[key] for s in signals]
            received[key] = transmit(same, transmitted, sigma * nu, noise[keys.index(key)], averaged, channel_state)
    assert used <= power * (1 + 1e-9)
    return received


class Plain:
    """The twin of Z-SGD: signal = gradient."""

    phase_shares, error_feedback, digital = (1.0,), False, False

    def counted(self, keys):
        """Return the signals whose norms count for their block in the allocation."""
        return keys

    def encode(self, t, phase, m):
        return {(b, ""): g for b, g in enumerate(m)}, dict(enumerate(m))

    def decode(self, t, phase, received):
        return [received[key][0] for key in sorted(received)]


class Signs(Plain):
    """The twin of Signum."""

    def encode(self, t, phase, m):
        return super().encode(t, phase, [np.where(g > 0, 1.0, np.where(g < 0, -1.0, 0.0)) for g in m])

    def decode(self, t, phase, received):
        return [np.where(u > 0, 1.0, np.where(u < 0, -1.0, 0.0)) for u in super().decode(t, phase, received)]


class Chosen(Plain):
    """The twin of Random-K: indices[round][block]."""

    error_feedback = True

    def __init__(self, indices, shapes):
        self.indices, self.shapes = indices, shapes

    def encode(self, t, phase, m):
        signals, approximations = {}, {}
        for b, g in enumerate(m):
            flat, zeros = np.ravel(g), np.zeros(g.size)
            signals[b, ""] = np.array([flat[j] for j in self.indices[t][b]])
            for j in self.indices[t][b]:
                zeros[j] = flat[j]
            approximations[b] = zeros.reshape(g.shape)
        return signals, approximations

    def decode(self, t, phase, received):
        update = []
        for b, shape in enumerate(self.shapes):
            u = np.zeros(int(np.prod(shape)))
            for place, j in enumerate(self.indices[t][b]):
                u[j] = received[b, ""][0][place]
            update.append(u.reshape(shape))
        return update


class Buckets(Plain):
    """The twin of the count-mean sketch: hashes[round][block] = (bucket and sign per value, number of buckets)."""

    def __init__(self, hashes, shapes):
        self.hashes, self.shapes = hashes, shapes

    def encode(self, t, phase, m):
        signals = {}
        for b, g in enumerate(m):
            buckets, signs, count = self.hashes[t][b]
            sums = np.zeros(count)
            for j, value in enumerate(np.ravel(g)):
                sums[buckets[j]] += signs[j] * value
            signals[b, ""] = sums
        return signals, {}

    def decode(self, t, phase, received):
        update = []
        for b, shape in enumerate(self.shapes):
            buckets, signs, _ = self.hashes[t][b]
            values = [received[b, ""][0][buckets[j]] * signs[j] for j in range(len(buckets))]
            update.append(np.array(values).reshape(shape))
        return update


class Projected(Plain):
    """The twin of A-DSGD: matrices[block] = A (s x d), None for an uncompressed block; recover: (y, std, A) -> mean."""

    error_feedback = True

    def __init__(self, matrices, shapes, recover):
        self.matrices, self.shapes, self.recover = matrices, shapes, recover

    def encode(self, t, phase, m):
        signals, approximations = {}, {}
        for b, g in enumerate(m):
            if self.matrices[b] is None:
                signals[b, ""] = approximations[b] = g
                continue
            flat, sparse = np.ravel(g), np.zeros(g.size)
            for j in sorted(range(g.size), key=lambda j: -abs(flat[j]))[: len(self.matrices[b]) // 2]:
                sparse[j] = flat[j]
            signals[b, ""] = self.matrices[b] @ sparse
            approximations[b] = sparse.reshape(g.shape)
        return signals, approximations

    def decode(self, t, phase, received):
        update = []
        for b, shape in enumerate(self.shapes):
            y, noise_std = received[b, ""]
            u = y if self.matrices[b] is None else self.recover(y, noise_std, self.matrices[b])
            update.append(np.reshape(u, shape))
        return update


def lmmse(y, noise_std, a):
    """Return Aᵀ (A Aᵀ + τ² I)⁻¹ y, by solving the system."""
    return a.T @ np.linalg.solve(a @ a.T + noise_std**2 * np.eye(len(a)), y)


def amp(y, noise_std, a, iterations=50, patience=5, improvement=1e-3):
    """Recover by soft-threshold message passing at twice the residual's level."""
    s, d = a.shape
    x, z = np.zeros(d), y
    level = least = norm(y) / s**0.5
    waited = 0
    for _ in range(iterations):
        r = x + a.T @ z
        x = np.array([np.sign(v) * max(abs(v) - 2 * level, 0) for v in r])
        z = y - a @ x + z * np.count_nonzero(x) / s
        level = norm(z) / s**0.5
        waited = 0 if level < least * (1 - improvement) else waited + 1
        least = min(least, level)
        if level <= noise_std or waited == patience:
            break
    return x


class Digital(Plain):
    """The twin of D-DSGD on links that carry `bits`."""

    error_feedback, digital = True, True

    def __init__(self, bits, shapes):
        self.shapes = shapes
        self.size = sum(int(np.prod(shape)) for shape in shapes)
        self.count = 0
        while self.count + 1 <= self.size // 2 and math.log2(math.comb(self.size, self.count + 1)) + 33 <= bits:
            self.count += 1

    def encode(self, t, phase, m):
        flat = np.concatenate([np.ravel(g) for g in m])
        order = sorted(range(self.size), key=lambda j: flat[j])
        high = [j for j in order[-self.count :] if flat[j] > 0]
        low = [j for j in order[: self.count] if flat[j] < 0]
        mean_high = sum(flat[j] for j in high) / max(1, len(high))
        mean_low = sum(flat[j] for j in low) / max(1, len(low))
        sent = np.zeros(self.size)
        for j in high if mean_high > -mean_low else low:
            sent[j] = mean_high if mean_high > -mean_low else mean_low
        signals, start = {}, 0
        for b, shape in enumerate(self.shapes):
            signals[b, ""] = sent[start : start + int(np.prod(shape))].reshape(shape)
            start += int(np.prod(shape))
        return signals, {b: signals[b, ""] for b in range(len(self.shapes))}


class Alternating(Plain):
    """The twin of LASER, one factor a round. bases[block]: orthonormal, None for an uncompressed block."""

    error_feedback = True

    def __init__(self, bases):
        self.bases = list(bases)
        self.turn = 0

    def encode(self, t, phase, m):
        signals, approximations = {}, {}
        for b, g in enumerate(m):
            if self.bases[b] is None:
                signals[b, ""] = approximations[b] = g
            elif self.turn == 0:
                signals[b, ""] = g.T @ self.bases[b]
                approximations[b] = self.bases[b] @ signals[b, ""].T
            else:
                signals[b, ""] = g @ self.bases[b]
                approximations[b] = signals[b, ""] @ self.bases[b].T
        return signals, approximations

    def decode(self, t, phase, received):
        update = []
        for b, basis in enumerate(self.bases):
            u = received[b, ""][0]
            if basis is not None:
                self.bases[b] = orthonormal(u)
                u = basis @ u.T if self.turn == 0 else u @ basis.T
            update.append(u)
        self.turn = 1 - self.turn
        return update


class Adaptive(Plain):
    """The twin of laser-adaptive. bases[block]: (short, core, long), None if uncompressed; places[round][block]."""

    error_feedback = True

    def __init__(self, bases, places, shapes):
        self.bases, self.places, self.shapes, self.now = list(bases), places, shapes, 0

    def turned(self, b, matrix):
        return matrix if self.shapes[b][0] <= self.shapes[b][1] else matrix.T

    def encode(self, t, phase, m):
        signals, approximations, self.now = {}, {}, t
        for b, g in enumerate(m):
            if self.bases[b] is None:
                signals[b, ""] = approximations[b] = g
                continue
            long, wide = self.bases[b][2], self.turned(b, g)
            signals[b, "factor"] = wide @ long
            approximation = signals[b, "factor"] @ long.T
            signals[b, "columns"] = np.stack([(wide - approximation)[:, j] for j in self.places[t][b]], axis=1)
            for j in self.places[t][b]:
                approximation[:, j] = wide[:, j]
            approximations[b] = self.turned(b, approximation)
        return signals, approximations

    def split(self, block, norms, power, sigma, averaged):
        short, rank = self.bases[block][0].shape
        sizes = [short * rank, short * len(self.places[self.now][block])]
        weights = [max(row[part] for row in norms) * sizes[part] ** 0.5 for part in range(2)]
        return [w / sum(weights) for w in weights]

    def decode(self, t, phase, received):
        update = []
        for b, known in enumerate(self.bases):
            if known is None:
                update.append(received[b, ""][0])
                continue
            short, core, long = known
            u = received[b, "factor"][0] @ long.T
            for place, j in enumerate(self.places[t][b]):
                u[:, j] += received[b, "columns"][0][:, place]
            fading = 1 - 0.5 * len(self.places[t][b]) / len(long)
            recent = fading * short @ core @ long.T + u
            short = orthonormal(recent @ long)
            spread = recent.T @ short
            long = orthonormal(spread)
            self.bases[b] = short, spread.T @ long, long
            update.append(self.turned(b, u))
        return update


class TwoPhase(Plain):
    """The twin of LASER, both factors one after the other. bases[block]: of rows, None where uncompressed."""

    error_feedback = True

    def __init__(self, bases, split):
        self.rows, self.columns = list(bases), [None] * len(bases)
        self.phase_shares = (split, 1 - split)

    def encode(self, t, phase, m):
        signals, approximations = {}, {}
        for b, g in enumerate(m):
            if self.rows[b] is None:
                if phase == 1:
                    signals[b, ""] = approximations[b] = g
            elif phase == 0:
                signals[b, ""] = g @ self.rows[b]
            else:
                signals[b, ""] = g.T @ self.columns[b]
                approximations[b] = self.columns[b] @ signals[b, ""].T
        return signals, approximations

    def decode(self, t, phase, received):
        if phase == 0:
            for b, _ in received:
                self.columns[b] = orthonormal(received[b, ""][0])
            return None
        update = []
        for b, basis in enumerate(self.columns):
            u = received[b, ""][0]
            if basis is not None:
                self.rows[b] = orthonormal(u)
                u = basis @ u.T
            update.append(u)
        return update


class OneShot(Plain):
    """The twin of LASER, Algorithm 1 to the letter. bases[block]: of the longer side, None where uncompressed."""

    error_feedback = True

    def __init__(self, bases, shapes):
        self.bases, self.shapes = list(bases), shapes

    def encode(self, t, phase, m):
        signals, approximations = {}, {}
        for b, g in enumerate(m):
            if self.bases[b] is None:
                signals[b, ""] = approximations[b] = g
                continue
            wide = g if g.shape[0] <= g.shape[1] else g.T
            p = orthonormal(wide @ self.bases[b])
            q = wide.T @ p
            for i in range(p.shape[1]):
                signals[b, f"p{i}"] = p[:, i]
            for i in range(p.shape[1]):
                signals[b, f"q{i}"] = q[:, i]
            approximations[b] = p @ q.T if g.shape[0] <= g.shape[1] else (p @ q.T).T
        return signals, approximations

    def decode(self, t, phase, received):
        update = []
        for b, basis in enumerate(self.bases):
            if basis is None:
                update.append(received[b, ""][0])
                continue
            p = np.stack([received[b, f"p{i}"][0] for i in range(basis.shape[1])], axis=1)
            q = np.stack([received[b, f"q{i}"][0] for i in range(basis.shape[1])], axis=1)
            self.bases[b] = orthonormal(q)
            rows, columns = self.shapes[b]
            update.append(p @ q.T if rows <= columns else (p @ q.T).T)
        return update

    def counted(self, keys):
        """Leave out the columns of P, which have norm 1 in any unit."""
        return [key for key in keys if not key[1].startswith("p")]

    def split(self, block, norms, power, sigma, clients):
        """Split the power by Lemma 8 as printed, at power P_l k²/σ²."""
        m, n = sorted(self.shapes[block])
        rank = len(norms[0]) // 2
        kappa = [sum(row[i] ** 2 * row[rank + i] ** 2 for row in norms) for i in range(rank)]
        total = power * clients**2 / sigma**2
        alphas, betas = [], []
        for i in range(rank):
            p = total * kappa[i] ** 0.5 / sum(k**0.5 for k in kappa)
            if m == n:
                alpha = p / 2
            else:
                left, right = (1 + p / n) ** 0.5, (1 + p / m) ** 0.5
                alpha = left * (right - left) / (1 / m - 1 / n)
            alphas.append(alpha)
            betas.append(p - alpha)
        return [value / total for value in alphas + betas]
