"""MACE models: the energy in plain torch operations, and reading and writing of models.

Submodules and tensors have the names and shapes of mace-torch's state dict.
`torch.func.functional_call` with a dict of these tensors gives the energy, and derivatives by the
tensors have their names as keys. Node features are lists of tensors (nodes, 2l+1, channels), one
for each irrep.

The model as a whole:

    loading              `load_model`: models by name, file or mace-torch module
    model                `MaceModel`: parameters, settings, energies of structures
    evaluation           evaluation with given parameters, after a check of their names and shapes
    skeleton             copies of a module that share its tensors, one for each call
    settings             all settings that are not tensors
    irreps               irreps of O(3) and their sums, in e3nn's notation
    features             extra features of structures, such as total charge and spin
    tensors              names and shapes of the tensors of a model, from its settings
    energies             the energies of the atoms
    model_file           models in safetensors files
    model_check          checks of a model that was read
    wave_hessian         the Hessian at a wave vector, from one cell
    subnormal            replacement of weights below the normal floating-point range by zero
    mace_torch           reading and writing of mace-torch checkpoints

The layers:

    edges                edges of a structure, which every layer reads
    edge_coordinates     lengths and spherical harmonics as functions of points and cell
    edge_geometry        lengths and spherical harmonics as functions of edge vectors
    harmonics            real spherical harmonics of unit vectors
    radial_embedding     transform, basis and cutoff function of a length
    distance_transforms  lengths measured by the covalent radii of both atoms
    radial_bases         Bessel, Gaussian and Chebyshev functions of a length
    cutoff               the polynomial cutoff function
    radial_inputs        inputs of a radial network
    radial_network       network from radial inputs to the radial weights of the edges
    radial_function      embedding and network together: radial weights as a function of lengths
    repulsion            Ziegler-Biersack-Littmark pair repulsion
    embedding            embedding of extra features such as total charge and spin
    linear               equivariant linear maps, for all elements or one for each
    interaction          the six interaction blocks
    convolution          couplings of the messages that are summed over neighbours
    layer_messages       messages as a function of points, cell and features, with rules
    edge_arguments       chain rule from points and cell to lengths and couplings
    messages             formulas of the messages and their derivatives
    messages_along       their derivatives as the structure moves along a vector
    message_passing      evaluation of these formulas, slice by slice of the nodes
    dense_messages       derivatives of the messages as matrices between all points
    waves                batches of Bloch waves, as pairs of real vectors
    density              the learnt density of neighbours
    contraction          symmetric contraction: many-body products of the messages
    polynomial           symmetric contraction: the polynomials and their derivatives
    readout              energies from node features
    activation           activation functions and their derivatives
"""
