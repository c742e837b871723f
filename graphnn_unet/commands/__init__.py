"""One file a command: arguments in, one function call, exit status out."""
