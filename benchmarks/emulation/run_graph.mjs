// Runs an ONNX graph on the tensors of a safetensors file with onnxruntime-web.
// node run_graph.mjs LIBRARY GRAPH INPUTS OUTPUTS OPTIONS

import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";

const [library, graph, inputsFile, outputsFile, options] = process.argv.slice(2);

// safetensors name, ONNX name, array of the values (16-bit floats as bit patterns)
const KINDS = [
  ["F32", "float32", Float32Array],
  ["F16", "float16", Uint16Array],
  ["I64", "int64", BigInt64Array],
  ["I32", "int32", Int32Array],
  ["I8", "int8", Int8Array],
  ["U8", "uint8", Uint8Array],
];

function readTensors(file, Tensor) {
  const bytes = readFileSync(file);
  const start = 8 + Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.subarray(8, start).toString("utf8"));
  const feeds = {};
  for (const [name, { dtype, shape, data_offsets: [from, to] }] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const [, type, Values] = KINDS.find(([stored]) => stored === dtype);
    const copy = new Uint8Array(bytes.subarray(start + from, start + to)); // aligned
    feeds[name] = new Tensor(type, new Values(copy.buffer), shape);
  }
  return feeds;
}

function writeTensors(file, tensors) {
  const header = {};
  const parts = [];
  let offset = 0;
  for (const [name, tensor] of Object.entries(tensors)) {
    const [dtype] = KINDS.find(([, type]) => type === tensor.type);
    const { buffer, byteOffset, byteLength } = tensor.data;
    parts.push(Buffer.from(buffer, byteOffset, byteLength));
    header[name] = { dtype, shape: tensor.dims, data_offsets: [offset, offset + byteLength] };
    offset += byteLength;
  }
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(file, Buffer.concat([length, text, ...parts]));
}

const ort = await import(pathToFileURL(join(library, "dist", "ort.node.min.mjs")));
ort.env.wasm.numThreads = 1;
ort.env.logLevel = "error";
// Two graphs may share one weights file: whatever lies beside the graph is offered.
const folder = dirname(graph);
const weights = readdirSync(folder).filter((file) => file.endsWith(".onnx.data"));
const session = await ort.InferenceSession.create(readFileSync(graph), {
  executionProviders: ["wasm"],
  externalData: weights.map((path) => ({ path, data: readFileSync(join(folder, path)) })),
  ...JSON.parse(options),
});
writeTensors(outputsFile, await session.run(readTensors(inputsFile, ort.Tensor)));
