"""`completion`: the script with which a shell completes our commands and options."""

from typing import Literal


def completion(shell: Literal["bash", "zsh", "fish"], /) -> int:
    """Print the script with which a shell completes commands, options and their values; it asks nothing of a service.

    Parameters
    ----------
    shell
        Which shell reads the script.
    """
    from whatsms_events.cli.app import app  # noqa: PLC0415 - that module finds this one by its name

    print(app.generate_completion(shell=shell))
    return 0
