"""The language model: its function, its gradients, its state, its shared parameters."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit
from torch import nn

from pcode.models import RNNLanguageModel
from pcode.models.rnn_lm import WeightNormLSTM
from pcode.optim.flat import FlatStore
from pcode.utils.errors import UserError
from tests.models.building import build, num_parameters

NUM_WORDS, WIDTH, NUM_LAYERS = 11, 5, 2
FORMS = pytest.mark.parametrize("normalized", [True, False])


def language_model(seed: int = 6, **flags: Any) -> RNNLanguageModel:
    flags = {"rnn_n_hidden": WIDTH, "rnn_n_layers": NUM_LAYERS, **flags}
    model = build("rnn_lm", (), NUM_WORDS, seed, **flags)
    assert isinstance(model, RNNLanguageModel)
    return model


def moved(model: RNNLanguageModel) -> RNNLanguageModel:
    """The same with other values everywhere, so that no two parts agree by their beginning."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def words(batch: int = 3, time: int = 4) -> torch.Tensor:
    return torch.randint(NUM_WORDS, (batch, time), generator=torch.Generator().manual_seed(2))


def by_hand(model: RNNLanguageModel, tokens: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Logits in float64, from the equations of Hochreiter and Schmidhuber with a forget gate."""
    values = {name: v.double().numpy() for name, v in model.state_dict().items()}

    inputs = values["embedding.weight"][tokens]
    for layer in range(NUM_LAYERS):
        hidden_weight = values[f"lstm.weight_hh_l{layer}"]
        if f"lstm.scales.{layer}" in values:
            norms = np.sqrt((hidden_weight**2).sum(axis=1))
            hidden_weight = hidden_weight * (values[f"lstm.scales.{layer}"] / norms)[:, None]
        hidden = cell = np.zeros((len(tokens), WIDTH))
        outputs = []
        for time in range(tokens.shape[1]):
            gates = inputs[:, time] @ values[f"lstm.weight_ih_l{layer}"].T
            gates = gates + values[f"lstm.bias_ih_l{layer}"] + values[f"lstm.bias_hh_l{layer}"]
            gates = gates + hidden @ hidden_weight.T
            entry, forget, new, exit_ = np.split(gates, 4, axis=1)
            cell = expit(forget) * cell + expit(entry) * np.tanh(new)
            hidden = expit(exit_) * np.tanh(cell)
            outputs.append(hidden)
        inputs = np.stack(outputs, axis=1)
    logits: np.ndarray[Any, Any] = inputs @ values["decoder.weight"].T + values["decoder.bias"]
    return logits


@FORMS
@pytest.mark.parametrize("tied", [True, False])
def test_logits(normalized: bool, tied: bool) -> None:
    model = moved(language_model(rnn_weight_norm=normalized, rnn_tie_weights=tied))
    tokens = words()
    logits, (hidden, cell) = model(tokens)
    assert logits.shape == (3, 4, NUM_WORDS)
    assert hidden.shape == cell.shape == (NUM_LAYERS, 3, WIDTH)
    np.testing.assert_allclose(logits.detach().numpy(), by_hand(model, tokens.numpy()), atol=1e-5)


@FORMS
def test_two_windows_with_the_state_between_are_one(normalized: bool) -> None:
    model = moved(language_model(rnn_weight_norm=normalized))
    tokens = words(time=7)
    whole, last = model(tokens)
    first, state = model(tokens[:, :3])
    second, state = model(tokens[:, 3:], state)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)
    torch.testing.assert_close(state, last)
    fresh, _ = model(tokens[:, 3:])
    assert not torch.allclose(fresh, second)


def test_weight_normalisation_has_the_published_gradients() -> None:
    """Against nn.LSTM with the weights w = g v / ||v||, by equation 3 of Salimans and Kingma."""
    model = moved(language_model(rnn_weight_norm=True))
    plain = language_model(rnn_weight_norm=False)
    values = model.state_dict()
    assert isinstance(model.lstm, WeightNormLSTM)
    for name, w in model.lstm.normalized_weights().items():
        values[f"lstm.{name}"] = w.detach()
    plain.load_state_dict({name: values[name] for name in plain.state_dict()})
    for each in (model, plain):
        each(words())[0].square().sum().backward()
    grads = {name: parameter.grad for name, parameter in plain.named_parameters()}
    for layer in range(NUM_LAYERS):
        grad = grads.pop(f"lstm.weight_hh_l{layer}")
        assert grad is not None
        v = model.get_parameter(f"lstm.weight_hh_l{layer}")
        g = model.get_parameter(f"lstm.scales.{layer}")
        norm = v.detach().norm(dim=1)
        g_grad = (grad * v.detach()).sum(dim=1) / norm
        v_grad = (g.detach() / norm)[:, None] * grad
        v_grad -= (g.detach() * g_grad / norm**2)[:, None] * v.detach()
        torch.testing.assert_close(g.grad, g_grad)
        torch.testing.assert_close(v.grad, v_grad)
    for name, expected in grads.items():
        torch.testing.assert_close(model.get_parameter(name).grad, expected)


@FORMS
@pytest.mark.parametrize("tied", [True, False])
def test_it_trains_in_a_flat_store(normalized: bool, tied: bool) -> None:
    """The function follows the flat vector, step after step; every parameter gets a gradient."""
    flags = {"rnn_weight_norm": normalized, "rnn_tie_weights": tied}
    model, twin = moved(language_model(**flags)), moved(language_model(**flags))
    store = FlatStore([{"params": list(model.parameters())}])
    assert len(store.x) == num_parameters(model)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    tokens, losses = words(), []
    for _ in range(3):
        store.g.zero_()
        for each in (model, twin):
            each.zero_grad(set_to_none=each is twin)
            loss = nn.functional.cross_entropy(each(tokens)[0].flatten(0, 1), tokens.flatten())
            loss.backward()
        losses.append(loss.item())
        layout = store.layout
        for parameter, x, g in zip(
            model.parameters(), layout.views(store.x), layout.views(store.g), strict=True
        ):
            assert parameter.data_ptr() == x.data_ptr()
            assert g.any()
        store.x.sub_(store.g, alpha=0.1)
        optimizer.step()
    assert losses[2] < losses[0]
    np.testing.assert_allclose(
        model(tokens)[0].detach().numpy(), by_hand(model, tokens.numpy()), atol=1e-5
    )
    for own, expected in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own, expected)


def test_tied_weights_are_one_parameter() -> None:
    model = language_model(rnn_tie_weights=True)
    names = [name for name, _ in model.named_parameters()]
    assert "embedding.weight" in names
    assert "decoder.weight" not in names
    FlatStore([{"params": list(model.parameters())}])
    for each in (model, copy.deepcopy(model)):
        with torch.no_grad():
            each.embedding.weight.fill_(0.5)
        assert (each.decoder.weight == 0.5).all()


@FORMS
@pytest.mark.parametrize("tied", [True, False])
def test_copies_and_kept_states(normalized: bool, tied: bool) -> None:
    flags = {"rnn_weight_norm": normalized, "rnn_tie_weights": tied}
    model, tokens = moved(language_model(**flags)), words()
    model(tokens)[0].sum().backward()
    copied = copy.deepcopy(model)
    loaded = language_model(seed=7, **flags)
    loaded.load_state_dict(model.state_dict())
    for other in (copied, loaded):
        assert torch.equal(other(tokens)[0], model(tokens)[0])
        assert [n for n, _ in other.named_parameters()] == [n for n, _ in model.named_parameters()]
    with torch.no_grad():
        for parameter in copied.decoder.parameters():
            parameter.zero_()
    assert (copied(tokens)[0] == 0).all()
    assert torch.equal(loaded(tokens)[0], model(tokens)[0])


def test_the_seed_alone_decides_the_initial_values() -> None:
    torch.manual_seed(1)
    first, other = language_model(seed=6), language_model(seed=7)
    again = language_model(seed=6)
    assert all(map(torch.equal, first.parameters(), again.parameters()))
    assert not torch.equal(first.embedding.weight, other.embedding.weight)


@FORMS
def test_dropout_lies_on_embeddings_between_layers_and_on_outputs(normalized: bool) -> None:
    model = language_model(rnn_n_hidden=64, drop_rate=0.4, rnn_weight_norm=normalized)
    seen: list[torch.Tensor] = []
    for module in (model.lstm, model.decoder):
        module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    tokens = words(8, 16)
    torch.manual_seed(1)
    first = model(tokens)[0]
    for tensor in seen:
        assert (tensor == 0).float().mean().item() == pytest.approx(0.4, abs=0.05)
    assert model.lstm.dropout == 0.4
    assert len(seen) == 2
    assert not torch.equal(model(tokens)[0], first)
    torch.manual_seed(1)
    assert torch.equal(model(tokens)[0], first)
    model.eval()
    assert torch.equal(model(tokens)[0], model(tokens)[0])
    torch.testing.assert_close(seen[-2], model.embedding(tokens))


def test_one_layer_has_nothing_between(recwarn: pytest.WarningsRecorder) -> None:
    language_model(rnn_n_layers=1, drop_rate=0.4)
    assert not recwarn.list


@pytest.mark.parametrize("tied", [True, False])
def test_pretrained_embeddings(tied: bool) -> None:
    model = language_model(rnn_tie_weights=tied)
    FlatStore([{"params": list(model.parameters())}])
    before = model.embedding.weight.detach().clone()
    decoder = model.decoder.weight.detach().clone()
    known = torch.arange(NUM_WORDS) % 3 == 0
    rows = torch.full((NUM_WORDS, WIDTH), torch.nan, dtype=torch.float64)
    rows[known] = torch.rand(int(known.sum()), WIDTH, dtype=torch.float64)
    model.set_embeddings(rows, known)
    assert torch.equal(model.embedding.weight[known], rows[known].float())
    assert torch.equal(model.embedding.weight[~known], before[~known])
    expected = model.embedding.weight if tied else decoder
    assert torch.equal(model.decoder.weight, expected)
    assert model.embedding.weight.requires_grad


@pytest.mark.parametrize(
    ("rows", "kind", "message"),
    [
        ((NUM_WORDS, 300), UserError, "^--rnn_n_hidden 5: the embeddings have 300 numbers$"),
        ((4, WIDTH), ValueError, "^embeddings of 4 words for a vocabulary of 11$"),
    ],
)
def test_pretrained_embeddings_that_do_not_fit(
    rows: tuple[int, int], kind: type[ValueError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        language_model().set_embeddings(torch.zeros(rows), torch.ones(rows[0], dtype=torch.bool))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"rnn_n_hidden": 0}, "--rnn_n_hidden 0: must be at least 1"),
        ({"rnn_n_layers": -1}, "--rnn_n_layers -1: must be at least 1"),
        ({"drop_rate": 1.0}, "--drop_rate 1.0: must be below 1"),
    ],
)
def test_flags_out_of_range_are_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        language_model(**flags)
