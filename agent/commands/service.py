"""`vigil install-service`: the campaign goes on by itself after a reboot."""

from pathlib import Path

import click

from agent.commands.common import folder_of, home_option, show


@click.command("install-service")
@click.argument("file", type=click.Path(path_type=Path), metavar="CAMPAIGN.yaml")
@click.option("--remove", "is_removal", is_flag=True, help="Take away exactly what was written.")
@home_option
def install_service(file: Path, is_removal: bool, home: str | None) -> None:  # noqa: FBT001 - click passes flags by name
    """Let the campaign go on by itself after a reboot.

    Writes a LaunchAgent on macOS, a unit of systemd's user manager on Linux, and says what to type. A campaign that has
    ended, or that a person has stopped, is not taken up again.
    """
    from agent import service

    if is_removal:
        show(service.remove(file, folder_of(home) if home else None, service.here()))
        return
    from agent.campaign import load_campaign

    show(service.install(load_campaign(file), folder_of(home), service.here()))


service_commands = (install_service,)
