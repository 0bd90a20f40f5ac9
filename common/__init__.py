"""Ground floor: files, text, records, errors. Imports no torch and no Hydra."""
