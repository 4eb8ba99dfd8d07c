"""`python -m whatsms_events` is the command `whatsms-events`."""

from whatsms_events.cli.app import main

if __name__ == "__main__":
    main()
