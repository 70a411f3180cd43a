"""``holdfast zoo``."""


def zoo() -> None:
    """The trained embedders that come with a checkout; zoo:NAME stands for one wherever a run or model is named."""
    from holdfast.cli import display  # noqa: PLC0415
    from holdfast.export.source import results_of  # noqa: PLC0415
    from holdfast.models.zoo import find, home, names  # noqa: PLC0415
    from holdfast.report.tables import format_number  # noqa: PLC0415
    from holdfast.runs.folder import Run  # noqa: PLC0415

    rows = []
    for name in names():
        run = Run(find(name))
        config, results = run.config(), results_of(run, "last")
        figures = {key: results[0].number(key) if results else None for key in ("R@1", "ERS")}
        shown = ["–" if value is None else format_number(key, value) for key, value in figures.items()]
        verdict = results[0].verdict if results else "not evaluated"
        size = (run.folder / "model.safetensors").stat().st_size
        rows.append([f"zoo:{name}", config.data.name, config.recipe, *shown, verdict, f"{size / 1e6:.1f} MB"])
    display.table(f"the zoo in {home()}", ["name", "data", "recipe", "R@1", "ERS", "verdict", "weights"], rows)
