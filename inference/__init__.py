"""Use a trained network: predict, export, explain, demo. Only a checkpoint needs torch, an ONNX file does not."""
