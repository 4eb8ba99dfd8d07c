"""The console: pages for people on the private listener, made here as HTML, that need nothing from another host."""
