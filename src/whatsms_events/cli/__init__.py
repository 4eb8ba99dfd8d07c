"""The command line: `app` knows every command by name and imports a command's module when it is asked for."""
