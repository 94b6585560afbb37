"""t-SNE clouds of close tokens (Figures 6 and 15)."""

from matplotlib.figure import Figure

from limelm.records import Records
from limelm.report.figures.palette import Palette
from limelm.report.figures.style import PAGE_WIDTH, by_model, new_figure, numbers, shown


def tsne(records: Records) -> Figure:
    """Draw t-SNE clouds: a row per model, a panel per layer, a color and marker per word."""
    models = list(by_model(records))
    words = list(dict.fromkeys(row["word"] for row in records))
    palette = Palette(words)
    columns = max(len({row["layer"] for row in rows}) for _, rows in models)
    width = min(2.4, (PAGE_WIDTH - 0.5) / columns)
    size = (0.5 + width * columns, 0.5 + (width + 0.25) * len(models))
    with new_figure(len(models), columns, figsize=size, squeeze=False) as (figure, grid):
        for row_of_panels, (model, rows) in zip(grid, models, strict=True):
            layers = sorted({row["layer"] for row in rows})
            row_of_panels[0].set_ylabel(shown(model, int(11 * width)), fontweight="bold")
            for axes in row_of_panels[len(layers) :]:
                axes.remove()
            for axes, layer in zip(row_of_panels, layers, strict=False):
                for word in words:
                    of_word = [row for row in rows if row["layer"] == layer and row["word"] == word]
                    axes.scatter(
                        numbers(of_word, "x"),
                        numbers(of_word, "y"),
                        s=11,
                        color=palette[word],
                        marker=palette.marker(word),
                        linewidths=0,
                        alpha=0.75,
                        label=shown(word),
                        rasterized=True,  # thousands of marks would make a heavy page
                    )
                axes.set_title(f"{_place(rows)} {layer}", fontsize=9, fontweight="normal")
                axes.set_xticks([])
                axes.set_yticks([])
                axes.grid(False)
        handles, labels = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=min(len(words), 8), markerscale=2)
    return figure


def _place(rows: Records) -> str:
    return "representation" if rows[0]["states"] == "hidden states" else "layer"
