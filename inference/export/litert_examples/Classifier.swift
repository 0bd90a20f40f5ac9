// iOS. Add model.tflite, labels.txt, golden/images.bin and golden/expected.json to the target (as files, not as a folder
// reference); in the Podfile: pod 'TensorFlowLiteSwift'.    print(try Classifier().check())
import Foundation
import TensorFlowLite

struct Golden: Decodable {
    let image_size: Int
    let tolerance: Float
    let needed: Int
    let probabilities, plain: [[Float]]
}

final class Classifier {
    let labels: [String]
    private let interpreter: Interpreter

    init() throws {
        let text = try String(contentsOf: Classifier.file("labels.txt"), encoding: .utf8)
        labels = text.split(separator: "\n").map(String.init)
        interpreter = try Interpreter(modelPath: Classifier.file("model.tflite").path)
        try interpreter.allocateTensors()
    }

    static func file(_ name: String) -> URL { Bundle.main.url(forResource: name, withExtension: nil)! }

    /// Takes S * S * 3 bytes, row by row, with red, green and blue of each pixel; returns a probability for each label.
    func probabilities(_ pixels: Data) throws -> [Float] {
        try interpreter.copy(pixels, toInputAt: 0)
        try interpreter.invoke()
        return try interpreter.output(at: 0).data.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
    }

    // Your own image: upright (EXIF), transparency on white, resized to S x S as "fit" in expected.json says.
    // vImageScale_ARGB8888 with kvImageHighQualityResampling (Accelerate) uses all pixels when it shrinks an image; without that flag, or with
    // nearest neighbors, the probabilities change. Then drop alpha and keep red, green, blue.

    /// Returns how many golden images agree with the machine that exported the model, with its fast or its plain kernels.
    func check() throws -> String {
        let golden = try JSONDecoder().decode(Golden.self, from: Data(contentsOf: Classifier.file("expected.json")))
        let images = try Data(contentsOf: Classifier.file("images.bin"))
        let size = golden.image_size * golden.image_size * 3
        let agree = try golden.probabilities.indices.filter { n in
            let found = try probabilities(images.subdata(in: n * size..<(n + 1) * size))
            return [golden.probabilities[n], golden.plain[n]].contains { row in
                zip(found, row).allSatisfy { abs($0 - $1) <= golden.tolerance }
            }
        }
        return "\(agree.count) of \(golden.probabilities.count) golden images agree; \(golden.needed) have to"
    }
}
