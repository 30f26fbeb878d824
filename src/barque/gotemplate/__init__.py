"""Go's text/template: the command line formats its output with it, the engine the tags of log messages."""
