"""The MACE forward pass in plain torch operations.

The modules mirror the names and shapes of mace-torch's state dict, so that
`torch.func.functional_call` with a dict of its tensors gives the energy, and derivatives with
respect to the tensors come back under their own names. Node features are lists with one tensor
`(nodes, 2l+1, channels)` per irrep.

What a model is, and the whole of it:

    settings         every choice that is not a tensor
    tensors          names and shapes of the tensors that settings ask for
    mace             the energies of the atoms

Its layers:

    edges            what the layers need to know of the edges
    geometry         lengths and spherical harmonics of the edges
    harmonics        real spherical harmonics of unit vectors
    radial           radial bases, cutoff, distance transforms, radial networks
    repulsion        Ziegler-Biersack-Littmark pair repulsion
    embedding        extra features such as total charge and spin
    linear           equivariant linear maps, and linear maps chosen by the element
    interaction      the six interaction blocks
    convolution      messages summed over neighbours: which couplings there are
    messages         messages: formulas of their derivatives
    message_passing  messages: what is computed when, and what is kept
    density          learnt density of neighbours
    contraction      symmetric contraction: many-body products of the messages
    polynomial       symmetric contraction: the polynomials and their derivatives
    readout          energies from node features
    activation       activation functions and their derivatives

And what they are made with:

    jets             a function of one variable carried with its derivatives
    local            functions of a few numbers, applied to every point
    concatenation    joining and splitting, each the derivative of the other
    blocks           blocks of nodes that fit the cache
"""

from mace_functional.engine.mace import Mace
from mace_functional.engine.settings import MaceSettings

__all__ = ["Mace", "MaceSettings"]
