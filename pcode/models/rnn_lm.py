"""A recurrent language model."""

from typing import Annotated, Any

import torch
from torch import nn
from torch.func import functional_call

from pcode.models.base import DropRate, UnfitInputsError
from pcode.utils.errors import UserError
from pcode.utils.options import Option

State = tuple[torch.Tensor, torch.Tensor]

EMBEDDING_RANGE = 0.1


class Scales(nn.ParameterList):
    """The scales g of weight normalisation."""


class WeightNormLSTM(nn.LSTM):
    """nn.LSTM whose hidden-to-hidden weights are g v / ||v||, row by row.

    v is what nn.LSTM calls weight_hh_l0, weight_hh_l1, ...; g, one number for each row, is
    `scales`, at first ||v||: the function is then that of nn.LSTM.

    Source: Salimans, Kingma, "Weight normalization", arXiv 1602.07868, equation 2. Differs in the
    initial g, which does not depend on data.
    """

    def __init__(self, *sizes: int, **options: Any) -> None:
        super().__init__(*sizes, **options)
        self.scales = Scales(
            torch.linalg.vector_norm(v.detach(), dim=1) for v in self._directions().values()
        )

    def _directions(self) -> dict[str, torch.Tensor]:
        names = (f"weight_hh_l{layer}" for layer in range(self.num_layers))
        return {name: self.get_parameter(name) for name in names}

    def normalized_weights(self) -> dict[str, torch.Tensor]:
        """Return the hidden-to-hidden weights g v / ||v||, by their names in nn.LSTM."""
        return {
            name: v * (g / torch.linalg.vector_norm(v, dim=1)).unsqueeze(1)
            for (name, v), g in zip(self._directions().items(), self.scales, strict=True)
        }


class RNNLanguageModel(nn.Module):
    """Embedding, LSTM layers, linear: the logits of the next word at each place.

    Embeddings and LSTM layers have the same width. Dropout lies on the embeddings, between the
    layers and on their outputs, and draws from torch's default generator. With 3 layers of 650,
    tied weights and 28,869 words it has 28.95 M parameters.

    Source: Zaremba, Sutskever, Vinyals, "Recurrent neural network regularization", arXiv
    1409.2329; tied weights: Press, Wolf, arXiv 1608.05859. Initial values are those usual in
    PyTorch: embedding and decoder U(-.1, .1), decoder bias 0, LSTM U(-1 / sqrt(width),
    1 / sqrt(width)).
    """

    task = "language"

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        *,
        rnn_n_hidden: Annotated[
            int,
            Option(
                "units of an LSTM layer, and numbers that stand for a word",
                minimum=1,
                maximum=65536,
            ),
        ] = 200,
        rnn_n_layers: Annotated[int, Option("LSTM layers", minimum=1, maximum=1000)] = 2,
        rnn_tie_weights: Annotated[
            bool, Option("one matrix for words that come in and words that go out")
        ] = True,
        rnn_weight_norm: Annotated[
            bool, Option("weight normalisation of the hidden-to-hidden matrices")
        ] = False,
        drop_rate: DropRate = 0.0,
    ) -> None:
        if input_shape:
            raise UnfitInputsError("words")
        super().__init__()
        self.dropout = nn.Dropout(drop_rate)
        self.embedding = nn.Embedding(num_classes, rnn_n_hidden)
        self.lstm = (WeightNormLSTM if rnn_weight_norm else nn.LSTM)(
            rnn_n_hidden,
            rnn_n_hidden,
            rnn_n_layers,
            batch_first=True,
            dropout=drop_rate if rnn_n_layers > 1 else 0.0,
        )
        self.decoder = nn.Linear(rnn_n_hidden, num_classes)
        nn.init.uniform_(self.embedding.weight, -EMBEDDING_RANGE, EMBEDDING_RANGE)
        nn.init.zeros_(self.decoder.bias)
        if rnn_tie_weights:
            self.decoder.weight = self.embedding.weight
        else:
            nn.init.uniform_(self.decoder.weight, -EMBEDDING_RANGE, EMBEDDING_RANGE)

    def forward(
        self, tokens: torch.Tensor, state: State | None = None
    ) -> tuple[torch.Tensor, State]:
        """Return logits (batch, time, words of the vocabulary) and the state after the last word.

        Args:
            tokens: int64, (batch, time).
            state: that after the words before, (layers, batch, width) each; None: zeros.
        """
        inputs = self.dropout(self.embedding(tokens))
        if isinstance(self.lstm, WeightNormLSTM):
            weights = self.lstm.normalized_weights()
            hidden, state = functional_call(self.lstm, weights, (inputs, state))
        else:
            hidden, state = self.lstm(inputs, state)
        logits: torch.Tensor = self.decoder(self.dropout(hidden))
        assert state is not None, "nn.LSTM gives one"
        return logits, state

    @torch.no_grad()
    def set_embeddings(self, rows: torch.Tensor, known: torch.Tensor) -> None:
        """Overwrite the embeddings of the known words; with tied weights the decoder's as well.

        The rows are (num_words, width); `known` is bool, (num_words,).
        """
        num_words, width = self.embedding.weight.shape
        if rows.shape[1] != width:
            raise UserError(f"--rnn_n_hidden {width}: the embeddings have {rows.shape[1]} numbers")
        if len(rows) != num_words or known.shape != (num_words,):
            raise ValueError(f"embeddings of {len(rows)} words for a vocabulary of {num_words}")
        self.embedding.weight[known] = rows[known].to(self.embedding.weight)
