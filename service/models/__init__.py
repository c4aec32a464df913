"""The models resource: base models of the catalogue and what was tuned from them."""
