"""The nouns of mudanza: frozen dataclasses, standard library only, no I/O and no clock."""
