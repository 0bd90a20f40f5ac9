"""Labeling images with what train.py or export.py made. Imports torch for a checkpoint alone, not for an ONNX file."""
