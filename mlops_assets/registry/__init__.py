"""An evaluated run becomes one registered version: semantic version, tags, aliases, model card."""
