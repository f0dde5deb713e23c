"""Loading: where models come from, which are refused and how, and what becomes of their tensors."""

from __future__ import annotations

import copy
import io
import os
import pickle
import re
import subprocess
import sys
import types
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import e3nn.util.jit
import numpy as np
import pytest
import torch
from mace import modules
from ase import Atoms
from e3nn import nn as e3nn_nn
from e3nn import o3
from mace.calculators import MACECalculator, foundations_models
from mace.modules.lora import inject_LoRAs
from models import ELEMENTS, build, crystal, float64_default, molecule
from torch import Tensor, nn
from torch.func import grad_and_value

import mace_functional as mf

ENERGY, FORCES = 1e-9, 1e-9
"""Tolerances in eV per atom and eV/Å."""


@pytest.fixture(scope="module")
def module() -> nn.Module:
    """One model for tests that leave it as it is."""
    return build(scripted=True)


def evaluate(model: mf.MaceModel, atoms: Atoms, params: Any = None) -> tuple[Tensor, Tensor]:
    """Energy and forces."""
    s = mf.from_ase(atoms, model)
    energy = mf.energy_fn(model, s.graph)
    gradient, value = grad_and_value(energy)(s.positions, s.cell, params or model.params)
    return value, -gradient


def assert_equal_to_mace_torch(model: mf.MaceModel, module: nn.Module, params: Any = None) -> None:
    """The same energies and forces as the module has in mace-torch."""
    with float64_default():
        calc = MACECalculator(models=module, device="cpu", default_dtype="float64", head=model.head)
        for atoms in molecule(), crystal():
            calc.calculate(atoms)
            energy, forces = evaluate(model, atoms, params)
            expected = torch.tensor(calc.results["forces"])
            assert expected.norm() > 1e-3
            assert abs(energy.item() - calc.results["energy"]) < ENERGY * len(atoms)
            assert (forces - expected).abs().max() < FORCES


# Where models come from.


def test_module_file_and_path_give_the_same_model(module, tmp_path, monkeypatch):
    torch.save(module, tmp_path / "ours.model")
    monkeypatch.chdir(tmp_path)
    expected = mf.load_model(module)
    for source in tmp_path / "ours.model", str(tmp_path / "ours.model"), "ours.model":
        found = mf.load_model(source)
        assert found.settings == expected.settings
        assert found.params.keys() == expected.params.keys()
        assert all(torch.equal(found.params[k], v) for k, v in expected.params.items())


def test_model_tells_elements_cutoff_dtype_and_device(module):
    model = mf.load_model(module)
    assert model.atomic_numbers == ELEMENTS
    assert (model.cutoff, model.dtype, model.device) == (4.0, torch.float64, torch.device("cpu"))
    assert mf.load_model(module, dtype=torch.float32).dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("smal", "'small'"),
        ("medium_mpa_0", "'medium-mpa-0'"),
        ("MEDIUM-MPA-0", "'medium-mpa-0'"),
        ("MACE-OFF23_small", "'off-small'"),
        ("omol-xl", "'omol-extra_large'"),
        ("embeded", "'embedded'"),
    ],
)
def test_unknown_name_is_refused_with_what_was_meant(name, meant):
    with pytest.raises(ValueError, match=f"{name!r} is neither a file nor the name") as error:
        mf.load_model(name)
    question, known = str(error.value).split("? Known names: ")
    assert f"; did you mean {meant}" in question
    names = {"embedded", "small", "mh-1", "off-large", "omol-extra_large", "anicc"}
    assert names <= set(known.split(", "))


def test_unknown_name_like_no_other_is_refused_in_whole_sentences():
    with pytest.raises(ValueError, match=r"nor the name of a model\. Known names: embedded, small"):
        mf.load_model("qqqqqqqq")


@pytest.mark.parametrize("path", ["nowhere.model", "folder/nowhere", Path("nowhere.model")])
def test_missing_file_is_named(path):
    with pytest.raises(ValueError, match=f"there is no checkpoint file '{path}'"):
        mf.load_model(path)


def test_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is a folder, not a checkpoint file"):
        mf.load_model(tmp_path)


def test_folder_does_not_hide_a_model_of_its_name(module, cache, tmp_path, monkeypatch):
    torch.save(module, cache / CACHED["small"])
    for name in "small", "embedded":
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert mf.load_model("small").settings == mf.load_model(module).settings
    assert mf.load_model("embedded").cutoff > 0


@pytest.mark.parametrize("source", [None, 1, {"r_max": 4.0}, ["small"], b"small"], ids=type)
def test_sources_of_other_kinds_are_refused_with_what_is_accepted(source):
    with pytest.raises(TypeError) as error:
        mf.load_model(source)
    accepted = "the name of a model, the path of a file or a mace-torch module"
    assert str(error.value) == f"load_model takes {accepted}, not {type(source).__name__}"


NOT_CHECKPOINTS = {
    "empty": b"",
    "CIF": b"data_RSM0004\n_cell_length_a 7.0\n",
    "POSCAR that starts with F": b"Fe2 O3\n1.0\n5 0 0\n0 5 0\n0 0 5\nFe O\n2 3\nDirect\n",
    "POSCAR that starts with I": b"In As\n1.0\n5 0 0\n0 5 0\n0 0 5\nIn As\n1 1\nDirect\n",
    "web page": b"<!DOCTYPE html>\n<html>Not found</html>\n",
    "LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "pickle": pickle.dumps([1, 2]),
    "zip archive": b"PK\x03\x04",
}


@pytest.mark.parametrize("content", NOT_CHECKPOINTS.values(), ids=NOT_CHECKPOINTS)
def test_file_that_is_not_a_checkpoint_is_named(content, tmp_path):
    path = tmp_path / "some.file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"some\.file is not a mace-torch checkpoint: ."):
        mf.load_model(path)


def test_truncated_checkpoint_is_named(module, tmp_path):
    path = tmp_path / "cut.model"
    torch.save(module, path)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ValueError, match=r"cut\.model is not a mace-torch checkpoint: ."):
        mf.load_model(path)


@pytest.mark.parametrize("error", [PermissionError, OSError])
def test_file_that_cannot_be_read_is_not_called_no_checkpoint(module, error, tmp_path, monkeypatch):
    def refuse(path: Path, **options: Any) -> None:
        raise error(13, "Permission denied", str(path))

    torch.save(module, tmp_path / "closed.model")
    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(error, match=r"Permission denied: .*closed\.model") as raised:
        mf.load_model(tmp_path / "closed.model")
    assert "checkpoint" not in str(raised.value)


@pytest.mark.parametrize("content", ["state dict", "training checkpoint"])
def test_file_with_a_dict_is_refused_with_what_to_give_instead(module, content, tmp_path):
    state = module.state_dict()
    torch.save(state if content == "state dict" else {"model": state, "epoch": 3}, tmp_path / "x")
    with pytest.raises(ValueError, match=r"holds a dict .* give the '\.model' file"):
        mf.load_model(tmp_path / "x")


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.complex128, "float16", "double"]
)
def test_dtypes_other_than_single_and_double_precision_are_refused(module, dtype):
    with pytest.raises(ValueError, match=r"dtype must be one of float64, float32, not "):
        mf.load_model(module, dtype=dtype)


# Heads.


def test_only_head_is_chosen_whatever_its_name():
    assert mf.load_model(build(heads=["DFT"])).head == "DFT"


@pytest.mark.parametrize("default", ["default", "Default"])
def test_head_named_default_is_chosen_among_several(default):
    module = build(heads=["pt_head", default])
    model = mf.load_model(module)
    assert model.head == default
    assert_equal_to_mace_torch(model, module)


def test_several_heads_without_a_default_have_to_be_chosen_from():
    module = build(heads=["PBE", "r2SCAN"])
    with pytest.raises(ValueError, match=r"choose a head with head=.* heads are PBE, r2SCAN"):
        mf.load_model(module)
    with pytest.raises(ValueError, match="no head 'pbe'; its heads are PBE, r2SCAN"):
        mf.load_model(module, head="pbe")
    assert mf.load_model(module, head="r2SCAN").head == "r2SCAN"


# What is refused.


@pytest.mark.parametrize("name", ["PolarMACE", "MACELES", "MagneticMACE", "MACEFuture"])
@pytest.mark.parametrize("as_file", [True, False], ids=["file", "module"])
def test_classes_with_another_energy_are_refused_by_name(name, as_file, tmp_path, monkeypatch):
    cls = type(name, (modules.ScaleShiftMACE,), {"__module__": __name__})
    monkeypatch.setattr(sys.modules[__name__], name, cls, raising=False)
    source = cls.__new__(cls)
    nn.Module.__init__(source)
    if as_file:
        torch.save(source, tmp_path / "m.model")
        source = tmp_path / "m.model"
    with pytest.raises(TypeError, match=f"models of class {name} are not supported: ."):
        mf.load_model(source)


@pytest.mark.parametrize(
    "name",
    [
        "EnergyDipolesMACE",
        pytest.param("AtomicDipolesMACE", marks=pytest.mark.slow),
        pytest.param("AtomicDielectricMACE", marks=pytest.mark.slow),
    ],
)
def test_dipole_models_are_refused_by_name(name):
    kinds = modules.interaction_classes
    with float64_default():
        module = getattr(modules, name)(
            r_max=4.0,
            num_bessel=5,
            num_polynomial_cutoff=5,
            max_ell=2,
            interaction_cls=kinds["RealAgnosticResidualInteractionBlock"],
            interaction_cls_first=kinds["RealAgnosticInteractionBlock"],
            num_interactions=2,
            num_elements=len(ELEMENTS),
            hidden_irreps=o3.Irreps("4x0e + 4x1o + 4x2e"),
            MLP_irreps=o3.Irreps("4x0e + 4x1o + 4x2e"),
            avg_num_neighbors=7.0,
            atomic_numbers=list(ELEMENTS),
            correlation=2,
            gate=torch.nn.functional.silu,
            atomic_energies=np.zeros(len(ELEMENTS)) if name == "EnergyDipolesMACE" else None,
        )
    with pytest.raises(TypeError, match=f"models of class {name} are not supported: .*dipoles"):
        mf.load_model(module)


@pytest.mark.parametrize("name", ["polar-1-s", "polar-1-m", "polar-1-l"])
def test_polar_foundation_models_are_refused_before_they_are_downloaded(name):
    with pytest.raises(TypeError, match=f"'{name}' is not supported: it is a polar model"):
        mf.load_model(name)


@pytest.mark.parametrize("source", [torch.ones(3), [1, 2], nn.Linear(2, 3)], ids=type)
def test_objects_of_other_kinds_in_a_file_are_refused_by_name(source, tmp_path):
    torch.save(source, tmp_path / "x")
    with pytest.raises(TypeError, match=f"models of class {type(source).__name__} are not"):
        mf.load_model(tmp_path / "x")


def test_torchscript_is_refused(tmp_path):
    compiled = e3nn.util.jit.compile(build(num_interactions=1))
    with pytest.raises(TypeError, match="compiled to TorchScript, which gives wrong second"):
        mf.load_model(compiled)
    compiled.save(tmp_path / "compiled.model")
    with pytest.raises(TypeError, match="compiled to TorchScript"):
        mf.load_model(tmp_path / "compiled.model")


def test_unknown_blocks_are_refused_by_name():
    class NewInteractionBlock(modules.RealAgnosticResidualInteractionBlock):
        pass

    module = build()
    module.interactions[1].__class__ = NewInteractionBlock
    with pytest.raises(TypeError, match="blocks of class NewInteractionBlock are not supported"):
        mf.load_model(module)


def test_unknown_activations_are_refused_by_name():
    module = build(gate=torch.nn.functional.softplus)
    with pytest.raises(TypeError, match=r"the activation function .*softplus.* is not supported"):
        mf.load_model(module)


# Foundation models.

CACHED = {
    "small": "20231210mace128L0_energy_epoch249model",
    "medium-omat-0": "maceomat0mediummodel",
    "off-small": "MACE-OFF23_small.model",
}
"""Names of foundation models and of the files that mace-torch keeps them in."""


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of mace-torch, and no network."""

    def no_network(*args: Any, **kwargs: Any) -> None:
        raise urllib.error.URLError("no network in this test")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(foundations_models, "module_dir", str(tmp_path / "package"))
    monkeypatch.setattr(foundations_models, "local_model_path", str(tmp_path / "none"))
    (tmp_path / "mace").mkdir()
    return tmp_path / "mace"


@pytest.mark.parametrize(("name", "file"), CACHED.items(), ids=CACHED)
def test_foundation_model_is_loaded_by_name_from_the_cache(name, file, module, cache, capsys):
    torch.save(module, cache / file)
    model = mf.load_model(name)
    assert capsys.readouterr().out == ""
    expected, _ = evaluate(mf.load_model(module), molecule())
    assert torch.equal(evaluate(model, molecule())[0], expected)


def test_anicc_is_loaded_from_where_mace_torch_keeps_it(module, cache):
    folder = cache.parent / "package" / "foundations_models"
    folder.mkdir(parents=True)
    torch.save(module, folder / "ani500k_large_CC.model")
    assert mf.load_model("anicc").settings == mf.load_model(module).settings


def test_omol_is_loaded_with_its_omol_head_unless_another_is_given(cache):
    module = build(heads=["omat", "omol"])
    torch.save(module, cache / "MACE-omol-0-extra-large-1024.model")
    assert mf.load_model("omol-extra_large").head == "omol"
    assert mf.load_model("omol-extra_large", head="omat").head == "omat"


WANTED = {
    "small": "mace_mp_0/2023-12-10-mace-128-L0_energy_epoch-249.model",
    "medium-mpa-0": "mace_mpa_0/mace-mpa-0-medium.model",
    "medium-omat-0": "mace_omat_0/mace-omat-0-medium.model",
    "mh-1": "mace_mh_1/mace-mh-1.model",
    "off-small": "mace_off23/MACE-OFF23_small.model",
    "omol-extra_large": "mace_omol_0/MACE-omol-0-extra-large-1024.model",
    "anicc": "foundations_models/ani500k_large_CC.model",
}
"""Names of foundation models and how their addresses end."""


@pytest.mark.parametrize(("name", "address"), WANTED.items(), ids=WANTED)
def test_no_network_is_reported_with_the_address_the_place_and_the_way_on(name, address, cache):
    with pytest.raises(ConnectionError) as error:
        mf.load_model(name)
    message = str(error.value)
    assert f"'{name}' could not be downloaded" in message
    assert "no network in this test" in message
    assert re.search(rf"https://\S+/{re.escape(address)},", message)
    folder = cache.parent / "package" / "foundations_models" if name == "anicc" else cache
    assert f"kept as {folder}{os.sep}" in message
    for way_on in 'load_model("embedded")', "--model embedded", "path of a checkpoint":
        assert way_on in message
    assert list(cache.iterdir()) == []


def test_download_that_is_no_model_is_reported_with_the_file_to_delete(cache, monkeypatch):
    page = b"<html>Too many requests</html>"

    def web_page(*args: Any, **kwargs: Any) -> Any:
        answer = io.BytesIO(page)
        answer.headers = {"Content-Length": len(page)}
        answer.info = lambda: "Content-Type: text/html"
        return answer

    monkeypatch.setattr(urllib.request, "urlopen", web_page)
    for name in "small", "off-small":
        file = cache / CACHED[name]
        with pytest.raises(ValueError, match=f"'{name}' is damaged: delete {file} and it is down"):
            mf.load_model(name)
        assert file.read_bytes() == page


def test_broken_file_in_the_cache_is_reported_as_the_file_to_delete(cache):
    file = cache / CACHED["small"]
    file.write_bytes(b"<html>Too many requests</html>")
    with pytest.raises(ValueError, match=f"'small' is damaged: delete {file} and it is downloaded"):
        mf.load_model("small")


# What becomes of the tensors.


def test_params_are_the_floating_point_tensors_of_the_state_dict_under_their_names(module):
    model = mf.load_model(module)
    state = {k: v for k, v in module.state_dict().items() if v.is_floating_point()}
    assert list(model.params) == list(state)
    for name, tensor in state.items():
        assert torch.equal(model.params[name], tensor)
        assert not model.params[name].requires_grad
        # An empty tensor has no memory to share.
        assert tensor.numel() == 0 or model.params[name].data_ptr() != tensor.data_ptr()


def test_every_tensor_of_params_is_registered_on_the_module_and_no_other(module):
    model = mf.load_model(module)
    registered = dict(model.module.named_buffers(remove_duplicate=False))
    assert list(model.module.parameters()) == []
    assert registered.keys() == model.params.keys()
    assert all(registered[name] is tensor for name, tensor in model.params.items())


def test_original_is_left_as_it_was(module):
    before = copy.deepcopy(module.state_dict())
    flags = [(p.requires_grad, p.grad) for p in module.parameters()]
    model = mf.load_model(module, dtype=torch.float32)
    evaluate(model, molecule())
    assert torch.get_default_dtype() == torch.float32
    after = module.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[k], v) and after[k].dtype == v.dtype for k, v in before.items())
    assert [(p.requires_grad, p.grad) for p in module.parameters()] == flags
    assert module.training


def reachable(thing: Any, seen: set[int]) -> Iterator[Any]:
    """Everything that an object holds: attributes, entries, closures and arguments of functions."""
    if id(thing) in seen or isinstance(thing, (type, types.ModuleType, str, Tensor)):
        return
    seen.add(id(thing))
    yield thing
    held: list[Any] = list(getattr(thing, "__dict__", {}).values())
    if isinstance(thing, dict):
        held += [*thing.keys(), *thing.values()]
    elif isinstance(thing, (list, tuple, set, frozenset)) and not isinstance(thing, o3.Irrep):
        held += thing
    elif isinstance(thing, types.FunctionType):
        held += [cell.cell_contents for cell in thing.__closure__ or ()]
        held += [*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()]
    elif isinstance(thing, types.MethodType):
        held += [thing.__self__, thing.__func__]
    for one in held:
        yield from reachable(one, seen)


def is_foreign(thing: Any) -> bool:
    """TorchScript, or a module of mace-torch or e3nn."""
    scripted = isinstance(thing, (torch.jit.ScriptModule, torch.jit.ScriptFunction))
    package = type(thing).__module__.partition(".")[0]
    return scripted or (isinstance(thing, nn.Module) and package in ("mace", "e3nn"))


def test_nothing_of_torchscript_mace_torch_or_e3nn_computes_in_the_module(module):
    assert any(map(is_foreign, reachable(module, set())))
    model = mf.load_model(module)
    energy = mf.energy_fn(model, mf.from_ase(molecule(), model).graph)
    assert not [x for x in reachable([model.module, energy], set()) if is_foreign(x)]


ROUND_TRIPS = {
    "as MACE-MP-0": {
        "interaction_cls_first": "RealAgnostic",
        "correlation": 3,
        "max_ell": 3,
        "hidden_irreps": "6x0e + 6x1o",
    },
    "as MACE-MPA-0, two heads": {
        "interaction_cls_first": "RealAgnosticDensity",
        "interaction_cls": "RealAgnosticDensityResidual",
        "distance_transform": "Agnesi",
        "pair_repulsion": True,
        "heads": ["other", "default"],
    },
    "non-linear, Soft, readout with biases": {
        "interaction_cls_first": "RealAgnosticResidualNonLinear",
        "interaction_cls": "RealAgnosticResidualNonLinear",
        "distance_transform": "Soft",
        "radial_type": "gaussian",
        "apply_cutoff": False,
        "readout_cls": modules.NonLinearBiasReadoutBlock,
    },
    "unscaled, attention, charge and spin": {
        "interaction_cls": "RealAgnosticAttResidual",
        "scale_shift": False,
        "use_embedding_readout": True,
        "embedding_specs": {
            "total_charge": {"type": "continuous", "per": "graph", "in_dim": 1, "emb_dim": 3},
            "total_spin": {
                "type": "categorical",
                "per": "graph",
                "num_classes": 3,
                "emb_dim": 3,
            },
        },
    },
}


@pytest.mark.parametrize("settings", ROUND_TRIPS.values(), ids=ROUND_TRIPS)
def test_params_changed_here_load_back_into_mace_torch_and_give_the_same_energy(settings):
    module = build(**settings)
    model = mf.load_model(module)
    torch.manual_seed(5)
    changed = {
        # The cutoff radius belongs to the neighbour list.
        name: p if name.endswith("r_max") else p * (1 + 0.05 * torch.randn_like(p))
        for name, p in model.params.items()
    }
    before, _ = evaluate(model, molecule())
    after, _ = evaluate(model, molecule(), changed)
    assert abs(after - before) > 1e-2
    missing, unexpected = module.load_state_dict(changed, strict=False)
    assert unexpected == []
    assert not any(module.state_dict()[name].is_floating_point() for name in missing)
    assert_equal_to_mace_torch(model, module, changed)


# Models that wrap, accelerate or predate plain weights.


@pytest.mark.parametrize(
    "kind",
    [
        "RealAgnosticResidual",
        pytest.param("RealAgnosticResidualNonLinear", marks=pytest.mark.slow),
    ],
)
def test_low_rank_adaptations_are_merged(kind):
    module = build(interaction_cls=kind, interaction_cls_first=kind)
    plain = mf.load_model(module)
    with float64_default():
        inject_LoRAs(module, rank=2, alpha=3)
    torch.manual_seed(1)
    for name, parameter in module.named_parameters():
        if "lora" in name:
            nn.init.normal_(parameter, std=0.3)
    model = mf.load_model(module)
    assert model.params.keys() == plain.params.keys()
    assert abs(evaluate(model, molecule())[0] - evaluate(plain, molecule())[0]) > 1e-3
    assert any("lora" in name for name in module.state_dict())
    assert_equal_to_mace_torch(model, module)


def without(module: nn.Module, *names: str) -> None:
    """Delete attributes, on the module and all parts, that older versions did not set."""
    for part in module.modules():
        for name in names:
            if name in vars(part):
                delattr(part, name)


def test_checkpoint_from_before_newer_settings_loads(tmp_path):
    module = build(interaction_cls_first="RealAgnostic")
    without(
        module,
        *("heads", "apply_cutoff", "edge_irreps", "use_reduced_cg", "use_agnostic_product"),
        *("use_so3", "use_last_readout_only", "use_edge_irreps_first", "lammps_mliap", "num_heads"),
        *("cueq_config", "oeq_config"),
    )
    # One number for each element, and not one row for each head.
    module.atomic_energies_fn.atomic_energies = module.atomic_energies_fn.atomic_energies[0]
    for contraction in module.products[0].symmetric_contractions.contractions:
        del contraction.weights_0_zeroed, contraction.weights_max_zeroed
    torch.save(module, tmp_path / "old.model")
    model = mf.load_model(tmp_path / "old.model")
    assert (model.head, model.params["atomic_energies_fn.atomic_energies"].ndim) == ("Default", 1)
    assert_equal_to_mace_torch(model, module)


def test_gate_of_e3nn_in_older_checkpoints_is_read():
    kind = "RealAgnosticResidualNonLinear"
    module = build(
        interaction_cls=kind,
        interaction_cls_first=kind,
        hidden_irreps="6x0e + 6x1o",
    )
    settings = mf.load_model(module).settings
    for interaction in module.interactions:
        new = interaction.equivariant_nonlin
        with float64_default():
            interaction.equivariant_nonlin = e3nn_nn.Gate(
                new.irreps_scalars,
                [torch.nn.functional.silu],
                new.irreps_gates,
                [torch.sigmoid] * len(new.irreps_gates),
                new.irreps_gated,
            )
    model = mf.load_model(module)
    scales = [i.gate_activation.scale for i in model.settings.interactions]
    assert scales == pytest.approx([i.gate_activation.scale for i in settings.interactions])
    assert_equal_to_mace_torch(model, module)


ACCELERATORS = ["cuequivariance_torch", "openequivariance"]


@pytest.mark.parametrize("package", ACCELERATORS)
def test_accelerated_checkpoint_without_the_package_says_what_to_install(
    package, tmp_path, monkeypatch
):
    accelerated = build()
    fake = types.ModuleType(package)
    fake.Linear = type("Linear", (nn.Module,), {"__module__": package})
    monkeypatch.setitem(sys.modules, package, fake)
    accelerated.products[0].linear = fake.Linear()
    torch.save(accelerated, tmp_path / "fast.model")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"fast\.model was saved with the package '{package}'"):
        mf.load_model(tmp_path / "fast.model")


def test_class_that_mace_torch_does_not_have_is_not_called_a_missing_package(tmp_path, monkeypatch):
    name = "mace.modules.of_another_version"
    newer = types.ModuleType(name)
    newer.NewMACE = type("NewMACE", (nn.Module,), {"__module__": name})
    monkeypatch.setitem(sys.modules, name, newer)
    torch.save(newer.NewMACE(), tmp_path / "new.model")
    monkeypatch.delitem(sys.modules, name)
    with pytest.raises((ImportError, ValueError), match=name) as error:
        mf.load_model(tmp_path / "new.model")
    assert "'mace', which is not installed" not in str(error.value)


@pytest.mark.parametrize("package", [modules, o3], ids=["mace", "e3nn"])
def test_class_that_an_installed_module_does_not_have_is_of_another_version(
    package, tmp_path, monkeypatch
):
    newer = type("NewMACE", (nn.Module,), {"__module__": package.__name__})
    monkeypatch.setattr(package, "NewMACE", newer, raising=False)
    torch.save(newer(), tmp_path / "new.model")
    monkeypatch.delattr(package, "NewMACE")
    with pytest.raises(ImportError, match=r"new\.model .*NewMACE.* saved with another version"):
        mf.load_model(tmp_path / "new.model")


ACCELERATED = {
    "residual": {},
    "reduced Clebsch-Gordan basis": {
        "use_reduced_cg": True,
        "correlation": 3,
        "max_ell": 1,
    },
    "density, ZBL, Agnesi": {
        "interaction_cls_first": "RealAgnosticDensity",
        "interaction_cls": "RealAgnosticDensityResidual",
        "pair_repulsion": True,
        "distance_transform": "Agnesi",
        "use_reduced_cg": True,
    },
    "non-linear, late cutoff": {
        "interaction_cls_first": "RealAgnosticResidualNonLinear",
        "interaction_cls": "RealAgnosticResidualNonLinear",
        "apply_cutoff": False,
    },
}


@pytest.mark.parametrize("layout", ["ir_mul", "mul_ir"])
@pytest.mark.parametrize("settings", ACCELERATED.values(), ids=ACCELERATED)
def test_cuequivariance_checkpoint_is_converted(settings, layout, tmp_path):
    pytest.importorskip("cuequivariance_torch")
    from mace.cli import convert_e3nn_cueq

    module = build(**settings)
    with float64_default():
        accelerated = convert_e3nn_cueq.run(module, layout=layout)
    torch.save(accelerated, tmp_path / "cueq.model")
    model = mf.load_model(tmp_path / "cueq.model")
    assert torch.get_default_dtype() == torch.float32
    assert_equal_to_mace_torch(model, accelerated)


@pytest.mark.slow
def test_import_of_mace_torch_says_nothing():
    done = subprocess.run(
        [sys.executable, "-c", "import mace_functional.mace.mace_torch.foundation"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
    )
    assert (done.stdout, done.stderr) == ("", "")
