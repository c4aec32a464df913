"""`python -m service.cli`: the command without its entry point, as the demo starts its own service."""

from service.cli.app import main

main()
