"""The models in float64, straight from the formulas: loops over sequences, layers, heads and sources, nothing clever.

Weights come by their state-dict names; nothing else is shared with the library. A sequence is `[T, D]`.
"""

import torch
from torch import Tensor


def rms_norm(x: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt((x * x).mean(dim=-1, keepdim=True) + eps)


def layer_norm(x: Tensor) -> Tensor:
    centered = x - x.mean(dim=-1, keepdim=True)
    return centered / torch.sqrt((centered * centered).mean(dim=-1, keepdim=True) + 1e-5)


def softmax(x: Tensor) -> Tensor:
    exponentials = torch.exp(x - x.max())
    return exponentials / exponentials.sum()


def rotary(x: Tensor, theta: float) -> Tensor:
    """RoPE on one head `[T, d]`: coordinates k and k + d/2 turn by t theta^(-2k/d)."""
    tokens, d = x.shape
    positions = torch.arange(tokens, dtype=torch.float64)
    turned = [None] * d
    for k in range(d // 2):
        angle = positions * theta ** (-2 * k / d)
        turned[k] = x[:, k] * torch.cos(angle) - x[:, k + d // 2] * torch.sin(angle)
        turned[k + d // 2] = x[:, k + d // 2] * torch.cos(angle) + x[:, k] * torch.sin(angle)
    return torch.stack(turned, dim=-1)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention of one head, all `[T, d]`."""
    d = query.shape[1]
    rows = []
    for t in range(len(query)):
        weights = softmax(key[: t + 1] @ query[t] / d**0.5)
        rows.append(weights @ value[: t + 1])
    return torch.stack(rows)


def kept_by_top_p(weights: list[float], top_p: float) -> list[bool]:
    """The largest weights up to and including the one at which their sum reaches `top_p`."""
    kept = [False] * len(weights)
    running_sum = 0.0
    for j in sorted(range(len(weights)), key=lambda j: -weights[j]):
        kept[j] = True
        running_sum += weights[j]
        if running_sum >= top_p:
            break
    return kept


def prune_top_p(weights: list[Tensor], top_p: float) -> list[Tensor]:
    """Drop what top-p does not keep; renormalize."""
    kept = kept_by_top_p([weight.item() for weight in weights], top_p)
    total = sum(weight for weight, is_kept in zip(weights, kept, strict=True) if is_kept)
    return [weight / total if is_kept else 0 * weight for weight, is_kept in zip(weights, kept, strict=True)]


class NaiveDecoder:
    """What all models share; a subclass says what happens in a layer."""

    def __init__(self, config, weights: dict[str, Tensor]):
        self.config = config
        self.weights = weights
        self.H, self.G = config.num_attention_heads, config.num_key_value_heads
        self.d = config.hidden_size // self.H
        self.eps = config.rms_norm_eps
        self.theta = config.rope_parameters["rope_theta"]

    def logits(self, input_ids: Tensor) -> Tensor:
        """`[B, T]` to `[B, T, vocab]`."""
        tied = self.config.tie_word_embeddings
        head = self.weights["model.embed_tokens.weight" if tied else "lm_head.weight"]
        return torch.stack([self.hidden_states(sequence)[-1] @ head.T for sequence in input_ids])

    def hidden_states(self, sequence: Tensor) -> list[Tensor]:
        """X_0, ..., X_{L-1} and the normalized X_L of one sequence `[T]`, each `[T, D]`."""
        X = self.run(self.weights["model.embed_tokens.weight"][sequence])
        return [*X[:-1], rms_norm(X[-1], self.eps) * self.weights["model.norm.weight"]]

    def run(self, embedded: Tensor) -> list[Tensor]:
        """X_0, ..., X_L."""
        raise NotImplementedError

    def weight(self, i: int, name: str) -> Tensor:
        return self.weights[f"model.layers.{i}.{name}"]

    def linear(self, i: int, name: str, x: Tensor) -> Tensor:
        bias = self.weights.get(f"model.layers.{i}.{name}.bias")
        product = x @ self.weight(i, f"{name}.weight").T
        return product if bias is None else product + bias

    def head(self, i: int, name: str, h: int, x: Tensor) -> Tensor:
        """Head `h` of a q, k or v projection of `x`."""
        return self.linear(i, f"self_attn.{name}", x)[:, h * self.d : (h + 1) * self.d]

    def attention(self, i: int, query_input: Tensor, K: list[Tensor], V: list[Tensor]) -> Tensor:
        """Attention and output projection; K and V `[T, d]` per key/value head, before RoPE."""
        heads = []
        for h in range(self.H):
            shared = h // (self.H // self.G)
            Q = rotary(self.head(i, "q_proj", h, query_input), self.theta)
            heads.append(attend(Q, rotary(K[shared], self.theta), V[shared]))
        return self.linear(i, "self_attn.o_proj", torch.cat(heads, dim=-1))

    def mlp(self, i: int, x: Tensor) -> Tensor:
        gate = self.linear(i, "mlp.gate_proj", x)
        return self.linear(i, "mlp.down_proj", gate * torch.sigmoid(gate) * self.linear(i, "mlp.up_proj", x))


class NaiveLime(NaiveDecoder):
    def run(self, embedded: Tensor) -> list[Tensor]:
        X = [embedded]
        self.own_keys: list[list[Tensor]] = []
        self.own_values: list[list[Tensor]] = []
        for i in range(self.config.num_hidden_layers):
            query_input = rms_norm(X[i], self.eps) * self.weight(i, "input_layernorm.weight")
            K, V = self.keys_and_values(i, X, query_input)
            x = X[i] + self.attention(i, query_input, K, V)
            mlp_input = rms_norm(x, self.eps) * self.weight(i, "post_attention_layernorm.weight")
            X.append(x + self.mlp(i, mlp_input))
        return X

    def keys_and_values(self, i: int, X: list[Tensor], query_input: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        self.own_keys.append([self.head(i, "k_proj", h, query_input) for h in range(self.G)])
        self.own_values.append([self.head(i, "v_proj", h, query_input) for h in range(self.G)])
        if i == 0 or self.config.routing == "none":
            return self.own_keys[i], self.own_values[i]
        if self.config.routing == "value_residual":
            return self.own_keys[i], [self.value_residual(i, h) for h in range(self.G)]
        if self.config.routing == "depth_attention":
            return self.own_keys[i], [self.depth_attention(i, h, query_input) for h in range(self.G)]
        if self.config.routing == "kv":
            R = self.weight(i, "self_attn.router.weight")
            return self.mixed_heads(R[: self.G], self.own_keys), self.mixed_heads(R[-self.G :], self.own_values)
        value_rows = 0 if self.config.routing_share_kv else self.G  # with weights of their own, after those for keys
        return (
            [self.head(i, "k_proj", h, self.mixed_input(i, h, X)) for h in range(self.G)],
            [self.head(i, "v_proj", h, self.mixed_input(i, value_rows + h, X)) for h in range(self.G)],
        )

    def mixed_input(self, i: int, row: int, X: list[Tensor]) -> Tensor:
        """Z of static and dynamic routing, for a key head or, where values are routed apart, a value head."""
        N = [rms_norm(X_j, self.eps) * self.weight(i, "routing_layernorm.weight") for X_j in X]
        rows = []
        for t in range(len(X[0])):
            A = self.routing_weights(i, row, N[i][t])
            rows.append(sum(A[j] * N[j][t] for j in range(i + 1)))
        return torch.stack(rows)

    def routing_weights(self, i: int, row: int, current: Tensor) -> list[Tensor]:
        if self.config.routing_share_heads:
            row = row // self.G
        temperature = self.config.routing_temperature
        if self.config.routing == "dynamic":
            P = self.weight(i, "self_attn.router.proj.weight")
            return list(softmax(torch.stack([current @ P[row * (i + 1) + j] / temperature for j in range(i + 1)])))
        A = list(softmax(self.weight(i, "self_attn.router.weight")[row] / temperature))
        return A if self.config.routing_top_p is None else prune_top_p(A, self.config.routing_top_p)

    def mixed_heads(self, R: Tensor, own: list[list[Tensor]]) -> list[Tensor]:
        """K~_h (or V~_h) for every head h."""
        return [
            sum(R[h, j * self.G + other] * own[j][other] for j in range(len(own)) for other in range(self.G))
            for h in range(self.G)
        ]

    def value_residual(self, i: int, h: int) -> Tensor:
        first, own = self.weight(i, "self_attn.router.weight")
        return first * self.own_values[0][h] + own * self.own_values[i][h]

    def depth_attention(self, i: int, h: int, query_input: Tensor) -> Tensor:
        """V~_h: `own_values` of earlier layers are replaced by what they became, which is what later ones read."""
        every, last = self.config.routing_sources["every"], self.config.routing_sources["last"]
        read = [j for j in range(i) if j % every == 0 or i - j < last]
        group = self.H // self.G
        queries = [self.head(i, "q_proj", h * group + member, query_input) for member in range(group)]
        rows = []
        for t in range(len(query_input)):
            pooled = sum(query[t] for query in queries) / group
            w = softmax(torch.stack([pooled @ self.own_keys[j][h][t] / self.d**0.5 for j in (*read, i)]))
            rows.append(sum(w[place] * self.own_values[j][h][t] for place, j in enumerate((*read, i))))
        self.own_values[i][h] = torch.stack(rows)
        return self.own_values[i][h]


class NaiveHyperConnection(NaiveDecoder):
    def run(self, embedded: Tensor) -> list[Tensor]:
        S = [embedded] * self.config.expansion_rate
        X = [embedded]
        for i in range(self.config.num_hidden_layers):
            S = self.connected(i, "attn_connection", S, lambda x, i=i: self.self_attention(i, x))
            S = self.connected(i, "mlp_connection", S, lambda x, i=i: self.mlp(i, x))
            X.append(sum(S))
        return X

    def self_attention(self, i: int, x: Tensor) -> Tensor:
        K = [self.head(i, "k_proj", h, x) for h in range(self.G)]
        V = [self.head(i, "v_proj", h, x) for h in range(self.G)]
        return self.attention(i, x, K, V)

    def connected(self, i: int, connection: str, S: list[Tensor], sublayer) -> list[Tensor]:
        n = len(S)
        alpha = [[self.alpha(i, connection, S, row, column) for column in range(n + 1)] for row in range(n)]
        beta = [self.beta(i, connection, S, row) for row in range(n)]
        M = [sum(alpha[row][column] * S[row] for row in range(n)) for column in range(n + 1)]
        output = sublayer(layer_norm(M[0]))
        return [beta[row] * output + M[1 + row] for row in range(n)]

    def alpha(self, i: int, connection: str, S: list[Tensor], row: int, column: int) -> Tensor:
        value = self.weight(i, f"{connection}.static_alpha")[row, column]
        if self.config.dynamic:
            projected = layer_norm(S[row]) @ self.weight(i, f"{connection}.dynamic_alpha")[:, column : column + 1]
            value = value + self.weight(i, f"{connection}.alpha_scale") * torch.tanh(projected)
        return value

    def beta(self, i: int, connection: str, S: list[Tensor], row: int) -> Tensor:
        value = self.weight(i, f"{connection}.static_beta")[row]
        if self.config.dynamic:
            projected = layer_norm(S[row]) @ self.weight(i, f"{connection}.dynamic_beta")[:, None]
            value = value + self.weight(i, f"{connection}.beta_scale") * torch.tanh(projected)
        return value
