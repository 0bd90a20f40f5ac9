// Android. Copy model.tflite, labels.txt and the folder golden to app/src/main/assets; in build.gradle.kts:
//   implementation("com.google.ai.edge.litert:litert:1.4.2")    // or 2.1 and later, whose Interpreter runs on the CPU
//   Log.i("golden", Classifier(context).check())
import android.content.Context
import java.nio.ByteBuffer
import java.nio.ByteOrder
import org.json.JSONObject
import org.tensorflow.lite.Interpreter

class Classifier(private val context: Context) {
    val labels = read("labels.txt").decodeToString().trimEnd('\n').split("\n")
    private val interpreter = Interpreter(direct(read("model.tflite")))

    private fun read(name: String): ByteArray = context.assets.open(name).use { it.readBytes() }

    private fun direct(bytes: ByteArray): ByteBuffer =
        ByteBuffer.allocateDirect(bytes.size).order(ByteOrder.nativeOrder()).apply { put(bytes); rewind() }

    /** Takes S * S * 3 bytes, row by row, with red, green and blue of each pixel; returns a probability for each label. */
    fun probabilities(pixels: ByteArray): FloatArray {
        val output = arrayOf(FloatArray(labels.size))
        interpreter.run(direct(pixels), output)
        return output[0]
    }

    // Your own image: upright (EXIF), transparency on white, resized to S x S as "fit" in expected.json says.
    // Bitmap.createScaledBitmap and ResizeOp look at four pixels only and skip the rest of a large image, which changes the probabilities; OpenCV's
    // Imgproc.resize(..., Imgproc.INTER_AREA) uses all pixels. Then getPixels: red is (color shr 16).toByte(), and so on.

    /** Returns how many golden images agree with the machine that exported the model, with its fast or its plain kernels. */
    fun check(): String {
        val golden = JSONObject(read("golden/expected.json").decodeToString())
        val images = read("golden/images.bin")
        val expected = listOf("probabilities", "plain").map { golden.getJSONArray(it) }
        val tolerance = golden.getDouble("tolerance")
        val size = golden.getInt("image_size").let { it * it * 3 }
        val agree = (0 until images.size / size).count { n ->
            val found = probabilities(images.copyOfRange(n * size, (n + 1) * size))
            expected.any { rows ->
                found.indices.all { Math.abs(found[it] - rows.getJSONArray(n).getDouble(it)) <= tolerance }
            }
        }
        return "$agree of ${images.size / size} golden images agree; ${golden.getInt("needed")} have to"
    }
}
