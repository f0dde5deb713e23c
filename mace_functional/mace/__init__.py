"""MACE: its energy in plain torch operations, and the files it is kept in.

The modules mirror the names and shapes of mace-torch's state dict, so that
`torch.func.functional_call` with a dict of its tensors gives the energy, and derivatives with
respect to the tensors come back under their own names. Node features are lists with one tensor
`(nodes, 2l+1, channels)` per irrep.

A model as a whole:

    loading              where models come from: `load_model`
    model                a model: parameters, settings, energies of structures
    evaluation           the one place that calls the model with parameters that are given
    skeleton             copies of the module without copies of its tensors: one for each call
    settings             every choice that is not a tensor
    irreps               irreps of O(3) and their sums, in e3nn's notation
    features             extra features of structures, such as total charge and spin
    tensors              names and shapes of the tensors that settings ask for
    energies             the energies of the atoms
    model_file           models in safetensors files
    model_check          checks of a model that was read
    subnormal            weights too small for fast arithmetic, set to zero
    mace_torch           reads the checkpoints of mace-torch

Its layers:

    edges                geometry of the edges that every layer reads
    edge_geometry        lengths and spherical harmonics of the edges
    harmonics            real spherical harmonics of unit vectors
    radial_embedding     transform, basis and cutoff function of a length
    distance_transforms  lengths measured by the covalent radii of both atoms
    radial_bases         Bessel, Gaussian and Chebyshev functions of a length
    cutoff               the function that lets edges end smoothly
    radial_inputs        inputs of a radial network
    radial_network       from the inputs of an edge to its weights
    radial_function      embedding and network together: weights of the edges
    repulsion            Ziegler-Biersack-Littmark pair repulsion
    embedding            extra features such as total charge and spin
    linear               equivariant linear maps, and linear maps chosen by the element
    interaction          the six interaction blocks
    convolution          messages summed over neighbours: which couplings there are
    messages             messages: formulas of their derivatives
    message_passing      messages: their operation; what is computed when, and kept
    density              learnt density of neighbours
    contraction          symmetric contraction: many-body products of the messages
    polynomial           symmetric contraction: the polynomials and their derivatives
    readout              energies from node features
    activation           activation functions and their derivatives
"""
