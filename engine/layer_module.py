"""A decoder's layers as an ``nn.Module``: what ``torch.export`` takes."""

from dataclasses import replace

from torch import Tensor, nn

from alorakit.engine.compiled_ops import AttendOp, LinearOp
from alorakit.engine.model import PROJECTIONS, Decoder, DecoderLayer


class LayerModule(nn.Module):
    """``Decoder.run_layers`` with linear layers and attention as ops; only the norms' weights are its own."""

    def __init__(self, decoder: Decoder) -> None:
        """The layers of ``decoder``."""
        super().__init__()
        self._decoder = decoder
        self._widths = [
            {name: getattr(layer, name).weight.shape[0] for name in PROJECTIONS} for layer in decoder.layers
        ]
        self.norms = nn.ParameterList()  # in the order in which forward takes them
        for layer in decoder.layers:
            self.norms.extend((layer.input_norm, layer.post_norm, *(layer.qk_norm or ())))
        self.norms.append(decoder.final_norm)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, number: Tensor) -> Tensor:
        """See ``Decoder.run_layers``; ``number`` is that of the :class:`~alorakit.engine.compiled_ops.Step`."""
        norms = iter(self.norms)
        layers = []
        for index, (layer, widths) in enumerate(zip(self._decoder.layers, self._widths, strict=True)):
            input_norm, post_norm = next(norms), next(norms)
            qk_norm = None if layer.qk_norm is None else (next(norms), next(norms))
            linears = {name: LinearOp(number, index, name, width) for name, width in widths.items()}
            layers.append(DecoderLayer(input_norm=input_norm, post_norm=post_norm, qk_norm=qk_norm, **linears))
        decoder = replace(self._decoder, layers=layers, final_norm=next(norms))
        return decoder.run_layers(x, cos, sin, AttendOp(number), None)
