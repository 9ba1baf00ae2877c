"""The `ingest` command."""

from encoder_service import terminal
from ingest.cli import duplicates, galleries, load, map, plan, quality

app = terminal.new_app("Load images into galleries and manage them.")

app.command("load")(load.load)
app.command("list")(galleries.list_galleries)
app.command("drop")(galleries.drop)
app.command("clean")(galleries.clean)
app.command("compact")(galleries.compact)
app.command("backup")(galleries.backup)
app.command("restore")(galleries.restore)
app.command("copy")(galleries.copy_gallery)
app.command("check")(quality.check)
app.command("evaluate")(quality.evaluate)
app.command("duplicates")(duplicates.duplicates)
app.command("map")(map.make_map)
app.command("plan")(plan.plan)


def main() -> None:
    """Run the command."""
    terminal.run(app)
