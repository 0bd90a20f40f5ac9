"""TensorFlow Lite's metadata in a file: which of its zipped files has the labels, and that its input is an image.

MediaPipe's tasks read it. The schema is metadata_schema.fbs of TensorFlow Lite, version 1.0.0; the numbers below are the places
of fields in its tables.
"""

from collections.abc import Sequence

BUFFER_NAME, IDENTIFIER = "TFLITE_METADATA", b"M001"
IMAGE_PROPERTIES, RGB, AXIS_LABELS = 2, 1, 2  # ContentProperties, ColorSpaceType, AssociatedFileType


def with_metadata(content: bytes, name: str, labels_file: str) -> bytes:
    """Return a LiteRT file (one image in, probabilities out) with metadata added.

    Args:
        name: of the model.
        labels_file: name of the file with the classes, which is packed into it afterwards.
    """
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = list(metadata(name, labels_file))
    entry.name, entry.buffer = BUFFER_NAME, len(model.buffers)
    model.buffers.append(buffer)
    kept = [each for each in model.metadata or [] if each.name not in (BUFFER_NAME, BUFFER_NAME.encode())]
    model.metadata = [*kept, entry]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def metadata(name: str, labels_file: str) -> bytes:
    """Return the FlatBuffer of a ModelMetadata."""
    import flatbuffers

    builder = flatbuffers.Builder()

    def table(n_fields: int, tables: dict[int, int], numbers: dict[int, int] | None = None) -> int:
        builder.StartObject(n_fields)
        for place, offset in tables.items():
            builder.PrependUOffsetTRelativeSlot(place, offset, 0)
        for place, number in (numbers or {}).items():
            builder.PrependUint8Slot(place, number, 0)
        return builder.EndObject()

    def vector(offsets: Sequence[int]) -> int:
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return builder.EndVector()

    text = builder.CreateString
    image = table(2, {}, {0: RGB})
    image_content = table(3, {1: image}, {0: IMAGE_PROPERTIES})
    given = table(7, {0: text("image"), 3: image_content})
    labels = table(5, {0: text(labels_file)}, {2: AXIS_LABELS})
    taken = table(7, {0: text("probabilities"), 6: vector([labels])})
    graph = table(10, {2: vector([given]), 3: vector([taken])})
    builder.Finish(table(8, {0: text(name), 3: vector([graph]), 7: text("1.0.0")}), file_identifier=IDENTIFIER)
    return bytes(builder.Output())
