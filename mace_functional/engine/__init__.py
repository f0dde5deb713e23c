"""The MACE forward pass in plain torch operations.

The modules mirror the names and shapes of mace-torch's state dict, so that
`torch.func.functional_call` with a dict of its tensors gives the energy, and derivatives with
respect to the tensors come back under their own names. Node features are lists with one tensor
`(nodes, 2l+1, channels)` per irrep.

    harmonics     real spherical harmonics of the edge directions
    radial        radial bases, cutoff, distance transforms, radial networks
    repulsion     Ziegler-Biersack-Littmark pair repulsion
    linear        equivariant linear maps, and linear maps chosen by the element
    convolution   messages summed over neighbours
    contraction   symmetric contraction: many-body products of the messages
    interaction   the six interaction blocks
    readout       energies from node features
    embedding     extra features such as total charge and spin
    mace          the whole
"""

from mace_functional.engine.mace import Mace
from mace_functional.engine.settings import MaceSettings

__all__ = ["Mace", "MaceSettings"]
