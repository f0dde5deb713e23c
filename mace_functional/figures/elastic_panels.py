"""Figure of Young's modulus over all directions."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LightSource, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mace_functional.elasticity import ElasticConstants
from mace_functional.figures.axes import BLUE, ELEMENTS, RED, set_sizes, tidy

POLAR, AZIMUTHS = 61, 121
"""Numbers of polar angles and azimuths of the surface."""

COLOURS = "viridis"
"""Colours of small to large moduli."""


def young_figure(constants: ElasticConstants) -> Figure:
    """Draw Young's modulus over all directions: a surface, and its sections by three planes.

    The distance from the centre is the modulus under tension along that direction. A slab has the
    section by its own plane only.

    Args:
        constants: Result of `elastic_constants` for a crystal or a slab.

    Returns:
        The figure. `figure.axes` are the surface and the sections, and the colour scale; of a slab
        the section.

    Raises:
        ValueError: If the structure is not stable, or a rod.
    """
    if constants.dimensions == 1:
        raise ValueError("a rod has one direction, and no figure of directions")
    if constants.dimensions == 2:
        figure = Figure(figsize=(3.6, 3.4), layout="constrained")
        _draw_sections(figure.add_subplot(), constants)
        return figure
    figure = Figure(figsize=(7.6, 3.4), layout="constrained")
    surface = figure.add_subplot(1, 2, 1, projection="3d")
    _draw_sections(figure.add_subplot(1, 2, 2), constants)
    _draw_surface(surface, constants)
    return figure


def _draw_surface(axes, constants: ElasticConstants) -> None:  # type: ignore[no-untyped-def]
    # The surface ends just before the poles: a facet needs a normal, for its shade.
    polar = np.linspace(1e-3, np.pi - 1e-3, POLAR)
    azimuth = np.linspace(0, 2 * np.pi, AZIMUTHS)
    theta, phi = np.meshgrid(polar, azimuth, indexing="ij")
    n = np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], -1)
    moduli = constants.young_modulus(torch.as_tensor(n)).cpu().numpy()
    scale = Normalize(moduli.min(), moduli.max() + 1e-9 * moduli.max())
    points = np.moveaxis(moduli[..., None] * n, -1, 0)
    axes.plot_surface(
        *points,
        facecolors=colormaps[COLOURS](scale(moduli)),
        rstride=1,
        cstride=1,
        antialiased=False,
        rasterized=True,
        lightsource=LightSource(azdeg=300, altdeg=50),
    )
    largest = moduli.max()
    axes.set(xlim=(-largest, largest), ylim=(-largest, largest), zlim=(-largest, largest))
    axes.set_box_aspect((1, 1, 1))
    for name, axis in zip("xyz", (axes.xaxis, axes.yaxis, axes.zaxis), strict=True):
        axis.set_label_text(name, fontsize=9)
        axis.set_major_locator(MaxNLocator(4))
    axes.tick_params(labelsize=7)
    bar = axes.figure.colorbar(
        ScalarMappable(scale, colormaps[COLOURS]), ax=axes, shrink=0.6, pad=0.12
    )
    bar.ax.tick_params(labelsize=8)
    bar.set_label(f"Young's modulus ({constants.unit})", fontsize=9)


def _draw_sections(axes, constants: ElasticConstants) -> None:  # type: ignore[no-untyped-def]
    angle = torch.linspace(0, 2 * np.pi, 361, dtype=constants.axes.dtype)
    angle = angle.to(constants.axes.device)
    pairs = [(0, 1), (0, 2), (1, 2)] if constants.dimensions == 3 else [(0, 1)]
    for (i, j), colour in zip(pairs, (BLUE, RED, ELEMENTS[1]), strict=False):
        first, second = constants.axes[i], constants.axes[j]
        n = angle.cos()[:, None] * first + angle.sin()[:, None] * second
        modulus = constants.young_modulus(n)
        x, y = (modulus * f(angle) for f in (torch.cos, torch.sin))
        label = f"{'xyz'[i]}{'xyz'[j]} plane" if constants.dimensions == 3 else "plane of the slab"
        axes.plot(x.cpu(), y.cpu(), color=colour, lw=1.2, label=label)
    axes.set_aspect("equal")
    axes.axhline(0, color="0.85", lw=0.6, zorder=0)
    axes.axvline(0, color="0.85", lw=0.6, zorder=0)
    axes.set_xlabel(f"Young's modulus ({constants.unit})")
    axes.legend(fontsize=7, frameon=False, loc="center")
    tidy([axes])
    set_sizes(axes)
