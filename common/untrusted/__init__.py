"""Read untrusted files: nothing in them is executed, fills the memory or refers to a file elsewhere.

What a user types or writes under conf/ is trusted. Everything else that a run, an export or a person may have written is read
here, with one entry for each kind of file and a limit on its size:

- checkpoint, state dict: `tensors.load_tensors`; safetensors with the description in its header: `tensors.read_safetensors`
- description inside a checkpoint or an exported file: `description.check_schema`, `check_description`, `check_network`,
  `check_decision`
- saved configuration of a run: `saved_config.read_saved_config`, `read_saved_choices`
- record of a run: `json_files.read_json`, `to_type`
- CSV table: `tables.iterate_csv`, `OwnTable`
"""
